package conformance

import (
	"encoding/binary"
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Cast is the definition of kernels.Operators.Cast to BFloat16: y[i] = BFloat16(x[i]).
func Cast(y, x []float64) {
	for i := range y {
		y[i] = BFloat16(x[i])
	}
}

// BFloat16 returns the bfloat16 number nearest to x, the one with an even last place where two are: 8 bits of precision,
// exponents of float32. Beyond the largest one it is an infinity.
func BFloat16(x float64) float64 {
	const largest = 0x1.fep127
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	_, exponent := math.Frexp(x) // |x| in [0.5, 1) * 2^exponent
	lastPlace := math.Ldexp(1, max(exponent, -125)-8)
	y := math.RoundToEven(x/lastPlace) * lastPlace
	if math.Abs(y) > largest {
		return math.Inf(int(math.Copysign(1, y)))
	}
	return y
}

// toBFloat16 returns the bits of numbers that bfloat16 holds exactly.
func toBFloat16(values []float64) []uint16 {
	bits := make([]uint16, len(values))
	for i, v := range values {
		bits[i] = uint16(math.Float32bits(float32(v)) >> 16)
	}
	return bits
}

func fromBFloat16(raw []byte) []float64 {
	values := make([]float64, len(raw)/2)
	for i := range values {
		values[i] = float64(math.Float32frombits(uint32(binary.NativeEndian.Uint16(raw[2*i:])) << 16))
	}
	return values
}

// bfloat16Input is input of BFloat16 numbers, some of them subnormal.
func (s *suite) bfloat16Input(l layout, shape ...int) operand {
	s.t.Helper()
	x := s.input(l, shape...).values()
	return s.operand(device.BFloat16, l, func(i int) float64 {
		if i%89 == 7 {
			return BFloat16(x[i] * 0x1p-128)
		}
		return BFloat16(x[i])
	}, shape...)
}

func testCast(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			x, y := s.input(l, n.rows, n.width), s.output(device.BFloat16, layout{pad: 5}, n.rows, n.width)
			want := make([]float64, y.Len())
			Cast(want, x.values())
			s.d.Cast(s.s, y.Tensor, x.Tensor)
			s.check("Cast to bfloat16", y, want, tolerance{})

			narrow, wide := s.bfloat16Input(l, n.rows, n.width), s.output(device.Float32, layout{pad: 2}, n.rows, n.width)
			s.d.Cast(s.s, wide.Tensor, narrow.Tensor)
			s.check("Cast to float32", wide, narrow.values(), tolerance{})
		}
	}
	s.castEdges()
	heads, dense := s.input(layout{pad: 3, inner: 2}, 2, 3, 4, 5), s.output(device.BFloat16, layout{}, 2, 3, 4, 5)
	want := make([]float64, dense.Len())
	Cast(want, heads.values())
	s.d.Cast(s.s, dense.Tensor, heads.Tensor)
	s.check("Cast of heads", dense, want, tolerance{})
}

// castEdges casts what lies at and beside the points where rounding changes: ties with an even and an odd last place, the
// ends of the range, subnormal numbers, NaNs of which only the lowest bits are set.
func (s *suite) castEdges() {
	var x []float64
	for _, high := range []uint32{0x0000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x7f7e, 0x7f7f, 0x7f80} {
		for _, low := range []uint32{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff} {
			v := float64(math.Float32frombits(high<<16 | low))
			x = append(x, v, -v)
		}
	}
	from, to := s.operand(device.Float32, layout{}, func(i int) float64 { return x[i] }, len(x)), s.output(device.BFloat16, layout{}, len(x))
	want := make([]float64, len(x))
	Cast(want, x)
	s.d.Cast(s.s, to.Tensor, from.Tensor)
	s.check("Cast of edges", to, want, tolerance{})
}

// testMatMulBFloat16 has one operand of BFloat16, or both. What it compares with besides the twin is the product of the
// operands cast to float32, whose bits it must have.
func testMatMulBFloat16(s *suite) {
	next := 0
	for _, n := range [][3]int{{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {13, 37, 270}, {3, 4, 0}} {
		for bits := range 8 {
			o := kernels.MatMulOptions{TransA: bits&1 != 0, TransB: bits&2 != 0, Accumulate: bits&4 != 0}
			for _, narrow := range [][2]bool{{true, false}, {false, true}, {true, true}} {
				s.matMulBFloat16(n[0], n[1], n[2], layouts()[next%3], o, narrow[0], narrow[1])
				next++
			}
			next++ // not the same layout for the same pair of types again
		}
	}
}

// factor returns an operand of MatMul [rows,cols], or its transpose.
func (s *suite) factor(narrow bool, l layout, trans bool, rows, cols int) operand {
	s.t.Helper()
	if trans {
		rows, cols = cols, rows
	}
	if narrow {
		return s.bfloat16Input(l, rows, cols)
	}
	return s.input(l, rows, cols)
}

func (s *suite) matMulBFloat16(m, n, k int, l layout, o kernels.MatMulOptions, narrowA, narrowB bool) {
	s.t.Helper()
	a, b := s.factor(narrowA, l, o.TransA, m, k), s.factor(narrowB, layout{pad: l.pad}, o.TransB, k, n)
	c := s.target(o.Accumulate, layout{pad: 5}, m, n)
	want := c.values()
	MatMul(want, a.values(), b.values(), m, n, k, o.TransA, o.TransB, o.Accumulate)
	s.d.MatMul(s.s, c.Tensor, a.Tensor, b.Tensor, o)
	s.check("MatMul c", c, want, tolerance{absolute: ulp * float64(6*k+4)})

	wide := func(x operand) operand {
		v := x.values()
		return s.operand(device.Float32, layout{}, func(i int) float64 { return v[i] }, x.Dims()...)
	}
	start := c.values()
	same := s.operand(device.Float32, layout{}, func(i int) float64 { return start[i] }, m, n)
	s.d.MatMul(s.s, same.Tensor, wide(a).Tensor, wide(b).Tensor, o)
	s.check("MatMul c of float32 operands", same, c.elements(s.memoryNow(c)), tolerance{})
}

// testProductsInBFloat16 has operands of Float32 that are not bfloat16 numbers. A device multiplies them as they are, or rounds
// them all.
func testProductsInBFloat16(s *suite) {
	next := 0
	for _, n := range [][3]int{{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {13, 37, 271}, {2, 34, 1600}, {3, 4, 0}} {
		for bits := range 8 {
			o := kernels.MatMulOptions{TransA: bits&1 != 0, TransB: bits&2 != 0, Accumulate: bits&4 != 0, BFloat16: true}
			for _, narrow := range [][2]bool{{true, false}, {false, true}, {true, true}, {false, false}} {
				s.productInBFloat16(n[0], n[1], n[2], layouts()[next%3], o, narrow[0], narrow[1])
				next++
			}
		}
	}
	for _, n := range assignmentShapes() {
		for bits := range 12 {
			o := kernels.MatMulOptions{TransA: bits/4 == 1, TransB: bits/4 == 2, Accumulate: bits&1 != 0, BFloat16: true}
			s.groupedInBFloat16(s.assign(n[0], n[1], n[2]), 29, 43, layout{pad: bits & 2}, o)
		}
	}
}

func (s *suite) productInBFloat16(m, n, k int, l layout, o kernels.MatMulOptions, narrowA, narrowB bool) {
	s.t.Helper()
	a, b := s.factor(narrowA, l, o.TransA, m, k), s.factor(narrowB, layout{pad: l.pad}, o.TransB, k, n)
	c := s.target(o.Accumulate, layout{pad: 5}, m, n)
	exact, rounded := c.values(), c.values()
	MatMul(exact, a.values(), b.values(), m, n, k, o.TransA, o.TransB, o.Accumulate)
	MatMul(rounded, inBFloat16(a), inBFloat16(b), m, n, k, o.TransA, o.TransB, o.Accumulate)
	s.d.MatMul(s.s, c.Tensor, a.Tensor, b.Tensor, o)
	s.checkEither("MatMul c", c, exact, rounded, tolerance{absolute: ulp * float64(6*k+4)})
}

func (s *suite) groupedInBFloat16(a *assignment, n, k int, l layout, o kernels.MatMulOptions) {
	s.t.Helper()
	x, b, c, depth := s.groups(a, n, k, l, o)
	exact, rounded := c.values(), c.values()
	GroupedMatMul(exact, x.values(), b.values(), a.offsets, n, k, o)
	GroupedMatMul(rounded, inBFloat16(x), inBFloat16(b), a.offsets, n, k, o)
	s.d.GroupedMatMul(s.s, c.Tensor, x.Tensor, b.Tensor, a.firsts.Tensor, o)
	s.checkEither("GroupedMatMul c", c, exact, rounded, tolerance{relative: 8 * ulp, absolute: ulp * float64(4*depth+4)})
}

// inBFloat16 returns the values of x rounded to bfloat16, with zeros for subnormal ones.
func inBFloat16(x operand) []float64 {
	values := x.values()
	Cast(values, values)
	for i, v := range values {
		if math.Abs(v) < 0x1p-126 {
			values[i] = 0
		}
	}
	return values
}

// checkEither is check against the first of two twins, or the second where the output is not that of the first.
func (s *suite) checkEither(name string, o operand, exact, rounded []float64, tol tolerance) {
	s.t.Helper()
	want := exact
	for i, v := range o.elements(s.memoryNow(o)) {
		if !near(v, exact[i], tol) {
			want = rounded
		}
	}
	s.check(name, o, want, tol)
}
