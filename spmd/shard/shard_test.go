package shard

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// places lists, element by element, where a slice's elements are in the whole: the definition, without runs.
func places(s Slice) (list []int) {
	for i := s.Begin; i < s.End; i++ {
		at, step, rest := 0, 1, i
		for d := len(s.Whole) - 1; d >= 0; d-- {
			at += (s.From[d] + rest%s.Shape[d]) * step
			rest /= s.Shape[d]
			step *= s.Whole[d]
		}
		list = append(list, at)
	}
	return list
}

// random returns a slice of a tensor.
func random(rng *rand.Rand, whole []int) Slice {
	s := All(whole...)
	for d, n := range whole {
		if rng.IntN(2) == 0 {
			from := rng.IntN(n + 1)
			s = s.Cut(d, from, from+rng.IntN(n-from+1))
		}
	}
	if rng.IntN(2) == 0 {
		from := rng.IntN(s.Len() + 1)
		s = s.Range(from, from+rng.IntN(s.Len()-from+1))
	}
	return s
}

func shape(rng *rand.Rand) []int {
	whole := make([]int, 1+rng.IntN(3))
	for d := range whole {
		whole[d] = 1 + rng.IntN(6)
	}
	return whole
}

func TestRuns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		s := random(rng, shape(rng))
		if err := s.Check(); err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		var got []int
		last := -1
		for r := range s.Runs() {
			if r.Slice != len(got) || r.Len < 1 || r.Whole == last {
				t.Fatalf("%v has the run %+v after %d elements", s, r, len(got))
			}
			for i := range r.Len {
				got = append(got, r.Whole+i)
			}
			last = r.Whole + r.Len
		}
		if want := places(s); !slices.Equal(got, want) {
			t.Fatalf("%v has its elements at %v, want %v", s, got, want)
		}
	}
}

// TestOverlap copies between random slices of one tensor.
func TestOverlap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		whole := shape(rng)
		to, from := random(rng, whole), random(rng, whole)
		source := map[int]int{} // by place in the whole
		for i, at := range places(from) {
			source[at] = i
		}
		want, got := map[int]int{}, map[int]int{}
		for i, at := range places(to) {
			if j, ok := source[at]; ok {
				want[i] = j
			}
		}
		for c := range Overlap(to, from) {
			for i := range c.Len {
				if _, twice := got[c.To+i]; twice {
					t.Fatalf("%v from %v: element %d comes twice", to, from, c.To+i)
				}
				got[c.To+i] = c.From + i
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%v from %v: %d elements, want %d", to, from, len(got), len(want))
		}
		for i, j := range want {
			if got[i] != j {
				t.Fatalf("%v from %v: element %d from %d, want %d", to, from, i, got[i], j)
			}
		}
	}
}

func TestCheckRefusesTheImpossible(t *testing.T) {
	for _, s := range []Slice{
		{Whole: []int{4}, From: []int{1}, Shape: []int{4}, End: 4},
		{Whole: []int{4}, From: []int{-1}, Shape: []int{4}, End: 4},
		{Whole: []int{4, 4}, From: []int{0}, Shape: []int{4}, End: 4},
		{Whole: []int{4}, From: []int{0}, Shape: []int{4}, End: 5},
		{Whole: []int{4}, From: []int{0}, Shape: []int{4}, Begin: 3, End: 2},
		{Whole: []int{1 << 40, 1 << 40}, From: []int{0, 0}, Shape: []int{1, 1}, End: 1},
	} {
		if s.Check() == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
}
