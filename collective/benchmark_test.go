package collective

import (
	"fmt"
	"testing"
	"unsafe"

	"lockstep/kernels/device"
)

// BenchmarkAllReduce times all-reduces of float32 with all ranks in this process, so that they share its cores.
func BenchmarkAllReduce(b *testing.B) {
	add := Reduction{DType: device.Float32, Fold: func(dst, src [][]byte) {
		d, x, y := floats(dst[0]), floats(src[0]), floats(src[1])
		x, y = x[:len(d)], y[:len(d)]
		for i := range d {
			d[i] = x[i] + y[i]
		}
	}}
	for _, p := range []int{2, 4} {
		for _, n := range []int{1 << 10, 1 << 20, 64 << 20} {
			b.Run(fmt.Sprintf("p=%d/bytes=%d", p, n), func(b *testing.B) {
				j := newJob(b, p)
				groups := j.groups("data")
				buffers := make([]device.Region, p)
				for rank := range buffers {
					buffers[rank] = memory(make([]byte, n))
				}
				b.SetBytes(int64(n))
				for b.Loop() {
					j.all(func(rank int) error { return groups[rank].AllReduce(buffers[rank], add, device.Event{}).Synchronize() })
				}
			})
		}
	}
}

func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}
