package conformance

import (
	"math"
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// testAttentionParts computes causal attention as devices do that each have some of the queries and get the keys part by
// part: the sequence is cut into four chunks, of which one device has the first and the last and another the two between.
func testAttentionParts(s *suite) {
	for _, p := range []AttentionShape{
		{B: 1, Tq: 4, Tk: 4, N: 1, Nkv: 1, D: 8, Dv: 8, Scale: 0.35},
		{B: 2, Tq: 36, Tk: 36, N: 4, Nkv: 2, D: 8, Dv: 12, Scale: 0.35},
		{B: 2, Tq: 36, Tk: 36, N: 6, Nkv: 2, D: 12, Dv: 8, Scale: 0.35, Documents: packed(2*36, 36, 1, 5, 2, 20)},
		{B: 1, Tq: 884, Tk: 884, N: 2, Nkv: 1, D: 20, Dv: 16, Scale: 0.25},
		{B: 1, Tq: 884, Tk: 884, N: 2, Nkv: 2, D: 16, Dv: 20, Scale: 0.25, Documents: packed(884, 884, 3, 300, 1, 7, 330)},
	} {
		p.Causal = true
		for _, l := range attentionLayouts() {
			a := s.newPartedAttention(p, l)
			c := p.Tq / 4
			first, middle, last := tokens(0, c), tokens(c, 3*c), tokens(3*c, 4*c)
			outer, inner := slices.Concat(first, last), middle
			// The last chunk sees the two in the middle in full, the first chunk neither.
			a.attend(outer, keyPart{0, 2 * c, outer, true}, keyPart{c, 2 * c, middle, false})
			a.attend(inner, keyPart{0, 2 * c, inner, true}, keyPart{0, 2 * c, first, false})
			a.checkKeys("k", a.dk, a.gotDK)
			a.checkKeys("v", a.dv, a.gotDV)
			// In the other order queries may have seen no key yet when their documents begin.
			a.attend(inner, keyPart{0, 2 * c, first, false}, keyPart{0, 2 * c, inner, true})
		}
	}
}

// tokens returns the numbers [from, to).
func tokens(from, to int) []int {
	list := make([]int, to-from)
	for i := range list {
		list[i] = from + i
	}
	return list
}

// A partedAttention is one problem, [B,T,..] over the whole sequence, as the twin solves it.
type partedAttention struct {
	*suite
	AttentionShape
	layout                          layout
	q, k, v, do, o, lse, dq, dk, dv []float64
	gotDK, gotDV                    []float64 // the sums of what the parts gave
}

func (s *suite) newPartedAttention(p AttentionShape, l layout) *partedAttention {
	s.t.Helper()
	a := &partedAttention{suite: s, AttentionShape: p, layout: l}
	for _, x := range []struct {
		values, result *[]float64
		row            int
	}{{&a.q, &a.dq, p.N * p.D}, {&a.k, &a.dk, p.Nkv * p.D}, {&a.v, &a.dv, p.Nkv * p.Dv}, {&a.do, &a.o, p.N * p.Dv}} {
		*x.values = s.input(layout{}, p.B*p.Tq*x.row).values()
		*x.result = make([]float64, len(*x.values))
	}
	a.lse, a.gotDK, a.gotDV = make([]float64, p.B*p.N*p.Tq), make([]float64, len(a.dk)), make([]float64, len(a.dv))
	Attention(a.o, a.lse, a.q, a.k, a.v, p)
	AttentionBackward(a.dq, a.dk, a.dv, a.do, a.q, a.k, a.v, p)
	return a
}

// each calls visit with the place, in elements, of each row of some tokens among all of x [B,T,row], and among these tokens alone.
func (a *partedAttention) each(row int, tokens []int, visit func(at, i int)) {
	for b := range a.B {
		for i, t := range tokens {
			visit((b*a.Tq+t)*row, (b*len(tokens)+i)*row)
		}
	}
}

// of returns the rows of some tokens of x [B,T,row].
func (a *partedAttention) of(x []float64, row int, tokens []int) []float64 {
	part := make([]float64, a.B*len(tokens)*row)
	a.each(row, tokens, func(at, i int) { copy(part[i:i+row], x[at:]) })
	return part
}

// place makes an operand [B,tokens,heads,width] of some tokens of x.
func (a *partedAttention) place(x []float64, heads, width int, tokens []int) operand {
	part := a.of(x, heads*width, tokens)
	return a.operand(device.Float32, a.layout, func(i int) float64 { return part[i] }, a.B, len(tokens), heads, width)
}

// empty makes an operand of the shape of another, to be written.
func (a *partedAttention) empty(like operand) operand {
	return a.output(device.Float32, a.layout, like.Dims()...)
}

// firstKeys returns the documents operand for queries and keys of the given tokens: in place of a document's first token, how
// many of the keys come before it.
func (a *partedAttention) firstKeys(queries, keys []int) kernels.Tensor {
	if a.Documents == nil {
		return kernels.Tensor{}
	}
	first := make([]int32, a.B*len(queries))
	a.each(1, queries, func(at, i int) {
		n, _ := slices.BinarySearch(keys, int(a.Documents[at]))
		first[i] = int32(n)
	})
	return a.numbered(layout{pad: 3}, first, a.B, len(queries))
}

// A keyPart is what one call is for: the queries [from, to) of a device and some keys, which they see up to themselves or all.
type keyPart struct {
	from, to int
	keys     []int
	causal   bool
}

// attend makes the calls of the device that has the given queries, and checks what comes out of all together.
func (a *partedAttention) attend(queries []int, parts ...keyPart) {
	a.t.Helper()
	q, do := a.place(a.q, a.N, a.D, queries), a.place(a.do, a.N, a.Dv, queries)
	o, dq := a.empty(do), a.empty(q)
	keys := func(p keyPart) (k, v operand) {
		return a.place(a.k, a.Nkv, a.D, p.keys), a.place(a.v, a.Nkv, a.Dv, p.keys)
	}
	k, v := keys(parts[0])
	shape, bytes := a.d.AttentionSizes(q.Tensor, k.Tensor, v.Tensor)
	statistics := a.output(device.Float32, layout{}, shape...)
	storage, err := a.d.Alloc(max(bytes, 1))
	if err != nil {
		a.t.Fatal(err)
	}
	workspace := kernels.NewTensor(storage, 0, device.Uint8, bytes)
	options := func(i int, p keyPart) kernels.AttentionOptions {
		return kernels.AttentionOptions{Scale: a.Scale, Causal: p.causal, Documents: a.firstKeys(queries[p.from:p.to], p.keys), Accumulate: i > 0}
	}
	for i, p := range parts {
		k, v := keys(p)
		a.d.Attention(a.s, o.Narrow(1, p.from, p.to), statistics.Narrow(2, p.from, p.to), q.Narrow(1, p.from, p.to), k.Tensor, v.Tensor, options(i, p))
	}
	a.check("Attention o of keys in parts", o, a.of(a.o, a.N*a.Dv, queries), attentionTolerance())
	for i, p := range parts {
		k, v := keys(p)
		dk, dv := a.empty(k), a.empty(v)
		a.d.AttentionBackward(a.s, dq.Narrow(1, p.from, p.to), dk.Tensor, dv.Tensor, do.Narrow(1, p.from, p.to), q.Narrow(1, p.from, p.to),
			k.Tensor, v.Tensor, o.Narrow(1, p.from, p.to), statistics.Narrow(2, p.from, p.to), workspace, options(i, p))
		a.add(a.gotDK, dk, p.keys)
		a.add(a.gotDV, dv, p.keys)
	}
	a.check("AttentionBackward dq of keys in parts", dq, a.of(a.dq, a.N*a.D, queries), tolerance{absolute: 3 * attentionTolerance().absolute})
}

// add adds the gradient of some keys to sum.
func (a *partedAttention) add(sum []float64, gradient operand, keys []int) {
	part, row := gradient.elements(a.memoryNow(gradient)), gradient.Shape[2]*gradient.Shape[3]
	a.each(row, keys, func(at, i int) {
		for j := range row {
			sum[at+j] += part[i+j]
		}
	})
}

// checkKeys compares a gradient, summed up over the parts, with the twin's.
func (a *partedAttention) checkKeys(name string, want, got []float64) {
	a.t.Helper()
	tol := attentionTolerance()
	tol.absolute *= 2 * math.Sqrt(float64(a.Tq*a.N/a.Nkv))
	for i := range want {
		if !near(got[i], want[i], tol) {
			a.t.Fatalf("AttentionBackward d%s of queries in parts, %v: element %d is %v, the twin has %v", name, a.AttentionShape, i, got[i], want[i])
		}
	}
}
