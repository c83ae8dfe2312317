package cpu

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/conformance"
	"lockstep/kernels/device"
)

// attentionShapes has blocks that are whole, cut and single, heads that are shared, widths that differ, more keys than
// queries and fewer.
func attentionShapes() []conformance.AttentionShape {
	scale := func(d int) float64 { return 1 / math.Sqrt(float64(d)) }
	return []conformance.AttentionShape{
		{B: 1, Tq: 1, Tk: 1, N: 1, Nkv: 1, D: 8, Dv: 8, Scale: scale(8), Causal: true},
		{B: 2, Tq: 7, Tk: 7, N: 4, Nkv: 2, D: 16, Dv: 16, Scale: scale(16), Causal: true},
		{B: 1, Tq: 1, Tk: 300, N: 6, Nkv: 2, D: 24, Dv: 8, Scale: scale(24), Causal: true},
		{B: 1, Tq: 5, Tk: 270, N: 3, Nkv: 3, D: 9, Dv: 35, Scale: scale(9), Causal: true},
		{B: 1, Tq: 203, Tk: 203, N: 2, Nkv: 1, D: 33, Dv: 20, Scale: scale(33), Causal: true},
		{B: 1, Tq: 101, Tk: 290, N: 3, Nkv: 1, D: 12, Dv: 12, Scale: -0.4, Causal: false},
		{B: 1, Tq: 40, Tk: 23, N: 1, Nkv: 1, D: 256, Dv: 128, Scale: scale(256), Causal: false},
		{B: 1, Tq: 300, Tk: 300, N: 1, Nkv: 1, D: 8, Dv: 16, Scale: 1, Causal: true},
		{B: 1, Tq: 9, Tk: 5, N: 2, Nkv: 2, D: 8, Dv: 8, Scale: 0.5, Causal: true}, // the first rows see nothing
		{B: 2, Tq: 203, Tk: 203, N: 3, Nkv: 1, D: 33, Dv: 20, Scale: scale(33), Causal: true, Documents: packed(2, 203, 1)},
		{B: 2, Tq: 601, Tk: 601, N: 2, Nkv: 1, D: 12, Dv: 20, Scale: scale(12), Causal: true, Documents: packed(2, 601, 7, 1, 300, 16, 192, 33, 2)},
		{B: 1, Tq: 400, Tk: 500, N: 3, Nkv: 3, D: 9, Dv: 8, Scale: scale(9), Causal: true, Documents: packed(1, 400, 97, 203)},
		// A block of rows, and one of keys, that begins with the last token of a document.
		{B: 1, Tq: 2*forwardRows + 10, Tk: 2*forwardRows + 10, N: 1, Nkv: 1, D: 8, Dv: 8, Scale: 0.5, Causal: true,
			Documents: packed(1, 2*forwardRows+10, forwardRows+1)},
		// Rows of the same panel that see nothing, some keys and others.
		{B: 1, Tq: 20, Tk: 20, N: 2, Nkv: 1, D: 8, Dv: 8, Scale: 0.5, Causal: true,
			Documents: []int32{3, 3, 3, 3, 3, 5, 9, 9, 9, 9, 9, 9, 12, 12, 12, 15, 15, 15, 20, 20}},
	}
}

// packed returns the first keys of rows of queries whose documents have the given lengths again and again.
func packed(rows, width int, lengths ...int) []int32 {
	var first []int32
	for next := 0; len(first) < rows*width; {
		start := len(first) % width
		for range min(lengths[next%len(lengths)], width-start) {
			first = append(first, int32(start))
		}
		next++
	}
	return first
}

// An attentionCase has the operands and results of one problem. q, k and v are views of one fused projection, and so are
// their gradients.
type attentionCase struct {
	conformance.AttentionShape
	q, k, v, do []float32
	o, lse      []float32
	dq, dk, dv  []float32
}

func newAttentionCase(s conformance.AttentionShape) attentionCase {
	return attentionCase{
		AttentionShape: s,
		q:              noise(s.B*s.Tq*s.N*s.D, 1, 2), k: noise(s.B*s.Tk*s.Nkv*s.D, 2, 2),
		v: noise(s.B*s.Tk*s.Nkv*s.Dv, 3, 1), do: noise(s.B*s.Tq*s.N*s.Dv, 4, 1),
	}
}

// run computes both passes on a device.
func (a *attentionCase) run(t testing.TB, d *Device, s device.Stream) {
	t.Helper()
	place := func(x []float32, time, heads, width int) kernels.Tensor {
		v := strided(t, d, s, x, 5, a.B, time, heads*width)
		return v.Split(2, heads, width)
	}
	q, k, v := place(a.q, a.Tq, a.N, a.D), place(a.k, a.Tk, a.Nkv, a.D), place(a.v, a.Tk, a.Nkv, a.Dv)
	do, o := place(a.do, a.Tq, a.N, a.Dv), place(nil, a.Tq, a.N, a.Dv)
	dq, dk, dv := a.gradients(t, d, place)
	shape, bytes := d.AttentionSizes(q, k, v)
	statistics := strided(t, d, s, nil, 0, shape...)
	storage, err := d.Alloc(bytes)
	if err != nil {
		t.Fatal(err)
	}
	opt := kernels.AttentionOptions{Scale: a.Scale, Causal: a.Causal}
	if a.Documents != nil {
		opt.Documents = operands{t, d}.tensor(device.Int32, a.B, a.Tq)
		copy(i32(opt.Documents), a.Documents)
	}
	d.Attention(s, o, statistics, q, k, v, opt)
	d.AttentionBackward(s, dq, dk, dv, do, q, k, v, o, statistics, kernels.NewTensor(storage, 0, device.Uint8, bytes), opt)
	a.o, a.lse = read(t, s, o), read(t, s, statistics)
	a.dq, a.dk, a.dv = read(t, s, dq), read(t, s, dk), read(t, s, dv)
}

// gradients places dq, dk and dv next to each other in each row of one buffer where they have the same times.
func (a *attentionCase) gradients(t testing.TB, d *Device, place func([]float32, int, int, int) kernels.Tensor) (dq, dk, dv kernels.Tensor) {
	if a.Tq != a.Tk {
		return place(nil, a.Tq, a.N, a.D), place(nil, a.Tk, a.Nkv, a.D), place(nil, a.Tk, a.Nkv, a.Dv)
	}
	ends := []int{0, a.N * a.D, (a.N + a.Nkv) * a.D, (a.N+a.Nkv)*a.D + a.Nkv*a.Dv}
	fused := place(noise(a.B*a.Tq*ends[3], 9, 1), a.Tq, 1, ends[3])
	part := func(i, heads, width int) kernels.Tensor {
		v := fused.Narrow(3, ends[i], ends[i+1])
		v.Shape[2], v.Stride[2], v.Shape[3] = heads, width, width
		return v
	}
	return part(0, a.N, a.D), part(1, a.Nkv, a.D), part(2, a.Nkv, a.Dv)
}

func TestAttention(t *testing.T) {
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		for _, shape := range attentionShapes() {
			t.Run(shape.String(), func(t *testing.T) {
				a := newAttentionCase(shape)
				a.run(t, d, s)
				o, lse := make([]float64, len(a.o)), make([]float64, len(a.lse))
				dq, dk, dv := make([]float64, len(a.q)), make([]float64, len(a.k)), make([]float64, len(a.v))
				q, k, v := widen(a.q), widen(a.k), widen(a.v)
				conformance.Attention(o, lse, q, k, v, shape)
				conformance.AttentionBackward(dq, dk, dv, widen(a.do), q, k, v, shape)
				compare(t, "o", a.o, o, 1e-5)
				compare(t, "log-sum-exp", a.lse, lse, 1e-5)
				compare(t, "dq", a.dq, dq, 1e-5)
				compare(t, "dk", a.dk, dk, 1e-5)
				compare(t, "dv", a.dv, dv, 1e-5)
			})
		}
	})
}

// compare fails unless each element is within tol of the largest magnitude, or of 0.1 if that is more: what an element is
// summed up from is of that order, whatever cancels.
func compare(t *testing.T, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	size := 0.1
	for _, w := range want {
		if !math.IsInf(w, 0) {
			size = max(size, math.Abs(w))
		}
	}
	for i, w := range want {
		near(t, fmt.Sprintf("%s, element %d", what, i), float64(got[i]), w, size, tol)
	}
}

func TestAttentionThreads(t *testing.T) {
	shape := conformance.AttentionShape{B: 2, Tq: 210, Tk: 210, N: 6, Nkv: 2, D: 24, Dv: 16, Scale: 0.2, Causal: true}
	documents := shape
	documents.Documents = packed(2, 210, 50, 3, 1, 90)
	for _, shape := range []conformance.AttentionShape{shape, documents} {
		attentionThreads(t, shape)
	}
}

func attentionThreads(t *testing.T, shape conformance.AttentionShape) {
	t.Helper()
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		want := newAttentionCase(shape)
		want.run(t, d, s)
		for _, threads := range []int{2, 3, 8} {
			d, s := open(t, set.name, threads)
			got := newAttentionCase(shape)
			got.run(t, d, s)
			for what, pair := range map[string][2][]float32{
				"o": {got.o, want.o}, "statistics": {got.lse, want.lse},
				"dq": {got.dq, want.dq}, "dk": {got.dk, want.dk}, "dv": {got.dv, want.dv},
			} {
				sameBits(t, fmt.Sprintf("%s with %d threads", what, threads), pair[0], pair[1])
			}
		}
	})
}

// TestAttentionLargeScores checks that the softmax of huge scores is that of their differences.
func TestAttentionLargeScores(t *testing.T) {
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		a := newAttentionCase(conformance.AttentionShape{B: 1, Tq: 3, Tk: 300, N: 1, Nkv: 1, D: 8, Dv: 8, Scale: 1e4})
		a.run(t, d, s)
		for i, v := range slices.Concat(a.o, a.lse, a.dq, a.dk, a.dv) {
			if v != v || math.IsInf(float64(v), 0) {
				t.Fatalf("result %d is %v", i, v)
			}
		}
	})
}

func TestAttentionPropagatesNonFinite(t *testing.T) {
	shape := conformance.AttentionShape{B: 1, Tq: 20, Tk: 20, N: 2, Nkv: 1, D: 8, Dv: 8, Scale: 0.3, Causal: true}
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		for _, operand := range []string{"q", "k", "v"} {
			a := newAttentionCase(shape)
			const time = 19 // the last query sees all keys, so each operand's last row reaches its output
			switch operand {
			case "q":
				a.q[time*shape.N*shape.D] = float32(math.NaN())
			case "k":
				a.k[time*shape.D] = float32(math.NaN())
			case "v":
				a.v[time*shape.Dv] = float32(math.Inf(1))
			}
			a.run(t, d, s)
			if v := float64(a.o[time*shape.N*shape.Dv]); !math.IsNaN(v) && !math.IsInf(v, 0) {
				t.Errorf("a bad %s gives %v", operand, v)
			}
			if v := float64(a.dq[time*shape.N*shape.D]); !math.IsNaN(v) && !math.IsInf(v, 0) {
				t.Errorf("a bad %s gives the gradient %v", operand, v)
			}
		}
	})
}

func TestAttentionRefusesWideHeads(t *testing.T) {
	d, s := open(t, "", 1)
	a := conformance.AttentionShape{B: 1, Tq: 1, Tk: 1, N: 1, Nkv: 1, D: maxHeadDim + 1, Dv: 8, Scale: 1}
	q, v := strided(t, d, s, nil, 0, 1, 1, 1, a.D), strided(t, d, s, nil, 0, 1, 1, 1, a.Dv)
	d.Attention(s, strided(t, d, s, nil, 0, 1, 1, 1, a.Dv), strided(t, d, s, nil, 0, 1, 1, 1), q, strided(t, d, s, nil, 0, 1, 1, 1, a.D), v,
		kernels.AttentionOptions{Scale: 1})
	if err := s.Synchronize(); err == nil {
		t.Error("no error")
	}
}

// TestWidestHeads checks that the blocks of the widest heads fit the scratch memory.
func TestWidestHeads(t *testing.T) {
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		a := newAttentionCase(conformance.AttentionShape{B: 1, Tq: 200, Tk: 300, N: 1, Nkv: 1, D: maxHeadDim, Dv: maxHeadDim, Scale: 0.01})
		a.run(t, d, s)
		if slices.ContainsFunc(a.dk, func(v float32) bool { return v != v }) {
			t.Error("dk has NaNs")
		}
	})
}
