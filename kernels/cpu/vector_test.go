package cpu

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// noise returns n numbers between -scale and scale, the same ones for the same seed.
func noise(n int, seed uint64, scale float64) []float32 {
	x := make([]float32, n)
	state := seed*0x9e3779b97f4a7c15 + 1
	for i := range x {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		x[i] = float32((float64(state>>11)*0x1p-52 - 1) * scale)
	}
	return x
}

// forEachSet runs a test on every kernel set of this machine.
func forEachSet(t *testing.T, test func(t *testing.T, s *kernelSet)) {
	for _, s := range kernelSets() {
		t.Run(s.name, func(t *testing.T) { test(t, s) })
	}
}

// rowLengths has whole vectors, incomplete ones, and both, for all widths.
func rowLengths() []int {
	var n []int
	for i := range 70 {
		n = append(n, i)
	}
	return append(n, 127, 128, 131, 1000)
}

// near fails unless got is want within tol relative to the size of what was added up to it.
func near(t *testing.T, what string, got, want, size, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol*size) && !(math.IsNaN(got) && math.IsNaN(want)) && got != want {
		t.Fatalf("%s: got %v, want %v within %v of %v", what, got, want, tol, size)
	}
}

const ulp = 0x1p-23

func TestElementwiseRows(t *testing.T) {
	type operation struct {
		name string
		run  func(s *kernelSet, y, x, w, z []float32)
		want func(y, x, w, z float64) float64
		size func(y, x, w, z float64) float64
	}
	abs := math.Abs
	a, b := float32(1.37), float32(-0.61)
	a64, b64 := float64(a), float64(b)
	operations := []operation{
		{"add", func(s *kernelSet, y, x, w, z []float32) { s.add(y, x, w) },
			func(y, x, w, z float64) float64 { return x + w }, func(y, x, w, z float64) float64 { return abs(x + w) }},
		{"axpy", func(s *kernelSet, y, x, w, z []float32) { s.axpy(y, x, a) },
			func(y, x, w, z float64) float64 { return y + a64*x }, func(y, x, w, z float64) float64 { return abs(y) + abs(a64*x) }},
		{"scale", func(s *kernelSet, y, x, w, z []float32) { s.scale(y, x, a) },
			func(y, x, w, z float64) float64 { return a64 * x }, func(y, x, w, z float64) float64 { return abs(a64 * x) }},
		{"scaleMul", func(s *kernelSet, y, x, w, z []float32) { s.scaleMul(y, x, w, a) },
			func(y, x, w, z float64) float64 { return a64 * x * w }, func(y, x, w, z float64) float64 { return abs(a64 * x * w) }},
		{"mulAxpy", func(s *kernelSet, y, x, w, z []float32) { s.mulAxpy(y, x, z, a) },
			func(y, x, w, z float64) float64 { return y + a64*x*z }, func(y, x, w, z float64) float64 { return abs(y) + abs(a64*x*z) }},
		{"scaleMulAdd", func(s *kernelSet, y, x, w, z []float32) { s.scaleMulAdd(y, x, w, z, a, b) },
			func(y, x, w, z float64) float64 { return a64*x*w + b64*z },
			func(y, x, w, z float64) float64 { return abs(a64*x*w) + abs(b64*z) }},
		{"addScaleMulAdd", func(s *kernelSet, y, x, w, z []float32) { s.addScaleMulAdd(y, y, x, w, z, a, b) },
			func(y, x, w, z float64) float64 { return y + a64*x*w + b64*z },
			func(y, x, w, z float64) float64 { return abs(y) + abs(a64*x*w) + abs(b64*z) }},
		{"siluMul", func(s *kernelSet, y, x, w, z []float32) { s.siluMul(y, x, w) },
			func(y, x, w, z float64) float64 { return x / (1 + math.Exp(-x)) * w },
			func(y, x, w, z float64) float64 { return abs(x / (1 + math.Exp(-x)) * w) }},
	}
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, o := range operations {
			for _, n := range rowLengths() {
				y, x, w, z := noise(n+1, 1, 2), noise(n, 2, 9), noise(n, 3, 2), noise(n, 4, 2)
				before, guard := slices.Clone(y), y[n]
				o.run(s, y[:n], x, w, z)
				if y[n] != guard {
					t.Fatalf("%s of %d elements wrote beyond them", o.name, n)
				}
				for i := range n {
					v := [4]float64{float64(before[i]), float64(x[i]), float64(w[i]), float64(z[i])}
					near(t, fmt.Sprintf("%s: element %d of %d", o.name, i, n), float64(y[i]), o.want(v[0], v[1], v[2], v[3]),
						o.size(v[0], v[1], v[2], v[3]), 4*ulp)
				}
			}
		}
	})
}

// TestRotateBits compares all sets' bits with those of plain Go, in place and not.
func TestRotateBits(t *testing.T) {
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range rowLengths() {
			a, b, cos, sin := noise(n+1, 1, 2), noise(n+1, 2, 9), noise(n, 3, 1), noise(n, 4, 1)
			wantA, wantB, ya, yb := slices.Clone(a), slices.Clone(b), slices.Clone(a), slices.Clone(b)
			rotateGeneric(wantA[:n], wantB[:n], a, b, cos, sin)
			s.rotate(ya[:n], yb[:n], a, b, cos, sin)
			s.rotate(a[:n], b[:n], a, b, cos, sin)
			for _, got := range [][2][]float32{{ya, yb}, {a, b}} {
				equalBits(t, "the first half", got[0], wantA)
				equalBits(t, "the second half", got[1], wantB)
			}
		}
	})
}

func TestReductionRows(t *testing.T) {
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range rowLengths() {
			x, y, z := noise(n, 1, 2), noise(n, 2, 2), noise(n, 3, 2)
			var dot, dot3, squares, size, size3 float64
			best := math.Inf(-1)
			for i := range n {
				a, b, c := float64(x[i]), float64(y[i]), float64(z[i])
				dot, size = dot+a*b, size+math.Abs(a*b)
				dot3, size3 = dot3+a*b*c, size3+math.Abs(a*b*c)
				squares += a * a
				best = max(best, a)
			}
			near(t, fmt.Sprintf("dot of %d", n), float64(s.dot(x, y)), dot, size, 8*ulp)
			near(t, fmt.Sprintf("dot3 of %d", n), float64(s.dot3(x, y, z)), dot3, size3, 8*ulp)
			near(t, fmt.Sprintf("sumSquares of %d", n), s.sumSquares(x), squares, squares, 1e-14)
			if s.sumSquares(x) != sumSquaresGeneric(x) {
				t.Fatalf("sumSquares of %d is not that of plain Go, although squares are exact in float64", n)
			}
			near(t, fmt.Sprintf("max of %d", n), float64(s.max(x)), best, 0, 0)
			negative := slices.Clone(x)
			for i := range negative {
				negative[i] -= 5 // lanes that are not there must not count as zeros
			}
			if n > 0 && s.max(negative) != slices.Max(negative) {
				t.Fatalf("max of %d negative numbers is %v, not %v", n, s.max(negative), slices.Max(negative))
			}
		}
	})
}

func TestExpSum(t *testing.T) {
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range rowLengths() {
			x, y := noise(n, 1, 30), make([]float32, n+1)
			y[n] = -1
			sum, want := float64(s.expSum(y[:n], x, 30)), 0.0
			for i := range n {
				e := math.Exp(float64(x[i] - 30))
				want += e
				near(t, fmt.Sprintf("exp(%v)", x[i]-30), float64(y[i]), e, e, 2*ulp)
			}
			near(t, fmt.Sprintf("sum of %d", n), sum, want, want, 8*ulp)
			if y[n] != -1 {
				t.Fatalf("expSum of %d elements wrote beyond them", n)
			}
		}
	})
}

// TestExpRange goes over all of float32's range, a step of exponent and mantissa at a time.
func TestExpRange(t *testing.T) {
	var x []float32
	for bits := uint32(0); bits < 0x7f800000; bits += 0x7654 {
		v := math.Float32frombits(bits)
		x = append(x, v, -v)
	}
	y := make([]float32, len(x))
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		s.expSum(y, x, 0)
		for i, v := range x {
			want := math.Exp(float64(v))
			if want > math.MaxFloat32 {
				want = math.Inf(1)
			}
			// 0x1p-149 is the smallest subnormal number: results near it have few bits.
			if got := float64(y[i]); got != want && !(math.Abs(got-want) <= 2*ulp*want+0x1p-149) {
				t.Fatalf("exp(%v) = %v, not %v", v, got, want)
			}
		}
	})
}

func TestSiluMulBackward(t *testing.T) {
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range rowLengths() {
			dy, gate, up := noise(n, 1, 2), noise(n, 2, 12), noise(n, 3, 2)
			x := append(slices.Clone(gate), up...)
			s.siluMulBackward(x[:n], x[n:], dy, x[:n], x[n:])
			for i := range n {
				g, u, d := float64(gate[i]), float64(up[i]), float64(dy[i])
				sigmoid := 1 / (1 + math.Exp(-g))
				// 1 + g*(1-sigmoid) cancels: its terms set the error.
				size := math.Abs(d*u*sigmoid) * (1 + math.Abs(g*(1-sigmoid)))
				near(t, fmt.Sprintf("dgate[%d] of %d", i, n), float64(x[i]), d*u*sigmoid*(1+g*(1-sigmoid)), size, 8*ulp)
				near(t, fmt.Sprintf("dup[%d] of %d", i, n), float64(x[n+i]), d*g*sigmoid, math.Abs(d*g*sigmoid), 4*ulp)
			}
		}
	})
}

func TestRowsPropagateNonFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	isNaN := func(x float32) bool { return x != x }
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range []int{1, 7, 16, 33, 65} {
			for at := range n {
				x, ones, zeros, y := noise(n, 1, 1), make([]float32, n), make([]float32, n), make([]float32, n)
				for i := range ones {
					ones[i] = 1
				}
				x[at] = nan
				if !isNaN(s.dot(x, zeros)) || !isNaN(s.dot(zeros, x)) || !math.IsNaN(s.sumSquares(x)) || !isNaN(s.dot3(ones, zeros, x)) {
					t.Fatalf("a sum of %d elements loses the NaN at %d", n, at)
				}
				if sum := s.expSum(y, x, s.max(x)); !isNaN(sum) || !isNaN(y[at]) {
					t.Fatalf("expSum of %d elements loses the NaN at %d: %v, %v", n, at, sum, y[at])
				}
				s.siluMul(y, x, ones)
				if !isNaN(y[at]) {
					t.Fatalf("siluMul of %d elements loses the NaN at %d", n, at)
				}
				x[at] = inf
				if s.max(x) != inf || s.dot(x, ones) != inf || !math.IsInf(s.sumSquares(x), 1) || !isNaN(s.dot(x, zeros)) {
					t.Fatalf("a reduction of %d elements loses the infinity at %d", n, at)
				}
				y[at] = 0
				s.axpy(y, x, 0)
				if !isNaN(y[at]) {
					t.Fatalf("axpy of %d elements: 0 * Inf at %d is %v", n, at, y[at])
				}
			}
		}
	})
}

// TestBFloat16 compares the conversions' bits with those of Go's, for every bfloat16, and every upper half of a float32
// with lower halves around the middle.
func TestBFloat16(t *testing.T) {
	var all []uint16
	var x []float32
	for i := range 1 << 16 {
		all = append(all, uint16(i))
		for _, low := range []uint32{0, 1, 0x7fff, 0x8000, 0x8001} {
			x = append(x, math.Float32frombits(uint32(i)<<16|low))
		}
	}
	want, wantWide := make([]uint16, len(x)), make([]float32, len(all))
	narrowGeneric(want, x)
	widenGeneric(wantWide, all)
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		got, wide := make([]uint16, len(x)), make([]float32, len(all))
		s.toBFloat16(got, x)
		s.toFloat32(wide, all)
		sameBits(t, "to float32", wide, wantWide)
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%#08x becomes %#04x, not %#04x", math.Float32bits(x[i]), got[i], want[i])
			}
		}
		for n := range 35 {
			got[n], wide[n] = 7, 7
			s.toBFloat16(got[:n], x)
			s.toFloat32(wide[:n], all)
			if got[n] != 7 || wide[n] != 7 {
				t.Fatalf("a conversion of %d elements wrote beyond them", n)
			}
		}
	})
}
