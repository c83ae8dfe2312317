package cpu

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkSumAcrossCores is the floor of an all-reduce in shared memory on two cores: the same loads and stores, without
// ranks. Each core writes the buffers of its half of the members, both meet, each sums those members' parts of all buffers
// into all buffers, and both meet again. The metric us is the median from one meeting to the other; ns/op has the writing in
// it.
func BenchmarkSumAcrossCores(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Skip("needs two cores")
	}
	for _, members := range []int{2, 4, 8} {
		for _, size := range []int{1 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20} {
			b.Run(fmt.Sprintf("%dx%dKiB", members, size>>10), func(b *testing.B) { sumAcrossCores(b, members, size) })
		}
	}
}

func sumAcrossCores(b *testing.B, members, size int) {
	buffers := make([][]byte, members)
	for i := range buffers {
		var err error
		if buffers[i], err = mapMemory(max(size, 4<<20)); err != nil {
			b.Fatal(err)
		}
		defer unix.Munmap(buffers[i])
		buffers[i] = buffers[i][:size]
	}
	var arrived atomic.Int64
	meet := func(n int64) {
		arrived.Add(1)
		for arrived.Load() < 2*n {
		}
	}
	times := make([]time.Duration, b.N)
	var cores sync.WaitGroup
	for core := range 2 {
		cores.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
			var only unix.CPUSet
			only.Set(core)
			if err := unix.SchedSetaffinity(0, &only); err != nil {
				b.Error(err)
			}
			own := slices.Collect(slices.Chunk(buffers, members/2))[core]
			for i := range times {
				for _, buffer := range own {
					for piece := range slices.Chunk(buffer, 64<<10) { // more at once would go past the caches
						clear(piece)
					}
				}
				meet(int64(2*i + 1))
				start := time.Now()
				for m := range own {
					sumPart(buffers, core*len(own)+m)
				}
				meet(int64(2*i + 2))
				if core == 0 {
					times[i] = time.Since(start)
				}
			}
		})
	}
	cores.Wait()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "us")
}

// sumPart sums one member's part of all buffers into all of them.
func sumPart(buffers [][]byte, member int) {
	part, n := make([][]byte, len(buffers)), len(buffers[0])/len(buffers)
	for i, buffer := range buffers {
		part[i] = buffer[member*n : (member+1)*n]
	}
	SumFloat32(part, part)
}
