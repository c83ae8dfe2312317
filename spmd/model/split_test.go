package model

import (
	"fmt"
	"slices"
	"testing"
)

// splits calls f with the sizes of all ranks that share samples of the given length in a few ways.
func splits(t *testing.T, length int, f func(t *testing.T, ranks []Size)) {
	t.Helper()
	for _, n := range [][2]int{{1, 1}, {2, 1}, {3, 1}, {4, 1}, {1, 2}, {1, 3}, {2, 2}, {2, 3}, {3, 2}, {2, 4}} {
		ring, ulysses := n[0], n[1]
		t.Run(fmt.Sprintf("ring=%d ulysses=%d", ring, ulysses), func(t *testing.T) {
			var ranks []Size
			for i := range ring * ulysses {
				s := Split{Ring: ring, RingRank: i / ulysses, Ulysses: ulysses, UlyssesRank: i % ulysses}
				ranks = append(ranks, Size{Batch: 2, Sequence: length / ring / ulysses, Split: s})
			}
			f(t, ranks)
		})
	}
}

// TestSplitCoversSamples checks that each token is on one rank, in ascending order, and that the ranks of a ring have as much to
// attend to.
func TestSplitCoversSamples(t *testing.T) {
	const length = 48
	splits(t, length, func(t *testing.T, ranks []Size) {
		var all []int
		work := map[int]int{} // keys that queries see, by ring rank
		for _, size := range ranks {
			positions := size.Positions()
			if len(positions) != size.Sequence || !slices.IsSorted(positions) || size.Whole() != length {
				t.Errorf("%+v: positions %v of %d", size, positions, size.Whole())
			}
			for _, p := range positions {
				work[size.Split.RingRank] += p + 1
			}
			all = append(all, positions...)
			whole, local := make([]int32, 2*length), make([]int32, size.Tokens())
			for i := range whole {
				whole[i] = int32(1000 + i)
			}
			size.Cut(local, whole)
			for i, got := range local {
				if want := int32(1000 + i/size.Sequence*length + positions[i%size.Sequence]); got != want {
					t.Fatalf("%+v: token %d is %d, want %d", size, i, got, want)
				}
			}
		}
		slices.Sort(all)
		for i, p := range all {
			if p != i || len(all) != length {
				t.Fatalf("the ranks have %v", all)
			}
		}
		for _, n := range work {
			if n != work[0] {
				t.Errorf("the ranks of the ring have queries that see %v keys", work)
			}
		}
	})
}

// TestRingSeesEachKeyOnce follows the steps of each ring rank: every query sees every key of its document up to itself, and sees it
// in one step.
func TestRingSeesEachKeyOnce(t *testing.T) {
	const length = 24
	starts := make([]int32, length) // of documents of 5, 1, 11 and 7 tokens
	for i := range starts {
		for _, start := range []int32{0, 5, 6, 17} {
			if int(start) <= i {
				starts[i] = start
			}
		}
	}
	for _, n := range [][2]int{{1, 1}, {2, 1}, {3, 1}, {4, 1}, {6, 1}, {2, 2}, {3, 2}, {1, 4}} {
		ring, ulysses := n[0], n[1]
		for rank := range ring {
			size := Size{Batch: 1, Sequence: length / ring / ulysses, Split: Split{Ring: ring, RingRank: rank, Ulysses: ulysses}}
			documents := make([]int32, ring*length/ring)
			size.CutDocuments(documents, starts)
			tokens := func(rank int) (list []int) { // of the Ulysses ranks together
				return Size{Sequence: length / ring, Split: Split{Ring: ring, RingRank: rank}}.Positions()
			}
			mine, seen := tokens(rank), map[[2]int]int{}
			for step := range ring {
				theirs, first := tokens(size.source(step)), documents[step*len(mine):][:len(mine)]
				from, to := size.keys(step)
				if !slices.IsSorted(first) || int(slices.Max(first)) > to-from {
					t.Errorf("ring %d, rank %d, step %d: first keys %v of %d", ring, rank, step, first, to-from)
				}
				begin, end := size.queries(step)
				for q := begin; q < end; q++ {
					last := to
					if step == 0 { // the causal mask
						last = q + 1
					}
					for k := int(first[q]); k < last; k++ {
						seen[[2]int{mine[q], theirs[k]}]++
					}
				}
			}
			for _, q := range mine {
				for k := range length {
					want := 0
					if k <= q && k >= int(starts[q]) {
						want = 1
					}
					if got := seen[[2]int{q, k}]; got != want {
						t.Fatalf("ring %d, ulysses %d, rank %d: query %d sees key %d in %d steps, want %d", ring, ulysses, rank, q, k, got, want)
					}
				}
			}
		}
	}
}
