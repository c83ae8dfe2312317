package conformance

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

func testMatMul(s *suite) {
	shapes := [][3]int{{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {67, 131, 300}, {1, 257, 40}, {130, 1, 19}, {0, 3, 4}, {3, 0, 4}, {3, 4, 0}}
	for _, n := range shapes {
		for _, l := range layouts() {
			for bits := range 8 {
				o := kernels.MatMulOptions{TransA: bits&1 != 0, TransB: bits&2 != 0, Accumulate: bits&4 != 0}
				s.matMul(n[0], n[1], n[2], l, o)
			}
		}
	}
}

func (s *suite) matMul(m, n, k int, l layout, o kernels.MatMulOptions) {
	s.t.Helper()
	a, b := s.input(l, m, k), s.input(layout{pad: l.pad}, k, n)
	if o.TransA {
		a = s.input(l, k, m)
	}
	if o.TransB {
		b = s.input(layout{pad: l.pad}, n, k)
	}
	c := s.target(o.Accumulate, layout{pad: 5}, m, n)
	want := c.values()
	MatMul(want, a.values(), b.values(), m, n, k, o.TransA, o.TransB, o.Accumulate)
	s.d.MatMul(s.s, c.Tensor, a.Tensor, b.Tensor, o)
	// k products of at most 4, each rounded and added to a sum that is mostly far below 4*k, and room for the few elements
	// whose roundings all go the same way.
	s.check("MatMul c", c, want, tolerance{absolute: ulp * float64(6*k+4)})
}

func attentionShapes() []AttentionShape {
	return []AttentionShape{
		{B: 1, Tq: 1, Tk: 1, N: 1, Nkv: 1, D: 8, Dv: 8, Scale: 0.35},
		{B: 2, Tq: 5, Tk: 5, N: 4, Nkv: 2, D: 8, Dv: 8, Scale: 0.35, Causal: true},
		{B: 1, Tq: 67, Tk: 67, N: 6, Nkv: 3, D: 20, Dv: 12, Scale: 0.2, Causal: true},
		{B: 2, Tq: 3, Tk: 70, N: 2, Nkv: 1, D: 16, Dv: 24, Scale: 0.25, Causal: true},
		{B: 1, Tq: 70, Tk: 9, N: 3, Nkv: 1, D: 10, Dv: 9, Scale: 0.3},
		{B: 1, Tq: 131, Tk: 131, N: 2, Nkv: 2, D: 64, Dv: 64, Scale: 0.125, Causal: true},
		{B: 1, Tq: 5, Tk: 5, N: 2, Nkv: 1, D: 8, Dv: 8, Scale: 0.35, Causal: true, Documents: packed(5, 5, 1)},
		{B: 2, Tq: 67, Tk: 67, N: 6, Nkv: 3, D: 20, Dv: 12, Scale: 0.2, Causal: true, Documents: packed(2*67, 67, 1, 5, 2, 40, 17, 30)},
		{B: 1, Tq: 310, Tk: 310, N: 4, Nkv: 2, D: 16, Dv: 16, Scale: 0.25, Causal: true, Documents: packed(310, 310, 3, 1, 150, 7, 120)},
		{B: 1, Tq: 40, Tk: 300, N: 2, Nkv: 2, D: 10, Dv: 9, Scale: 0.3, Causal: true, Documents: packed(40, 40, 11)},
		// Queries before the first key of their document, and at the end a document without keys: they see nothing.
		{B: 1, Tq: 9, Tk: 9, N: 4, Nkv: 2, D: 8, Dv: 8, Scale: 0.3, Causal: true, Documents: []int32{3, 3, 3, 3, 3, 5, 5, 9, 9}},
	}
}

// packed returns the first keys of n queries, in rows of the given length, whose documents have the given lengths again
// and again; a document that reaches over a row's end goes on in the next one.
func packed(n, row int, lengths ...int) []int32 {
	first, start, next := make([]int32, n), 0, 0
	for i := range first {
		if start+lengths[next%len(lengths)] == i {
			start, next = i, next+1
		}
		first[i] = int32(max(start, i/row*row) % row)
	}
	return first
}

// attentionLayouts are dense operands and heads that are part of a wider row.
func attentionLayouts() []layout { return []layout{{}, {pad: 9, inner: 2}} }

// An attention is one call's operands.
type attention struct {
	AttentionShape
	opt                    kernels.AttentionOptions
	q, k, v, o, statistics operand
	workspace              kernels.Tensor
	wantO, wantLogSumExp   []float64
	sizeQ, sizeK, sizeV    int // elements of a token's row
	shapeQ, shapeK, shapeV []int
}

// attend makes the operands and runs the forward pass.
func (s *suite) attend(p AttentionShape, l layout, special bool) *attention {
	s.t.Helper()
	a := &attention{AttentionShape: p, opt: kernels.AttentionOptions{Scale: p.Scale, Causal: p.Causal}}
	a.shapeQ, a.shapeK, a.shapeV = []int{p.B, p.Tq, p.N, p.D}, []int{p.B, p.Tk, p.Nkv, p.D}, []int{p.B, p.Tk, p.Nkv, p.Dv}
	a.sizeQ, a.sizeK, a.sizeV = p.N*p.D, p.Nkv*p.D, p.Nkv*p.Dv
	a.k, a.v = s.input(l, a.shapeK...), s.input(l, a.shapeV...)
	l.special = special
	a.q = s.input(l, a.shapeQ...)
	l.special = false
	if p.Documents != nil {
		a.opt.Documents = s.numbered(layout{pad: 3}, p.Documents, p.B, p.Tq)
	}
	a.o = s.output(device.Float32, l, p.B, p.Tq, p.N, p.Dv)
	shape, bytes := s.d.AttentionSizes(a.q.Tensor, a.k.Tensor, a.v.Tensor)
	a.statistics = s.output(device.Float32, layout{}, shape...)
	storage, err := s.d.Alloc(max(bytes, 1))
	if err != nil {
		s.t.Fatal(err)
	}
	a.workspace = kernels.NewTensor(storage, 0, device.Uint8, bytes)
	a.wantO, a.wantLogSumExp = make([]float64, a.o.Len()), make([]float64, p.B*p.N*p.Tq)
	Attention(a.wantO, a.wantLogSumExp, a.q.values(), a.k.values(), a.v.values(), p)
	s.d.Attention(s.s, a.o.Tensor, a.statistics.Tensor, a.q.Tensor, a.k.Tensor, a.v.Tensor, a.opt)
	return a
}

// attentionTolerance: outputs are averages of values below 2, whose weights are as exact as the exponentials of scores,
// which have an absolute error of some ulps of the largest score.
func attentionTolerance() tolerance { return tolerance{relative: 16 * ulp, absolute: 64 * ulp} }

func testAttention(s *suite) {
	for _, p := range attentionShapes() {
		for _, l := range attentionLayouts() {
			a := s.attend(p, l, false)
			s.check("Attention o", a.o, a.wantO, attentionTolerance())
		}
	}
	// A row that is one document has the bits of one without documents.
	one := AttentionShape{B: 1, Tq: 300, Tk: 300, N: 2, Nkv: 1, D: 16, Dv: 8, Scale: 0.25, Causal: true}
	plain := s.attend(one, layout{}, false)
	without := plain.o.elements(s.memoryNow(plain.o))
	plain.opt.Documents = s.numbered(layout{}, make([]int32, 300), 1, 300)
	s.d.Attention(s.s, plain.o.Tensor, plain.statistics.Tensor, plain.q.Tensor, plain.k.Tensor, plain.v.Tensor, plain.opt)
	s.check("Attention o of one document", plain.o, without, tolerance{})
	// A query that is not a number has no result, and spoils no other's.
	a := s.attend(AttentionShape{B: 1, Tq: 9, Tk: 9, N: 4, Nkv: 2, D: 16, Dv: 8, Scale: 0.25, Causal: true}, layout{}, true)
	if !math.IsNaN(a.wantO[0]) {
		s.t.Fatal("the first query holds a NaN, its output none")
	}
	s.check("Attention o of a query with NaN", a.o, a.wantO, attentionTolerance())
}

func testAttentionBackward(s *suite) {
	for _, p := range attentionShapes() {
		for _, l := range attentionLayouts() {
			a := s.attend(p, l, false)
			do := s.input(l, p.B, p.Tq, p.N, p.Dv)
			dq, dk := s.output(device.Float32, l, a.shapeQ...), s.output(device.Float32, l, a.shapeK...)
			dv := s.output(device.Float32, l, a.shapeV...)
			wantQ, wantK, wantV := make([]float64, dq.Len()), make([]float64, dk.Len()), make([]float64, dv.Len())
			AttentionBackward(wantQ, wantK, wantV, do.values(), a.q.values(), a.k.values(), a.v.values(), p)
			s.d.AttentionBackward(s.s, dq.Tensor, dk.Tensor, dv.Tensor, do.Tensor, a.q.Tensor, a.k.Tensor, a.v.Tensor,
				a.o.Tensor, a.statistics.Tensor, a.workspace, a.opt)
			// Gradients of keys and values are sums over the queries of a group of heads.
			sum := attentionTolerance()
			sum.absolute *= math.Sqrt(float64(p.Tq * p.N / p.Nkv))
			s.check("AttentionBackward dq", dq, wantQ, tolerance{relative: sum.relative, absolute: 2 * attentionTolerance().absolute})
			s.check("AttentionBackward dk", dk, wantK, sum)
			s.check("AttentionBackward dv", dv, wantV, sum)
			if p.Tq == p.Tk {
				s.fusedBackward(a, do, wantQ, wantK, wantV, sum)
			}
		}
	}
}

// fusedBackward has AttentionBackward write dq, dk and dv into one buffer, as the backward pass of a fused projection
// reads them.
func (s *suite) fusedBackward(a *attention, do operand, wantQ, wantK, wantV []float64, tol tolerance) {
	s.t.Helper()
	width := a.sizeQ + a.sizeK + a.sizeV
	fused := s.output(device.Float32, layout{pad: 4}, a.B, a.Tq, width)
	dq := fused.Narrow(2, 0, a.sizeQ).Split(2, a.N, a.D)
	dk := fused.Narrow(2, a.sizeQ, a.sizeQ+a.sizeK).Split(2, a.Nkv, a.D)
	dv := fused.Narrow(2, a.sizeQ+a.sizeK, width).Split(2, a.Nkv, a.Dv)
	s.d.AttentionBackward(s.s, dq, dk, dv, do.Tensor, a.q.Tensor, a.k.Tensor, a.v.Tensor, a.o.Tensor,
		a.statistics.Tensor, a.workspace, a.opt)
	var want []float64
	for i := range a.B * a.Tq {
		want = append(want, wantQ[i*a.sizeQ:(i+1)*a.sizeQ]...)
		want = append(want, wantK[i*a.sizeK:(i+1)*a.sizeK]...)
		want = append(want, wantV[i*a.sizeV:(i+1)*a.sizeV]...)
	}
	tol.absolute *= 2
	s.check("AttentionBackward dq, dk, dv in one buffer", fused, want, tol)
}
