package cpu

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// equalBits fails unless got and want are the same to the last bit; any NaN equals any other.
func equalBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
			t.Fatalf("%s: element %d of %d is %v, not %v", what, i, len(want), got[i], want[i])
		}
	}
}

// TestAdamWBits compares all sets' bits with those of plain Go, on ordinary numbers and on those that round badly: zeros,
// the smallest and the largest, infinities.
func TestAdamWBits(t *testing.T) {
	hard := []float32{0, float32(math.Copysign(0, -1)), 1e-45, 1e-38, 3e38, float32(math.Inf(1)), float32(math.NaN())}
	k := adamWConstants([6]float64{3e-4, 0.9, 0.95, 1e-8, 0.1, 7}, 0.37)
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range rowLengths() {
			p, m, v, g := noise(n+1, 1, 2), noise(n+1, 2, 0.1), noise(n+1, 3, 1e-4), noise(n+1, 4, 0.01)
			for i := range n {
				v[i] *= v[i]
				if i%5 == 3 {
					m[i], v[i], g[i] = hard[i%7], hard[i/5%7], hard[i/3%7]
				}
			}
			got := [][]float32{slices.Clone(p), slices.Clone(m), slices.Clone(v)}
			k.update(genericSet(), p[:n], m[:n], v[:n], g[:n])
			k.update(s, got[0][:n], got[1][:n], got[2][:n], g[:n])
			for i, want := range [][]float32{p, m, v} {
				equalBits(t, fmt.Sprintf("%c after %d elements", "pmv"[i], n), got[i], want)
			}
		}
	})
}

// TestLerpEnds: both ways to interpolate the first moment are the same up to rounding.
func TestLerpEnds(t *testing.T) {
	const n = 100
	k := adamWConstants([6]float64{1e-2, 0.5, 0.95, 1e-8, 0, 1}, 1) // beta1 = 1/2: halves are exact
	p, m, v, g := noise(n, 1, 2), noise(n, 2, 1), make([]float32, n), noise(n, 3, 1)
	other := [][]float32{slices.Clone(p), slices.Clone(m), slices.Clone(v)}
	adamWGeneric(p, m, v, g, 1, k.decay, k.weight1, k.beta2, k.weight2, k.correction, k.eps, k.minusStepSize)
	adamWFromGradient(other[0], other[1], other[2], g, 1, k.decay, k.weight1, k.beta2, k.weight2, k.correction, k.eps, k.minusStepSize)
	for i := range n {
		near(t, "m", float64(other[1][i]), float64(m[i]), 1, 2*ulp)
		near(t, "p", float64(other[0][i]), float64(p[i]), 2, 4*ulp)
	}
}
