package cpu

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"lockstep/kernels/device"
)

func TestOrder(t *testing.T) {
	o := &idOrder{}
	for _, n := range []int{0, 1, 2, 1000, orderedIDs} {
		for _, largest := range []int{0, 1, 255, 256, 128255, 1<<31 - 1} {
			ids := make([]int32, n)
			want := make([]int, n)
			for i, v := range noise(n, uint64(largest), 1) {
				ids[i] = int32(float64(v+1) / 2 * float64(largest))
				want[i] = i
			}
			slices.SortStableFunc(want, func(a, b int) int { return cmp.Compare(ids[a], ids[b]) })
			o.sort(ids, 7)
			for i, e := range o.entries {
				if e.position() != want[i]+7 || e.id() != int(ids[want[i]]) {
					t.Fatalf("%d ids up to %d: entry %d is id %d at %d, not %d at %d", n, largest, i, e.id(), e.position(), ids[want[i]], want[i]+7)
				}
			}
		}
	}
}

// TestEmbeddingBackwardOrder: each row is the sum in the order of ids, to the last bit, for lists of several pieces, ids
// that come in long runs, and views.
func TestEmbeddingBackwardOrder(t *testing.T) {
	const vocabulary, width = 5000, 3
	for _, n := range []int{0, 10, 2*orderedIDs + 77} {
		for _, accumulate := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d-%v", n, accumulate), func(t *testing.T) {
				d, s := open(t, "generic", 3)
				dy, before := noise(n*width, 1, 1), noise(vocabulary*width, 2, 1)
				ids := operands{t, d}.tensor(device.Int32, n)
				want := slices.Clone(before)
				if !accumulate {
					clear(want)
				}
				for i, list := 0, i32(ids); i < n; i++ {
					if list[i] = 4; i%3 > 0 { // a third of all is one id
						list[i] = int32(i * i % vocabulary)
					}
					for j := range width {
						want[int(list[i])*width+j] += dy[i*width+j]
					}
				}
				dweight := strided(t, d, s, before, 2, vocabulary, width)
				d.EmbeddingBackward(s, dweight, strided(t, d, s, dy, 1, n, width), ids, accumulate)
				if err := s.Synchronize(); err != nil {
					t.Fatal(err)
				}
				got := f32(dweight)
				for v := range vocabulary {
					equalBits(t, fmt.Sprintf("row %d", v), got[row(&dweight, v):][:width], want[v*width:][:width])
				}
			})
		}
	}
}
