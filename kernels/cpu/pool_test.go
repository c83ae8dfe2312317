package cpu

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
)

// TestSignal sends between two goroutines, both to a waiter that is still looking and to one that is parked.
func TestSignal(t *testing.T) {
	there, back := newSignal(), newSignal()
	const rounds = 2000
	received := 0
	go func() {
		for range rounds {
			there.wait()
			received++
			back.send()
		}
	}()
	for i := range rounds {
		if i%100 == 0 {
			for there.state.Load() != parked {
				runtime.Gosched()
			}
		}
		there.send()
		back.wait()
		if received != i+1 {
			t.Fatalf("%d signals were received, %d sent", received, i+1)
		}
	}
}

func TestParallelRunsEachPartOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 8} {
		d, _ := open(t, "generic", threads)
		for parts := range 20 {
			count := make([]atomic.Int32, parts)
			d.parallel(&call{}, parts, func(_ *Device, _ *call, w *worker, from, to int) {
				w.scratch[0] = 1 // under the race detector: a worker's memory is its own
				for i := from; i < to; i++ {
					count[i].Add(1)
				}
			})
			for i := range count {
				if n := count[i].Load(); n != 1 {
					t.Fatalf("%d threads: part %d of %d ran %d times", threads, i, parts, n)
				}
			}
		}
	}
}

// BenchmarkParallel hands out 8 parts of some microseconds, a small operator's work: with more threads it should take as
// much less time.
func BenchmarkParallel(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			d, _ := open(b, "generic", threads)
			x := noise(5000, 1, 1)
			for b.Loop() {
				d.parallel(&call{}, 8, func(d *Device, _ *call, _ *worker, from, to int) {
					for range to - from {
						d.set.dot(x, x)
					}
				})
			}
		})
	}
}
