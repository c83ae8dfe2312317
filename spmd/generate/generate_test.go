package generate

import (
	"math"
	"testing"
)

func TestSample(t *testing.T) {
	logits := []float32{0, 3, 1, 3, 2}
	if id := sample(logits, Options{}, 0.99); id != 1 {
		t.Errorf("greedy: %d, want 1, the smaller of two equal ones", id)
	}
	if id := sample(logits, Options{Temperature: 1, TopK: 1}, 0.99); id != 1 {
		t.Errorf("top 1: %d, want 1", id)
	}
	if id := sample(logits, Options{Vocabulary: 1}, 0.5); id != 0 {
		t.Errorf("a vocabulary of one: %d, want 0", id)
	}
	const n = 20000
	for _, o := range []Options{{Temperature: 1}, {Temperature: 0.5}, {Temperature: 2, TopK: 3}} {
		counts := make([]float64, len(logits))
		for i := range n {
			counts[sample(logits, o, (float64(i)+0.5)/n)]++
		}
		want, total := make([]float64, len(logits)), 0.0
		for i, x := range logits {
			if o.TopK == 3 && (i == 0 || i == 2) {
				continue
			}
			want[i] = math.Exp(float64(x) / o.Temperature)
			total += want[i]
		}
		for i := range want {
			if got := counts[i] / n; math.Abs(got-want[i]/total) > 2.0/n {
				t.Errorf("%+v: token %d comes with probability %g, want %g", o, i, got, want[i]/total)
			}
		}
	}
}
