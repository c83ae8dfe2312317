package cpu

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/conformance"
	"lockstep/kernels/device"
)

// open returns a device with an inline stream, both for the time of the test.
func open(t testing.TB, set string, threads int) (*Device, device.Stream) {
	t.Helper()
	d, err := New(Options{Threads: threads, KernelSet: set})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, d.NewInlineStream("test")
}

// strided returns a tensor of the given shape, a view with gaps between its rows when gap > 0, that holds x.
func strided(t testing.TB, d *Device, s device.Stream, x []float32, gap int, shape ...int) kernels.Tensor {
	t.Helper()
	wide := slices.Clone(shape)
	wide[len(wide)-1] += gap
	probe := kernels.NewTensor(nil, 0, device.Float32, wide...)
	storage, err := d.Alloc(probe.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	v := kernels.NewTensor(storage, 0, device.Float32, wide...).Narrow(len(shape)-1, 0, shape[len(shape)-1])
	at := 0
	for i := range v.Rows() {
		at += copy(f32(v)[row(&v, i):][:v.Last()], x[at:])
	}
	return v
}

// read returns the elements of a view in row-major order.
func read(t testing.TB, s device.Stream, v kernels.Tensor) []float32 {
	t.Helper()
	if err := s.Synchronize(); err != nil {
		t.Fatal(err)
	}
	var x []float32
	for i := range v.Rows() {
		x = append(x, f32(v)[row(&v, i):][:v.Last()]...)
	}
	return x
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func absolute(x []float32) []float64 {
	y := widen(x)
	for i, v := range y {
		y[i] = math.Abs(v)
	}
	return y
}

// sameBits fails unless the two have the same bits.
func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d is %v, not %v", what, i, got[i], want[i])
		}
	}
}

// A matMulCase is one product with its operands.
type matMulCase struct {
	m, n, k int
	gap     int
	o       kernels.MatMulOptions
	a, b, c []float32
}

func newMatMulCase(m, n, k, gap int, o kernels.MatMulOptions) matMulCase {
	return matMulCase{m, n, k, gap, o, noise(m*k, 1, 1), noise(k*n, 2, 1), noise(m*n, 3, 1)}
}

func (p matMulCase) run(t testing.TB, d *Device, s device.Stream) []float32 {
	a, b, c := p.operands(t, d, s)
	d.MatMul(s, c, a, b, p.o)
	return read(t, s, c)
}

// operands returns a, b and c.
func (p matMulCase) operands(t testing.TB, d *Device, s device.Stream) (_, _, _ kernels.Tensor) {
	a, b := [2]int{p.m, p.k}, [2]int{p.k, p.n}
	if p.o.TransA {
		a = [2]int{p.k, p.m}
	}
	if p.o.TransB {
		b = [2]int{p.n, p.k}
	}
	return strided(t, d, s, p.a, p.gap, a[0], a[1]), strided(t, d, s, p.b, p.gap, b[0], b[1]), strided(t, d, s, p.c, p.gap, p.m, p.n)
}

func (p matMulCase) String() string {
	return fmt.Sprintf("%dx%dx%d gap %d %+v", p.m, p.n, p.k, p.gap, p.o)
}

var allOptions = func() []kernels.MatMulOptions {
	var all []kernels.MatMulOptions
	for i := range 8 {
		all = append(all, kernels.MatMulOptions{TransA: i&1 != 0, TransB: i&2 != 0, Accumulate: i&4 != 0})
	}
	return all
}()

func TestMatMul(t *testing.T) {
	shapes := [][3]int{{1, 1, 1}, {1, 37, 19}, {5, 3, 2}, {13, 33, 1}, {12, 32, 4}, {25, 70, 301}, {61, 17, 530}, {250, 5, 9}, {7, 600, 11}, {5, 3, 1000}}
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		for _, shape := range shapes {
			for i, o := range allOptions {
				p := newMatMulCase(shape[0], shape[1], shape[2], i%3, o)
				want, size := widen(p.c), absolute(p.c)
				conformance.MatMul(want, widen(p.a), widen(p.b), p.m, p.n, p.k, o.TransA, o.TransB, o.Accumulate)
				conformance.MatMul(size, absolute(p.a), absolute(p.b), p.m, p.n, p.k, o.TransA, o.TransB, o.Accumulate)
				for i, got := range p.run(t, d, s) {
					// The error of a sum of k products grows as its square root, for random signs.
					near(t, fmt.Sprintf("%v: element %d", p, i), float64(got), want[i], size[i], ulp*(2+math.Sqrt(float64(p.k))/4))
				}
			}
		}
	})
}

// TestMatMulEmpty checks that a sum of nothing is zero, and that nothing is written where nothing is.
func TestMatMulEmpty(t *testing.T) {
	d, s := open(t, "", 2)
	c := strided(t, d, s, noise(15, 1, 1), 2, 3, 5)
	a, b := strided(t, d, s, nil, 0, 3, 0), strided(t, d, s, nil, 0, 0, 5)
	before := read(t, s, c)
	d.MatMul(s, c, a, b, kernels.MatMulOptions{Accumulate: true})
	sameBits(t, "accumulated nothing", read(t, s, c), before)
	d.MatMul(s, c, a, b, kernels.MatMulOptions{})
	sameBits(t, "product of nothing", read(t, s, c), make([]float32, 15))
	d.MatMul(s, c.Narrow(0, 0, 0), a.Narrow(0, 0, 0), b, kernels.MatMulOptions{})
	if err := s.Synchronize(); err != nil {
		t.Error(err)
	}
}

// TestMatMulThreads checks what makes results the same on any number of threads, and more: an element depends on its row
// of op(A) and its column of op(B) alone.
func TestMatMulThreads(t *testing.T) {
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		for _, o := range allOptions {
			p := newMatMulCase(131, 150, 270, 1, o)
			d, s := open(t, set.name, 1)
			want := p.run(t, d, s)
			for _, threads := range []int{2, 3, 8} {
				d, s := open(t, set.name, threads)
				sameBits(t, fmt.Sprintf("%v with %d threads", p, threads), p.run(t, d, s), want)
			}
		}
		d, s := open(t, set.name, 1)
		p := newMatMulCase(131, 150, 270, 0, kernels.MatMulOptions{})
		want := p.run(t, d, s)
		for _, i := range []int{0, 17, 130} {
			one := p
			one.m, one.a = 1, p.a[i*p.k:][:p.k]
			sameBits(t, fmt.Sprintf("row %d alone", i), one.run(t, d, s), want[i*p.n:][:p.n])
		}
	})
}

// TestMatMulStages takes a product whose strips have several stages, which alternate between two buffers.
func TestMatMulStages(t *testing.T) {
	p := newMatMulCase(150, 800, 1200, 0, kernels.MatMulOptions{TransB: true, Accumulate: true})
	twin, size := widen(p.c), absolute(p.c)
	conformance.MatMul(twin, widen(p.a), widen(p.b), p.m, p.n, p.k, false, true, true)
	conformance.MatMul(size, absolute(p.a), absolute(p.b), p.m, p.n, p.k, false, true, true)
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 1)
		want := p.run(t, d, s)
		for i, got := range want {
			near(t, fmt.Sprintf("%v: element %d", p, i), float64(got), twin[i], size[i], ulp*(2+math.Sqrt(float64(p.k))/4))
		}
		for _, threads := range []int{2, 3, 8} {
			d, s := open(t, set.name, threads)
			sameBits(t, fmt.Sprintf("%v with %d threads", p, threads), p.run(t, d, s), want)
			if q := &d.pool.product; threads == 2 && (q.stripsAcross != threads || q.across*q.deep < 2 || q.blocks < 2) {
				t.Errorf("%v with %d threads is cut into too little for this test", p, threads)
			}
		}
	})
}

func TestMatMulPropagatesNonFinite(t *testing.T) {
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		d, s := open(t, set.name, 2)
		p := newMatMulCase(14, 35, 6, 0, kernels.MatMulOptions{})
		clear(p.b)
		p.a[13*p.k+5] = float32(math.Inf(1))
		for i, v := range p.run(t, d, s) {
			if isNaN, want := v != v, i/p.n == 13; isNaN != want {
				t.Fatalf("element (%d, %d) is %v: Inf * 0 must be NaN", i/p.n, i%p.n, v)
			}
		}
	})
}

func TestMatMulErrors(t *testing.T) {
	d, _ := open(t, "", 1)
	s := d.NewInlineStream("ok")
	a, b, c := strided(t, d, s, nil, 0, 3, 4), strided(t, d, s, nil, 0, 5, 6), strided(t, d, s, nil, 0, 3, 6)
	for what, run := range map[string]func(s device.Stream){
		"inner sizes": func(s device.Stream) { d.MatMul(s, c, a, b, kernels.MatMulOptions{}) },
		"rank":        func(s device.Stream) { d.MatMul(s, c, a, b.Reshape(30), kernels.MatMulOptions{}) },
		"missing":     func(s device.Stream) { d.MatMul(s, kernels.Tensor{}, a, b.Narrow(0, 0, 4), kernels.MatMulOptions{}) },
		"overlap":     func(s device.Stream) { d.MatMul(s, c, c.Narrow(1, 0, 4), b.Narrow(0, 0, 4), kernels.MatMulOptions{}) },
	} {
		s := d.NewInlineStream(what)
		run(s)
		if err := s.Synchronize(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestInlineAllocatesNothing checks that a training step's operators leave the garbage collector alone.
func TestInlineAllocatesNothing(t *testing.T) {
	d, s := open(t, "", 2)
	a, b, c := strided(t, d, s, nil, 0, 70, 80), strided(t, d, s, nil, 0, 80, 90), strided(t, d, s, nil, 0, 70, 90)
	q, k, o := strided(t, d, s, nil, 0, 1, 70, 4, 8), strided(t, d, s, nil, 0, 1, 70, 2, 8), strided(t, d, s, nil, 0, 1, 70, 4, 8)
	dq, dk, dv := strided(t, d, s, nil, 0, 1, 70, 4, 8), strided(t, d, s, nil, 0, 1, 70, 2, 8), strided(t, d, s, nil, 0, 1, 70, 2, 8)
	statistics, workspace := strided(t, d, s, nil, 0, 1, 4, 70), strided(t, d, s, nil, 0, 280)
	workspace.DType, workspace.Shape[0] = device.Uint8, 4*280
	opt := kernels.AttentionOptions{Scale: 1, Causal: true}
	n := testing.AllocsPerRun(20, func() {
		d.MatMul(s, c, a, b, kernels.MatMulOptions{Accumulate: true})
		d.Attention(s, o, statistics, q, k, k, opt)
		d.AttentionBackward(s, dq, dk, dv, o, q, k, k, o, statistics, workspace, opt)
	})
	if err := s.Synchronize(); err != nil || n != 0 {
		t.Errorf("%v allocations, error %v", n, err)
	}
}

// TestGenericBits pins the bits of the generic set, which are those of every architecture.
func TestGenericBits(t *testing.T) {
	d, s := open(t, "generic", 2)
	h := fnv.New64a()
	for _, o := range allOptions {
		h.Write(device.BytesOf(newMatMulCase(37, 29, 300, 1, o).run(t, d, s)))
	}
	x, y, z := noise(133, 1, 3), noise(133, 2, 3), noise(133, 3, 3)
	g := d.set
	g.axpy(x, y, 0.7)
	g.mulAxpy(x, y, z, 0.3)
	g.scaleMulAdd(x, x, y, z, 0.3, 1.7)
	sums := []float32{g.dot(x, y), g.dot3(x, y, z), float32(g.sumSquares(x)), g.expSum(y, x, g.max(x))}
	g.siluMul(z, y, x)
	g.siluMulBackward(x, y, z, x, y)
	for _, v := range [][]float32{x, y, z, sums} {
		h.Write(device.BytesOf(v))
	}
	a := newAttentionCase(conformance.AttentionShape{B: 1, Tq: 110, Tk: 290, N: 4, Nkv: 2, D: 12, Dv: 9, Scale: 0.3, Causal: true})
	a.run(t, d, s)
	for _, v := range [][]float32{a.o, a.lse, a.dq, a.dk, a.dv} {
		h.Write(device.BytesOf(v))
	}
	if got, want := h.Sum64(), uint64(0x5249ea6c401b2982); got != want {
		t.Errorf("the bits of the generic set have hash %#x, not %#x", got, want)
	}
}

// TestMatMulToBFloat16 multiplies matrices that take several bands of rows, stages of columns and blocks of K.
func TestMatMulToBFloat16(t *testing.T) {
	const m, n, k = 1201, 1100, 900
	for _, threads := range []int{1, 3} {
		d, s := open(t, "", threads)
		a, b := strided(t, d, s, noise(m*k, 1, 1), 3, m, k), strided(t, d, s, noise(n*k, 2, 1), 0, n, k)
		want, rounded, c := strided(t, d, s, make([]float32, m*n), 0, m, n), bfloat16s(t, d, m, n), bfloat16s(t, d, m, n)
		o := kernels.MatMulOptions{TransB: true}
		for range 2 {
			d.MatMul(s, want, a, b, o)
			d.Cast(s, rounded, want)
			d.MatMul(s, c, a, b, o)
			if err := s.Synchronize(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(bf16(c), bf16(rounded)) {
				t.Fatalf("%d threads, %+v: the product is not that of float32, rounded", threads, o)
			}
			o.Accumulate = true
			d.Cast(s, want, c) // what the second product is added to
		}
	}
}

// bfloat16s returns a dense BFloat16 tensor.
func bfloat16s(t *testing.T, d *Device, shape ...int) kernels.Tensor {
	t.Helper()
	storage, err := d.Alloc(kernels.NewTensor(nil, 0, device.BFloat16, shape...).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return kernels.NewTensor(storage, 0, device.BFloat16, shape...)
}
