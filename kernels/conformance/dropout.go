package conformance

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Dropout is the definition of kernels.Operators.Dropout, for rows of c elements.
func Dropout(y, x []float64, c int, o kernels.DropoutOptions) {
	for i := range y {
		y[i] = o.Scale * x[i]
		n := o.First + i/c*max(c, o.Columns) + i%c
		if word := philox(uint64(n/4), o.Stream, o.Key)[n%4]; float64(word) < o.Rate*(1<<32) {
			y[i] = 0
		}
	}
}

// philox returns the words of Philox4x32-10 as its authors define it, in 64-bit arithmetic.
func philox(low, high, key uint64) [4]uint64 {
	const mask = 1<<32 - 1
	x0, x1, x2, x3 := low&mask, low>>32, high&mask, high>>32
	k0, k1 := key&mask, key>>32
	for range 10 {
		a, b := x0*0xD2511F53, x2*0xCD9E8D57
		x0, x1, x2, x3 = b>>32^x1^k0, b&mask, a>>32^x3^k1, a&mask
		k0, k1 = (k0+0x9E3779B9)&mask, (k1+0xBB67AE85)&mask
	}
	return [4]uint64{x0, x1, x2, x3}
}

func testDropout(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			for _, o := range []kernels.DropoutOptions{{Scale: 0.3}, {Scale: 1.25, Rate: 0.2, Key: 1<<40 + 5, Stream: 1<<50 + 77},
				{Scale: 1, Rate: 0.5, Key: 3, Stream: 4, First: 1<<33 + 7}, {Scale: 1, Rate: 0.5, Key: 3, Stream: 4, First: 5, Columns: n.width + 9}} {
				x, y := s.input(l, n.rows, n.width), s.output(device.Float32, layout{pad: 5}, n.rows, n.width)
				want := make([]float64, y.Len())
				Dropout(want, x.values(), n.width, o)
				s.d.Dropout(s.s, y.Tensor, x.Tensor, o)
				s.check("Dropout y", y, want, tolerance{relative: 2 * ulp})
				s.d.Dropout(s.s, x.Tensor, x.Tensor, o)
				s.check("Dropout in place", x, want, tolerance{relative: 2 * ulp})
			}
		}
	}
}
