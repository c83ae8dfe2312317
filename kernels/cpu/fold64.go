package cpu

import "unsafe"

// SumFloat64 is SumFloat32 for float64, in the order of the sources. It is for small buffers of whole numbers, whose sums do
// not depend on the order.
func SumFloat64(dst, src [][]byte) {
	for i := range len(src[0]) / 8 {
		sum := 0.0
		for _, s := range src {
			sum += float64s(s)[i]
		}
		for _, d := range dst {
			float64s(d)[i] = sum
		}
	}
}

func float64s(b []byte) []float64 { return unsafe.Slice((*float64)(unsafe.Pointer(&b[0])), len(b)/8) }
