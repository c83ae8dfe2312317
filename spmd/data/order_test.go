package data

import (
	"fmt"
	"slices"
	"testing"
)

func order(seed uint64, epoch int64, n uint64) []uint64 {
	p := newPermutation(seed, 0, epoch, n)
	all := make([]uint64, n)
	for i := range all {
		all[i] = p.at(uint64(i))
	}
	return all
}

func TestPermutationIsABijection(t *testing.T) {
	sizes := []uint64{1000, 4095, 4096, 4097, 65537, 100_003}
	for n := uint64(1); n <= 130; n++ {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		seen := make([]bool, n)
		for i, j := range order(42, 3, n) {
			if j >= n || seen[j] {
				t.Fatalf("n = %d: place %d has %d, which is out of range or taken", n, i, j)
			}
			seen[j] = true
		}
	}
}

// The order of a data set is part of what makes a run repeatable: it may not change from one version to the next.
func TestPermutationIsFrozen(t *testing.T) {
	for _, test := range []struct {
		seed  uint64
		epoch int64
		n     uint64
		want  []uint64
	}{
		{42, 0, 10, []uint64{5, 8, 6, 3, 7, 1, 2, 9, 4, 0}},
		{42, 1, 10, []uint64{9, 6, 7, 8, 2, 3, 0, 5, 1, 4}},
	} {
		if got := order(test.seed, test.epoch, test.n); !slices.Equal(got, test.want) {
			t.Errorf("seed %d, epoch %d: %v, want %v", test.seed, test.epoch, got, test.want)
		}
	}
	// Near the largest data set, places are computed as fast as in a small one, and stay in range.
	p := newPermutation(1, 0, 0, 1<<62+1)
	if a, b := p.at(0), p.at(1<<62); a == b || a > 1<<62 || b > 1<<62 {
		t.Errorf("places 0 and 2^62 of 2^62+1 have %d and %d", a, b)
	}
}

// Over many epochs every sample comes to every place equally often, and every order of a few samples occurs.
func TestPermutationIsEven(t *testing.T) {
	const n, epochs = 5, 12_000
	var counts [n][n]int
	orders := make(map[string]int)
	for e := range int64(epochs) {
		o := order(7, e, n)
		for i, j := range o {
			counts[i][j]++
		}
		orders[fmt.Sprint(o)]++
	}
	for i := range n {
		for j := range n {
			// The expected count is 2400 with a standard deviation of 44.
			if c := counts[i][j]; c < 2400-220 || c > 2400+220 {
				t.Errorf("sample %d is at place %d in %d of %d epochs, expected about %d", j, i, c, epochs, epochs/n)
			}
		}
	}
	if len(orders) != 120 {
		t.Fatalf("%d of the 120 orders occur", len(orders))
	}
	for o, c := range orders { // expected 100 each, with a standard deviation of 10
		if c < 50 || c > 150 {
			t.Errorf("order %s occurs %d times, expected about 100", o, c)
		}
	}
}
