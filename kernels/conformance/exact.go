package conformance

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// exactSum makes an operand for an exact sum of nothing.
func (s *suite) exactSum() operand {
	s.t.Helper()
	return s.operand(device.Float64, layout{}, func(int) float64 { return 0 }, kernels.ExactSumLen)
}

// addends returns n values that are not negative, of any size that float64 has.
func (s *suite) addends(n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = math.Ldexp(math.Abs(s.random()), int(530*s.random()))
	}
	return x
}

// testAddExact adds values of all sizes, in one call and in several, and in another order: the same digits.
func testAddExact(s *suite) {
	special := []float64{0, math.MaxFloat64, math.MaxFloat64, math.SmallestNonzeroFloat64, 0x1p-1022, 0x1.fffffffffffffp-1022, 1, 0x1p-31, 0x1.fffffffffffffp31}
	for _, x := range [][]float64{{0}, {math.Inf(1), 3, math.NaN(), math.Inf(1)}, special, s.addends(1), s.addends(301)} {
		want := make([]float64, kernels.ExactSumLen)
		AddExact(want, x)
		sum := s.exactSum()
		s.d.AddExact(s.s, sum.Tensor, s.wide(x...).Tensor)
		s.check("AddExact sum", sum, want, tolerance{})
		parts, at := s.exactSum(), len(x)
		for at > 0 {
			n := min(at, 1+at/2)
			s.d.AddExact(s.s, parts.Tensor, s.wide(x[at-n:at]...).Tensor)
			at -= n
		}
		s.check("AddExact sum of parts", parts, want, tolerance{})
	}
}

// testClipFactor includes sums whose halves and ties decide the last bit, with digits that have not been carried, as the sums
// of several ranks are.
func testClipFactor(s *suite) {
	ulp := 0x1p-52
	for _, sums := range [][]float64{{4, 0, 5}, {0}, {0.25}, {1, math.NaN()}, {math.Inf(1), 2}, {math.NaN(), math.Inf(1)},
		{1, ulp / 2}, {1 + ulp, ulp / 2}, {1, ulp / 2, 0x1p-1074}, {1, ulp/2 - 0x1p-100}, {0x1p-1074}, {0x1p-1074, 0x1p-1022}, {0x1p-1035, 0x1p-1074},
		{math.MaxFloat64}, {math.MaxFloat64, math.MaxFloat64}, {1e-300, 1e300}, s.addends(7), s.addends(100)} {
		for _, maxNorm := range []float64{0, 1, 2.5} {
			for _, ranks := range []float64{1, 1000} {
				sum := make([]float64, kernels.ExactSumLen)
				AddExact(sum, sums)
				for i := range sum {
					sum[i] *= ranks
				}
				clip, want := s.output(device.Float64, layout{}, 3), make([]float64, 3)
				ClipFactor(want, sum, maxNorm)
				s.d.ClipFactor(s.s, clip.Tensor, s.wide(sum...).Tensor, maxNorm)
				s.check("ClipFactor clip", clip, want, tolerance{})
			}
		}
	}
}
