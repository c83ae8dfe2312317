package conformance

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A narrowing is a call of an operator whose activations may be BFloat16. It has the bits of the same call on the same values as
// Float32, its activations rounded at the end.
type narrowing struct {
	name string
	// The shapes of activations, and of outputs that are Float32 always. All begin with values, to accumulate to.
	outputs, inputs, exact [][]int
	// product is set where operands may have types of their own, large where one layout is enough.
	product, large bool
	// masks say which activations of a call are BFloat16, outputs first from the lowest bit on; nil: all, in one call.
	masks []uint
	run   func(out, in, exact []kernels.Tensor)
}

// all is the mask of a call whose activations are all BFloat16.
const all = ^uint(0)

func testActivations(s *suite) {
	factors := []uint{0b101, 0b111, 0b011} // of c, a and b
	for i, l := range layouts() {
		for _, c := range s.narrowings() {
			switch {
			case c.masks != nil:
				for _, mask := range c.masks {
					s.narrow(c, l, mask)
				}
			case !c.product:
				s.narrow(c, l, all)
			case !c.large || i == 0:
				s.narrow(c, l, factors[i])
			}
		}
	}
}

// narrow makes a call with the activations whose bits are set in mask, outputs first, as BFloat16, and with none.
func (s *suite) narrow(c narrowing, l layout, mask uint) {
	s.t.Helper()
	pairs := func(list [][]int, l layout, mask uint) (mixed, wide []operand) {
		for i, shape := range list {
			one := s.bfloat16Input(l, shape...)
			values := one.values()
			same := func() operand {
				return s.operand(device.Float32, layout{pad: l.pad}, func(i int) float64 { return values[i] }, shape...)
			}
			if mask>>i&1 == 0 {
				one = same()
			}
			mixed, wide = append(mixed, one), append(wide, same())
		}
		return mixed, wide
	}
	out, wantOut := pairs(c.outputs, layout{pad: l.pad}, mask)
	in, wideIn := pairs(c.inputs, l, mask>>len(c.outputs))
	exact, wantExact := pairs(c.exact, layout{}, 0)
	c.run(tensors(out), tensors(in), tensors(exact))
	c.run(tensors(wantOut), tensors(wideIn), tensors(wantExact))
	for i, o := range append(out, exact...) {
		w := append(wantOut, wantExact...)[i]
		want := w.elements(s.memoryNow(w))
		if o.DType == device.BFloat16 {
			Cast(want, want)
		}
		s.check(fmt.Sprintf("%s, output %d,", c.name, i), o, want, tolerance{})
	}
}

func tensors(operands []operand) []kernels.Tensor {
	var list []kernels.Tensor
	for _, o := range operands {
		list = append(list, o.Tensor)
	}
	return list
}

// narrowings returns the calls that are made with BFloat16.
func (s *suite) narrowings() []narrowing {
	return append(append(s.narrowRows(), s.narrowHeads()...), append(s.narrowProducts(), s.narrowExperts()...)...)
}

type list = []kernels.Tensor

// narrowRows are the operators that work row by row, and sums over rows.
func (s *suite) narrowRows() []narrowing {
	const rows, width, v = 130, 67, 11
	d, st := s.d, s.s
	x, twice, one, perRow := []int{rows, width}, []int{rows, 2 * width}, []int{width}, []int{rows}
	gamma, rstd, ids := s.input(layout{}, width).Tensor, s.input(layout{}, rows).Tensor, s.ids(someIDs(rows, v)...).Tensor
	weight := s.bfloat16Input(layout{}, v, width).Tensor
	return []narrowing{
		{name: "Add", outputs: [][]int{x}, inputs: [][]int{x, x}, masks: []uint{all, 0b100, 0b011}, run: func(out, in, _ list) { d.Add(st, out[0], in[0], in[1]) }},
		{name: "Add in place", outputs: [][]int{x}, inputs: [][]int{x}, run: func(out, in, _ list) { d.Add(st, out[0], in[0], out[0]) }},
		{name: "AddRMSNorm", outputs: [][]int{x, x}, inputs: [][]int{x, x}, exact: [][]int{perRow}, masks: []uint{0b1001, 0b0001, 0b1000}, run: func(out, in, exact list) {
			d.AddRMSNorm(st, out[0], exact[0], out[1], in[0], in[1], gamma, rmsNormEps)
		}},
		{name: "Copy", outputs: [][]int{x}, inputs: [][]int{x}, run: func(out, in, _ list) { d.Copy(st, out[0], in[0]) }},
		{name: "AddBias", outputs: [][]int{x}, run: func(out, _, _ list) { d.AddBias(st, out[0], gamma) }},
		{name: "AddBiasBackward", inputs: [][]int{x}, exact: [][]int{one}, run: func(_, in, exact list) {
			d.AddBiasBackward(st, exact[0], in[0], true)
		}},
		{name: "Dropout", outputs: [][]int{x}, inputs: [][]int{x}, run: func(out, in, _ list) {
			d.Dropout(st, out[0], in[0], kernels.DropoutOptions{Scale: 1.25, Rate: 0.2, Key: 5, Stream: 6})
		}},
		{name: "RMSNorm", outputs: [][]int{x}, inputs: [][]int{x}, exact: [][]int{perRow}, masks: []uint{all, 0b01, 0b10}, run: func(out, in, exact list) {
			d.RMSNorm(st, out[0], exact[0], in[0], gamma, rmsNormEps)
		}},
		{name: "RMSNormBackwardInput", outputs: [][]int{x}, inputs: [][]int{x, x, x}, masks: []uint{all, 0b0010, 0b1101}, run: func(out, in, _ list) {
			d.RMSNormBackwardInput(st, out[0], in[0], in[1], rstd, gamma, in[2])
		}},
		{name: "RMSNormBackwardInput in place", outputs: [][]int{x}, inputs: [][]int{x}, run: func(out, in, _ list) {
			d.RMSNormBackwardInput(st, out[0], out[0], in[0], rstd, gamma, kernels.Tensor{})
		}},
		{name: "RMSNormBackwardWeight", inputs: [][]int{x, x}, exact: [][]int{one}, masks: []uint{all, 0b01, 0b10}, run: func(_, in, exact list) {
			d.RMSNormBackwardWeight(st, exact[0], in[0], in[1], rstd, true)
		}},
		{name: "SwiGLU", outputs: [][]int{x}, inputs: [][]int{twice}, run: func(out, in, _ list) { d.SwiGLU(st, out[0], in[0]) }},
		{name: "SwiGLUBackward", outputs: [][]int{twice}, inputs: [][]int{x}, run: func(out, in, _ list) {
			d.SwiGLUBackward(st, out[0], in[0], out[0])
		}},
		{name: "Embedding", outputs: [][]int{x}, run: func(out, _, _ list) { d.Embedding(st, out[0], weight, ids) }},
		{name: "EmbeddingPart", outputs: [][]int{x}, run: func(out, _, _ list) {
			d.EmbeddingPart(st, out[0], weight, ids, kernels.Vocabulary{First: 3, Whole: 2 * v})
		}},
		{name: "EmbeddingBackward", inputs: [][]int{x}, exact: [][]int{{v, width}}, run: func(_, in, exact list) {
			d.EmbeddingBackward(st, exact[0], in[0], ids, true)
		}},
		{name: "EmbeddingBackward of a new gradient", inputs: [][]int{x}, exact: [][]int{{v, width}}, run: func(_, in, exact list) {
			d.EmbeddingBackward(st, exact[0], in[0], ids, false)
		}},
	}
}

// narrowHeads are the operators on heads.
func (s *suite) narrowHeads() []narrowing {
	d, st := s.d, s.s
	cos, sin := s.input(layout{}, 9, 6).Tensor, s.input(layout{}, 9, 6).Tensor
	heads, none := []int{2, 9, 3, 6}, kernels.Tensor{}
	narrowings := []narrowing{
		{name: "RoPE", outputs: [][]int{heads}, inputs: [][]int{heads}, run: func(out, in, _ list) {
			d.RoPE(st, out[0], in[0], cos, sin, none, kernels.RoPEOptions{})
		}},
		{name: "RoPE of pairs, back and in place", outputs: [][]int{heads}, run: func(out, _, _ list) {
			d.RoPE(st, out[0], out[0], cos, sin, none, kernels.RoPEOptions{Inverse: true, Interleaved: true})
		}},
		{name: "SumHeads", outputs: [][]int{{2, 9, 1, 6}}, inputs: [][]int{heads}, run: func(out, in, _ list) { d.SumHeads(st, out[0], in[0]) }},
	}
	for _, p := range attentionShapes() {
		opt := kernels.AttentionOptions{Scale: p.Scale, Causal: p.Causal}
		if p.Documents != nil {
			opt.Documents = s.numbered(layout{}, p.Documents, p.B, p.Tq)
		}
		q, k, v, o := []int{p.B, p.Tq, p.N, p.D}, []int{p.B, p.Tk, p.Nkv, p.D}, []int{p.B, p.Tk, p.Nkv, p.Dv}, []int{p.B, p.Tq, p.N, p.Dv}
		size := kernels.NewTensor(nil, 0, device.Float32, q...)
		statistics, _ := d.AttentionSizes(size, size, size)
		narrowings = append(narrowings,
			narrowing{name: "Attention", outputs: [][]int{o}, inputs: [][]int{q, k, v}, exact: [][]int{statistics},
				run: func(out, in, exact list) { d.Attention(st, out[0], exact[0], in[0], in[1], in[2], opt) }},
			narrowing{name: "AttentionBackward", outputs: [][]int{q, k, v}, inputs: [][]int{q, k, v, o, o}, exact: [][]int{statistics},
				run: func(out, in, exact list) {
					d.AttentionBackward(st, out[0], out[1], out[2], in[3], in[0], in[1], in[2], in[4], exact[0], s.workspace(in[0], in[1], in[2]), opt)
				}})
	}
	return narrowings
}

// workspace returns what AttentionBackward needs.
func (s *suite) workspace(q, k, v kernels.Tensor) kernels.Tensor {
	s.t.Helper()
	_, bytes := s.d.AttentionSizes(q, k, v)
	storage, err := s.d.Alloc(max(bytes, 1))
	if err != nil {
		s.t.Fatal(err)
	}
	return kernels.NewTensor(storage, 0, device.Uint8, bytes)
}

// narrowProducts are matrix products, the last so large that a device may cut K and M into parts.
func (s *suite) narrowProducts() []narrowing {
	var narrowings []narrowing
	for i, n := range [][3]int{{1, 1, 1}, {17, 33, 65}, {13, 37, 270}, {3, 4, 0}, {530, 40, 400}} {
		for bits := range 8 {
			if i == 4 && bits%3 != 0 {
				continue // enough
			}
			o := kernels.MatMulOptions{TransA: bits&1 != 0, TransB: bits&2 != 0, Accumulate: bits&4 != 0}
			a, b, c := []int{n[0], n[2]}, []int{n[2], n[1]}, []int{n[0], n[1]}
			if o.TransA {
				a = []int{n[2], n[0]}
			}
			if o.TransB {
				b = []int{n[1], n[2]}
			}
			narrowings = append(narrowings, narrowing{name: fmt.Sprintf("MatMul %+v", o), outputs: [][]int{c}, inputs: [][]int{a, b},
				product: true, large: i == 4,
				run: func(out, in, _ list) { s.d.MatMul(s.s, out[0], in[0], in[1], o) }})
		}
	}
	return narrowings
}

// narrowExperts are the operators of a mixture of experts.
func (s *suite) narrowExperts() []narrowing {
	const width, n = 37, 29
	a := s.assign(301, 3, 8)
	r, position, offsets := a.tokens*a.k, a.positions.Tensor, a.firsts.Tensor
	weights := s.input(layout{}, a.tokens, a.k).Tensor
	tokens, rows, twice := []int{a.tokens, width}, []int{r, width}, []int{r, 2 * width}
	grouped := func(o kernels.MatMulOptions) func(out, in, _ list) {
		return func(out, in, _ list) { s.d.GroupedMatMul(s.s, out[0], in[0], in[1], offsets, o) }
	}
	return []narrowing{
		{name: "Permute", outputs: [][]int{rows}, inputs: [][]int{tokens}, run: func(out, in, _ list) {
			s.d.Permute(s.s, out[0], in[0], position)
		}},
		{name: "Unpermute", outputs: [][]int{tokens}, inputs: [][]int{rows}, run: func(out, in, _ list) { s.d.Unpermute(s.s, out[0], in[0], position) }},
		{name: "ExpertSwiGLU", outputs: [][]int{rows}, inputs: [][]int{twice}, run: func(out, in, _ list) {
			s.d.ExpertSwiGLU(s.s, out[0], in[0], weights, position)
		}},
		{name: "ExpertSwiGLUBackward", outputs: [][]int{twice}, inputs: [][]int{rows}, exact: [][]int{{a.tokens, a.k}}, run: func(out, in, exact list) {
			s.d.ExpertSwiGLUBackward(s.s, out[0], exact[0], in[0], out[0], weights, position)
		}},
		{name: "GroupedMatMul", outputs: [][]int{{r, n}}, inputs: [][]int{rows, {a.e, width, n}}, product: true, run: grouped(kernels.MatMulOptions{Accumulate: true})},
		{name: "GroupedMatMul, b transposed", outputs: [][]int{{r, n}}, inputs: [][]int{rows, {a.e, n, width}}, product: true, run: grouped(kernels.MatMulOptions{TransB: true})},
		{name: "GroupedMatMul, a transposed", outputs: [][]int{{a.e, width, n}}, inputs: [][]int{rows, {r, n}}, product: true, run: grouped(kernels.MatMulOptions{TransA: true})},
	}
}

// testNarrowSum checks that AddRMSNorm normalises its sum as it is stored: RMSNorm of what is kept has the same bits.
func testNarrowSum(s *suite) {
	for _, n := range shapes() {
		for _, l := range layouts() {
			a, b, gamma := s.bfloat16Input(l, n.rows, n.width), s.bfloat16Input(layout{pad: 2}, n.rows, n.width), s.input(layout{}, n.width)
			sum, y, again := s.output(device.BFloat16, l, n.rows, n.width), s.output(device.BFloat16, layout{}, n.rows, n.width), s.output(device.BFloat16, layout{}, n.rows, n.width)
			rstd, rstdAgain := s.output(device.Float32, layout{}, n.rows), s.output(device.Float32, layout{}, n.rows)
			want := make([]float64, a.Len())
			Add(want, a.values(), b.values())
			Cast(want, want)
			s.d.AddRMSNorm(s.s, y.Tensor, rstd.Tensor, sum.Tensor, a.Tensor, b.Tensor, gamma.Tensor, rmsNormEps)
			s.check("AddRMSNorm sum", sum, want, tolerance{})
			s.d.RMSNorm(s.s, again.Tensor, rstdAgain.Tensor, sum.Tensor, gamma.Tensor, rmsNormEps)
			s.check("AddRMSNorm y", y, again.elements(s.memoryNow(again)), tolerance{})
			s.check("AddRMSNorm rstd", rstd, rstdAgain.elements(s.memoryNow(rstdAgain)), tolerance{})
		}
	}
}
