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
	if id := sample(logits, Options{Temperature: 1, TopP: 1e-9}, 0.99); id != 1 {
		t.Errorf("a top-p of next to nothing: %d, want 1", id)
	}
	for _, temperature := range []float64{0, 1} {
		if id := sample(logits, Options{Temperature: temperature, Vocabulary: 1}, 0.5); id != 0 {
			t.Errorf("a vocabulary of one: %d, want 0", id)
		}
	}
	const n = 20000
	for _, c := range []struct {
		options Options
		kept    []int
	}{
		{Options{Temperature: 1}, []int{0, 1, 2, 3, 4}},
		{Options{Temperature: 0.5}, []int{0, 1, 2, 3, 4}},
		{Options{Temperature: 2, TopK: 3}, []int{1, 3, 4}},
		{Options{Temperature: 1, TopK: 1}, []int{1, 3}}, // equal ones stay together
		// The probabilities are 0.020, 0.396, 0.054, 0.396 and 0.146 of 1.011: 0.387, 0.774, 0.918, 0.980, 1 in order.
		{Options{Temperature: 1, TopP: 0.75}, []int{1, 3}},
		{Options{Temperature: 1, TopP: 0.8}, []int{1, 3, 4}},
		{Options{Temperature: 1, TopP: 0.95}, []int{1, 2, 3, 4}},
		// Of three tokens they are 0.422, 0.422 and 0.155: the mass that counts is that of what top-k has left.
		{Options{Temperature: 1, TopK: 3, TopP: 0.8}, []int{1, 3}},
	} {
		counts := make([]float64, len(logits))
		for i := range n {
			counts[sample(logits, c.options, (float64(i)+0.5)/n)]++
		}
		want, total := make([]float64, len(logits)), 0.0
		for _, i := range c.kept {
			want[i] = math.Exp(float64(logits[i]) / c.options.Temperature)
			total += want[i]
		}
		for i := range want {
			if got := counts[i] / n; math.Abs(got-want[i]/total) > 2.0/n {
				t.Errorf("%+v: token %d comes with probability %g, want %g", c.options, i, got, want[i]/total)
			}
		}
	}
}

// TestCandidates compares with the probabilities that TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper of
// Transformers 5.23 leave, one after the other.
func TestCandidates(t *testing.T) {
	logits := []float32{1.5, -0.25, 3, 0.5, 3, 2.25, -1, 2.25, 0, 1}
	for _, c := range []struct {
		temperature float64
		topK        int
		topP        float64
		want        []float64
	}{
		{1, 0, 1, []float64{0.0638946, 0.0111032, 0.2863557, 0.0235055, 0.2863557, 0.1352649, 0.0052448, 0.1352649, 0.0142568, 0.038754}},
		{0.7, 0, 1, []float64{0.0402523, 0.0033041, 0.3431005, 0.0096465, 0.3431005, 0.1175184, 0.0011317, 0.1175184, 0.0047224, 0.0197052}},
		{1, 3, 1, []float64{2: 0.3395894, 4: 0.3395894, 5: 0.1604107, 7: 0.1604107, 9: 0}},
		{1, 0, 0.9, []float64{0: 0.0704355, 2: 0.3156702, 4: 0.3156702, 5: 0.149112, 7: 0.149112, 9: 0}},
		{1, 0, 0.3, []float64{2: 0.5, 4: 0.5, 9: 0}},
		{1.3, 5, 0.8, []float64{2: 0.3201796, 4: 0.3201796, 5: 0.1798205, 7: 0.1798205, 9: 0}},
		{2, 7, 0.6, []float64{2: 0.2963333, 4: 0.2963333, 5: 0.2036667, 7: 0.2036667, 9: 0}},
	} {
		got := make([]float64, len(logits))
		ids, weights, total := candidates(logits, Options{Temperature: c.temperature, TopK: c.topK, TopP: c.topP})
		for i, id := range ids {
			got[id] = weights[i] / total
		}
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-7 {
				t.Errorf("temperature %g, top-k %d, top-p %g: token %d has probability %.7f, Transformers %.7f", c.temperature, c.topK, c.topP, i, got[i], c.want[i])
			}
		}
	}
}
