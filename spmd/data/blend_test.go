package data

import (
	"math"
	"strings"
	"testing"
)

// TestBlend checks that a blend takes the samples of each part in order and once, and its share at every point of the run.
func TestBlend(t *testing.T) {
	weights := []float64{5, 1, 2.5}
	b, err := newBlend(weights)
	if err != nil {
		t.Fatal(err)
	}
	next := make([]int64, len(weights))
	for i := range int64(2*blendPeriod + 100) {
		part, j := b.place(i)
		if j != next[part] {
			t.Fatalf("sample %d is number %d of part %d, want %d", i, j, part, next[part])
		}
		next[part]++
		for p, w := range weights {
			if off := float64(next[p]) - float64(i+1)*w/8.5; math.Abs(off) > 2 {
				t.Fatalf("after %d samples %d are from part %d, %.1f off its share", i+1, next[p], p, off)
			}
		}
		if i%9973 == 0 {
			for p := range weights {
				if got := b.share(p, i+1); got != next[p] {
					t.Fatalf("the share of part %d in %d samples is %d, want %d", p, i+1, got, next[p])
				}
			}
		}
	}
	if _, err := newBlend([]float64{1, 1e-6}); err == nil || !strings.Contains(err.Error(), "part 2") {
		t.Errorf("a weight of less than one sample: %v", err)
	}
}

// TestBlendedDataset mixes two sources, each with epochs of its own; what they hold out follows one after the other.
func TestBlendedDataset(t *testing.T) {
	o := Options{Parts: []Part{{Weight: 3, Paths: []string{"a"}}, {Weight: 1, Paths: []string{"b"}}}, SequenceLength: 4, ValidationSplit: 0.5}
	sources := func() []Source { return []Source{&counting{tokens: 34}, &counting{tokens: 18}} }
	d, err := New(sources(), o)
	if err != nil {
		t.Fatal(err)
	}
	// Parts of four samples and two: of 16 samples 12 are the first's, three epochs, and 4 the second's, two.
	counts := map[[2]int32]int{}
	for i := range int64(16) {
		part, _ := d.order.place(i)
		if err := d.sample(i); err != nil {
			t.Fatal(err)
		}
		counts[[2]int32{int32(part), d.row.ids[0]}]++
	}
	for key, want := range map[[2]int32]int{{0, 0}: 3, {0, 4}: 3, {0, 8}: 3, {0, 12}: 3, {1, 0}: 2, {1, 4}: 2} {
		if counts[key] != want {
			t.Errorf("sample %v came %d times, want %d", key, counts[key], want)
		}
	}
	if got := d.Summary(16); !strings.Contains(got, "75.0 % of the samples: the first 34 numbers, 17 of them used; 4 samples of 4 tokens; 3.00 epochs\n") ||
		!strings.Contains(got, "25.0 % of the samples: the first 18 numbers, 9 of them used; 2 samples of 4 tokens; 2.00 epochs") {
		t.Errorf("summary %q", got)
	}
	o.HeldOut = true
	held, err := New(sources(), o)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]int32, 8)
	for i := range got {
		if err := held.sample(int64(i)); err != nil {
			t.Fatal(err)
		}
		got[i] = held.row.ids[0]
	}
	for i, want := range []int32{17, 21, 25, 29, 9, 13, 17, 21} {
		if got[i] != want {
			t.Fatalf("held out are samples that begin with %v", got)
		}
	}
	if held.order.share(0, 7) != 5 || held.order.share(1, 7) != 2 {
		t.Errorf("of 7 samples %d and %d are from the parts", held.order.share(0, 7), held.order.share(1, 7))
	}
	// The order of a part of its own is another one than that of the first.
	if a, b := newPermutation(1, 0, 0, 1000), newPermutation(1, 1, 0, 1000); a.at(0) == b.at(0) && a.at(1) == b.at(1) {
		t.Error("two parts have the same order")
	}
}
