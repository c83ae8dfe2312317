package conformance

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A shape is an operand's rows and width. None is a multiple of a vector or a block; the largest makes several parts, the
// smallest has no rows, as an expert without tokens.
type shape struct{ rows, width int }

func shapes() []shape {
	return []shape{{0, 5}, {1, 1}, {3, 5}, {7, 33}, {130, 67}, {5, 1031}, {67, 513}}
}

// variants calls f for each shape, layout and for accumulate off and on.
func variants(f func(n shape, l layout, accumulate bool)) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			f(n, l, false)
			f(n, l, true)
		}
	}
}

func testAddBias(s *suite) {
	variants(func(n shape, l layout, accumulate bool) {
		y, bias := s.input(l, n.rows, n.width), s.input(layout{}, n.width)
		want := y.values()
		AddBias(want, bias.values())
		s.d.AddBias(s.s, y.Tensor, bias.Tensor)
		s.check("AddBias y", y, want, tolerance{relative: ulp})

		dy, dbias := s.input(l, n.rows, n.width), s.target(accumulate, layout{}, n.width)
		want = dbias.values()
		AddBiasBackward(want, dy.values(), accumulate)
		s.d.AddBiasBackward(s.s, dbias.Tensor, dy.Tensor, accumulate)
		s.check("AddBiasBackward dbias", dbias, want, tolerance{absolute: 2 * ulp * float64(n.rows)})
	})
}

func testAdd(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			a, b, y := s.input(l, n.rows, n.width), s.input(layout{}, n.rows, n.width), s.output(device.Float32, layout{pad: 5}, n.rows, n.width)
			want := make([]float64, y.Len())
			Add(want, a.values(), b.values())
			s.d.Add(s.s, y.Tensor, a.Tensor, b.Tensor)
			s.check("y = a + b", y, want, tolerance{relative: ulp})
			s.d.Add(s.s, b.Tensor, a.Tensor, b.Tensor)
			s.check("b = a + b", b, want, tolerance{relative: ulp})
			Add(want, want, a.values())
			s.d.Add(s.s, a.Tensor, a.Tensor, b.Tensor)
			s.check("a = a + b", a, want, tolerance{relative: 2 * ulp, absolute: 4 * ulp})
		}
	}
}

func testCopy(s *suite) {
	for _, n := range shapes() {
		x, y := s.input(layout{pad: 3, special: true}, n.rows, n.width), s.output(device.Float32, layout{pad: 2}, n.rows, n.width)
		s.d.Copy(s.s, y.Tensor, x.Tensor)
		s.check("Copy y", y, x.values(), tolerance{})
	}
	heads := s.input(layout{pad: 3, inner: 2}, 2, 3, 4, 5)
	dense := s.output(device.Float32, layout{}, 2, 3, 4, 5)
	s.d.Copy(s.s, dense.Tensor, heads.Tensor)
	s.check("Copy of heads", dense, heads.values(), tolerance{})
	wide := s.operand(device.Float64, layout{pad: 1}, func(i int) float64 { return float64(i) * math.Pi }, 3, 7)
	y := s.output(device.Float64, layout{}, 3, 7)
	s.d.Copy(s.s, y.Tensor, wide.Tensor)
	s.check("Copy of float64", y, wide.values(), tolerance{})
}

func testZero(s *suite) {
	for _, n := range []int{0, 1, 77, 100_003} {
		x := s.output(device.Float32, layout{}, n)
		s.d.Zero(s.s, x.Tensor)
		s.check("Zero x", x, make([]float64, n), tolerance{})
	}
	x := s.output(device.Float64, layout{}, 3, 5)
	s.d.Zero(s.s, x.Tensor)
	s.check("Zero of float64", x, make([]float64, 15), tolerance{})
}

func testSum(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			x, out := s.input(l, n.rows, n.width), s.output(device.Float64, layout{}, 1)
			want := 0.0
			for _, v := range x.values() {
				want += v
			}
			s.d.Sum(s.s, out.Tensor, x.Tensor)
			s.check("Sum out", out, []float64{want}, tolerance{}) // the order is part of the definition
		}
	}
}

const rmsNormEps = 1e-5

func testRMSNorm(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			x, gamma := s.input(l, n.rows, n.width), s.input(layout{}, n.width)
			y, rstd := s.output(device.Float32, l, n.rows, n.width), s.output(device.Float32, layout{}, n.rows)
			wantY, wantRstd := make([]float64, y.Len()), make([]float64, n.rows)
			RMSNorm(wantY, wantRstd, x.values(), gamma.values(), rmsNormEps)
			s.d.RMSNorm(s.s, y.Tensor, rstd.Tensor, x.Tensor, gamma.Tensor, rmsNormEps)
			s.check("RMSNorm y", y, wantY, tolerance{relative: 4 * ulp})
			s.check("RMSNorm rstd", rstd, wantRstd, tolerance{relative: 2 * ulp})
		}
	}
	// The norm of each head of a fused projection: a view of four dimensions.
	heads, gamma := s.input(layout{pad: 10, inner: 2}, 2, 3, 4, 6), s.input(layout{}, 6)
	y, rstd := s.output(device.Float32, layout{}, 2, 3, 4, 6), s.output(device.Float32, layout{}, 24)
	wantY, wantRstd := make([]float64, y.Len()), make([]float64, 24)
	RMSNorm(wantY, wantRstd, heads.values(), gamma.values(), rmsNormEps)
	s.d.RMSNorm(s.s, y.Tensor, rstd.Tensor, heads.Tensor, gamma.Tensor, rmsNormEps)
	s.check("RMSNorm of heads", y, wantY, tolerance{relative: 4 * ulp})
}

func testAddRMSNorm(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			a, b, gamma := s.input(l, n.rows, n.width), s.input(layout{pad: 2}, n.rows, n.width), s.input(layout{}, n.width)
			y, rstd := s.output(device.Float32, l, n.rows, n.width), s.output(device.Float32, layout{}, n.rows)
			sum := s.output(device.Float32, layout{pad: 5}, n.rows, n.width)
			wantY, wantRstd, wantSum := make([]float64, y.Len()), make([]float64, n.rows), make([]float64, y.Len())
			AddRMSNorm(wantY, wantRstd, wantSum, a.values(), b.values(), gamma.values(), rmsNormEps)
			for _, to := range []operand{sum, a} { // a is the last one: it is an input until then
				s.d.AddRMSNorm(s.s, y.Tensor, rstd.Tensor, to.Tensor, a.Tensor, b.Tensor, gamma.Tensor, rmsNormEps)
				s.check("AddRMSNorm sum", to, wantSum, tolerance{relative: ulp})
				s.check("AddRMSNorm y", y, wantY, tolerance{relative: 5 * ulp})
				s.check("AddRMSNorm rstd", rstd, wantRstd, tolerance{relative: 4 * ulp})
			}
		}
	}
}

func testRMSNormBackwardInput(s *suite) {
	variants(func(n shape, l layout, withResidual bool) {
		dy, x, gamma := s.input(l, n.rows, n.width), s.input(l, n.rows, n.width), s.input(layout{}, n.width)
		rstd, dx := s.input(layout{}, n.rows), s.output(device.Float32, layout{pad: 5}, n.rows, n.width)
		var residual operand // none
		outputs := []operand{dx, dy}
		if withResidual {
			residual = s.input(layout{pad: 2}, n.rows, n.width)
			outputs = []operand{dx, residual}
		}
		want := make([]float64, dx.Len())
		RMSNormBackwardInput(want, dy.values(), x.values(), rstd.values(), gamma.values(), residual.values())
		for _, to := range outputs {
			s.d.RMSNormBackwardInput(s.s, to.Tensor, dy.Tensor, x.Tensor, rstd.Tensor, gamma.Tensor, residual.Tensor)
			// |rstd| < 2 and the mean of g*x is below 8: terms of up to 2*(4 + 2*4*8).
			s.check("RMSNormBackwardInput dx", to, want, tolerance{relative: 4 * ulp, absolute: 500 * ulp})
		}
	})
}

func testRMSNormBackwardWeight(s *suite) {
	variants(func(n shape, l layout, accumulate bool) {
		dy, x, rstd := s.input(l, n.rows, n.width), s.input(l, n.rows, n.width), s.input(layout{}, n.rows)
		dgamma := s.target(accumulate, layout{}, n.width)
		want := dgamma.values()
		RMSNormBackwardWeight(want, dy.values(), x.values(), rstd.values(), accumulate)
		s.d.RMSNormBackwardWeight(s.s, dgamma.Tensor, dy.Tensor, x.Tensor, rstd.Tensor, accumulate)
		s.check("RMSNormBackwardWeight dgamma", dgamma, want, tolerance{absolute: 8 * ulp * float64(n.rows)})
	})
}

func testRoPE(s *suite) {
	for _, d := range [][4]int{{1, 1, 1, 2}, {2, 3, 5, 6}, {3, 67, 3, 34}} {
		for _, l := range []layout{{}, {pad: 7, inner: 2}, {special: true}} {
			s.rope(d, d[1], l, nil)
			// Positions that start again, in any order, from tables with rows to spare.
			positions := make([]int32, d[0]*d[1])
			for i := range positions {
				positions[i] = int32(i * i % 11)
			}
			s.rope(d, 11, l, positions)
		}
	}
}

// rope rotates x [B,T,N,D] by tables of the given number of rows; positions may be nil.
func (s *suite) rope(d [4]int, rows int, l layout, positions []int32) {
	s.t.Helper()
	x, y := s.input(l, d[:]...), s.output(device.Float32, layout{pad: 3, inner: 2}, d[:]...)
	angle := func(i int) float64 { return float64(i/d[3]) * math.Pow(0.3, float64(i%d[3]%(d[3]/2))) }
	cos := s.operand(device.Float32, layout{pad: 2}, func(i int) float64 { return float64(float32(math.Cos(angle(i)))) }, rows, d[3])
	sin := s.operand(device.Float32, layout{}, func(i int) float64 { return float64(float32(math.Sin(angle(i)))) }, rows, d[3])
	var at kernels.Tensor
	if positions != nil {
		at = s.numbered(layout{pad: 2}, positions, d[0], d[1])
	}
	tol := tolerance{relative: ulp, absolute: 6 * ulp}
	for bits := range 4 {
		o := kernels.RoPEOptions{Inverse: bits&1 != 0, Interleaved: bits&2 != 0}
		want := make([]float64, x.Len())
		RoPE(want, x.values(), cos.values(), sin.values(), positions, d[1], d[2], d[3], o)
		s.d.RoPE(s.s, y.Tensor, x.Tensor, cos.Tensor, sin.Tensor, at, o)
		s.check("RoPE y", y, want, tol)
	}
	o := kernels.RoPEOptions{Inverse: true}
	s.d.RoPE(s.s, x.Tensor, x.Tensor, cos.Tensor, sin.Tensor, at, o)
	want := make([]float64, x.Len())
	RoPE(want, x.values(), cos.values(), sin.values(), positions, d[1], d[2], d[3], o)
	s.check("RoPE y in place of x", x, want, tol)
}

func testSumHeads(s *suite) {
	for _, n := range [][4]int{{0, 3, 2, 4}, {1, 1, 1, 5}, {2, 70, 5, 33}} {
		for _, l := range attentionLayouts() {
			x, y := s.input(l, n[0], n[1], n[2], n[3]), s.output(device.Float32, layout{pad: 2}, n[0], n[1], 1, n[3])
			want := make([]float64, y.Len())
			SumHeads(want, x.values(), n[2], n[3])
			s.d.SumHeads(s.s, y.Tensor, x.Tensor)
			s.check("SumHeads y", y, want, tolerance{absolute: 4 * ulp * float64(n[2])})
			// Its forward pass: a copy of one head to all.
			s.d.Copy(s.s, x.Tensor, y.Tensor.Expand(2, n[2]))
			s.check("Copy of one head to all", x, expandHeads(s.elementsNow(y), n[2], n[3]), tolerance{})
		}
	}
}

// elementsNow reads the operand's elements.
func (s *suite) elementsNow(o operand) []float64 { return o.elements(s.memoryNow(o)) }

// expandHeads repeats each head of d elements n times.
func expandHeads(x []float64, n, d int) []float64 {
	var y []float64
	for at := 0; at < len(x); at += d {
		for range n {
			y = append(y, x[at:at+d]...)
		}
	}
	return y
}

func testSwiGLU(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			x, y := s.input(l, n.rows, 2*n.width), s.output(device.Float32, layout{pad: 1}, n.rows, n.width)
			want := make([]float64, y.Len())
			SwiGLU(want, x.values(), n.width)
			s.d.SwiGLU(s.s, y.Tensor, x.Tensor)
			s.check("SwiGLU y", y, want, tolerance{relative: 12 * ulp})

			dy, dx := s.input(l, n.rows, n.width), s.output(device.Float32, layout{pad: 5}, n.rows, 2*n.width)
			want = make([]float64, x.Len())
			SwiGLUBackward(want, dy.values(), x.values(), n.width)
			tol := tolerance{relative: 12 * ulp, absolute: 40 * ulp} // 1 + gate*(1-s) may cancel
			s.d.SwiGLUBackward(s.s, dx.Tensor, dy.Tensor, x.Tensor)
			s.check("SwiGLUBackward dx", dx, want, tol)
			s.d.SwiGLUBackward(s.s, x.Tensor, dy.Tensor, x.Tensor)
			s.check("SwiGLUBackward dx in place of x", x, want, tol)
		}
	}
	// Gates far out on both sides: silu tends to the gate, and to 0 without a NaN.
	far := []float64{-3e38, -1e4, -104, -89, -20, 20, 89, 1e4, 3e38, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	x := s.operand(device.Float32, layout{}, func(i int) float64 { return float64(float32(far[i])) }, 1, 18)
	y := s.output(device.Float32, layout{}, 1, 9)
	want := make([]float64, 9)
	SwiGLU(want, x.values(), 9)
	s.d.SwiGLU(s.s, y.Tensor, x.Tensor)
	s.check("SwiGLU of far gates", y, want, tolerance{relative: 12 * ulp, absolute: 1e-36})
}

// someIDs returns n ids below v, with repetitions.
func someIDs(n, v int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((i*i + 3*i) % v)
	}
	return ids
}

func testEmbedding(s *suite) {
	const v = 11
	variants(func(n shape, l layout, accumulate bool) {
		list := someIDs(n.rows, v)
		ids, weight := s.ids(list...), s.input(l, v, n.width)
		y := s.output(device.Float32, layout{pad: 3}, n.rows, n.width)
		want := make([]float64, y.Len())
		Embedding(want, weight.values(), list, n.width)
		s.d.Embedding(s.s, y.Tensor, weight.Tensor, ids.Tensor)
		s.check("Embedding y", y, want, tolerance{})
		narrow := s.bfloat16Input(l, v, n.width)
		Embedding(want, narrow.values(), list, n.width)
		s.d.Embedding(s.s, y.Tensor, narrow.Tensor, ids.Tensor)
		s.check("Embedding of bfloat16", y, want, tolerance{})

		if n.rows > 1 {
			list[1] = -1 // goes nowhere
			ids = s.ids(list...)
		}
		dy, dweight := s.input(l, n.rows, n.width), s.target(accumulate, layout{pad: 3}, v, n.width)
		want = dweight.values()
		EmbeddingBackward(want, dy.values(), list, n.width, accumulate)
		s.d.EmbeddingBackward(s.s, dweight.Tensor, dy.Tensor, ids.Tensor, accumulate)
		s.check("EmbeddingBackward dweight", dweight, want, tolerance{absolute: 2 * ulp * float64(n.rows)})
	})
}

func testCrossEntropy(s *suite) {
	const scale = 0.37
	for _, n := range append(shapes(), shape{2, 9001}) {
		for _, l := range layouts() {
			list := someIDs(n.rows, n.width)
			if n.rows > 0 {
				list[n.rows-1] = -100
			}
			labels, logits := s.ids(list...), s.input(l, n.rows, n.width)
			loss, dlogits := s.output(device.Float32, layout{}, n.rows), s.output(device.Float32, layout{pad: 3}, n.rows, n.width)
			wantLoss, want := make([]float64, n.rows), make([]float64, logits.Len())
			CrossEntropy(wantLoss, want, logits.values(), list, n.width, scale)
			lossTol, tol := tolerance{relative: 4 * ulp, absolute: 8 * ulp}, tolerance{relative: 12 * ulp, absolute: 2 * ulp}
			s.d.CrossEntropy(s.s, loss.Tensor, kernels.Tensor{}, logits.Tensor, labels.Tensor, scale)
			s.check("CrossEntropy loss alone", loss, wantLoss, lossTol)
			s.d.CrossEntropy(s.s, loss.Tensor, dlogits.Tensor, logits.Tensor, labels.Tensor, scale)
			s.check("CrossEntropy loss", loss, wantLoss, lossTol)
			s.check("CrossEntropy dlogits", dlogits, want, tol)
			s.d.CrossEntropy(s.s, loss.Tensor, logits.Tensor, logits.Tensor, labels.Tensor, scale)
			s.check("CrossEntropy loss of in-place", loss, wantLoss, lossTol)
			s.check("CrossEntropy dlogits in place of logits", logits, want, tol)
		}
	}
	// Large logits: exponentials taken without their maximum would overflow.
	logits := s.operand(device.Float32, layout{}, func(i int) float64 { return 1e4 + float64(i) }, 1, 5)
	loss, labels := s.output(device.Float32, layout{}, 1), s.ids(2)
	wantLoss, want := make([]float64, 1), make([]float64, 5)
	CrossEntropy(wantLoss, want, logits.values(), []int32{2}, 5, 1)
	s.d.CrossEntropy(s.s, loss.Tensor, logits.Tensor, logits.Tensor, labels.Tensor, 1)
	s.check("CrossEntropy loss of large logits", loss, wantLoss, tolerance{relative: 4 * ulp})
	s.check("CrossEntropy dlogits of large logits", logits, want, tolerance{relative: 12 * ulp, absolute: ulp})
}

func testSquaredNorm(s *suite) {
	for _, n := range []int{1, 31, kernels.SquaredNormBlock, 3*kernels.SquaredNormBlock + 17, 9 * kernels.SquaredNormBlock} {
		for _, special := range []bool{false, true} {
			x := s.input(layout{special: special}, n)
			sums := s.output(device.Float64, layout{}, kernels.SquaredNormBlocks(n))
			want := make([]float64, sums.Len())
			SquaredNorm(want, x.values())
			s.d.SquaredNorm(s.s, sums.Tensor, x.Tensor)
			s.check("SquaredNorm sums", sums, want, tolerance{relative: 1e-14})
		}
	}
}

func testAdamW(s *suite) {
	o := kernels.AdamWOptions{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Step: 1}
	late := o
	late.Step, late.WeightDecay = 1000, 0
	slow := o
	slow.Beta1, slow.Step = 0.3, 2 // PyTorch interpolates from the other end, where infinities become NaNs
	for _, o := range []kernels.AdamWOptions{o, late, slow} {
		for _, n := range []int{1, 77, 20_011} {
			for _, clip := range [][]float64{{1, 1, 1}, {2, 0.5, 1}, {math.NaN(), math.NaN(), 0}, {math.Inf(1), 0, 0}} {
				p, m, g := s.input(layout{}, n), s.input(layout{}, n), s.input(layout{special: o.Beta1 > 0.5}, n)
				v := s.operand(device.Float32, layout{}, func(int) float64 { x := s.random(); return float64(float32(x * x)) }, n)
				c := s.operand(device.Float64, layout{}, func(i int) float64 { return clip[i] }, 3)
				wantP, wantM, wantV := p.values(), m.values(), v.values()
				AdamW(wantP, wantM, wantV, g.values(), clip, o)
				s.d.AdamW(s.s, p.Tensor, m.Tensor, v.Tensor, g.Tensor, c.Tensor, o)
				tol := tolerance{relative: 4 * ulp, absolute: 4 * ulp}
				s.check("AdamW m", m, wantM, tol)
				s.check("AdamW v", v, wantV, tol)
				s.check("AdamW p", p, wantP, tolerance{relative: 4 * ulp, absolute: 1e-6})
			}
		}
	}
}
