package cpu

import (
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// operands makes tensors on a device for tests that do not look at values.
type operands struct {
	t testing.TB
	d *Device
}

func (o operands) tensor(dtype device.DType, shape ...int) kernels.Tensor {
	o.t.Helper()
	s, err := o.d.Alloc(max(1, kernels.NewTensor(nil, 0, dtype, shape...).Bytes()))
	if err != nil {
		o.t.Fatal(err)
	}
	return kernels.NewTensor(s, 0, dtype, shape...)
}

// f makes a Float32 tensor of values from -1 to 1.
func (o operands) f(shape ...int) kernels.Tensor {
	o.t.Helper()
	x := o.tensor(device.Float32, shape...)
	values := f32(x)
	for i := range values {
		values[i] = float32(i*i%201)/100 - 1
	}
	return x
}

// everyOperator returns a function that launches each operator once.
func everyOperator(t testing.TB, d *Device, s device.Stream, rows, width int) map[string]func() {
	o := operands{t, d}
	x, y, z, wide := o.f(rows, width), o.f(rows, width), o.f(rows, width), o.f(rows, 2*width)
	param, moment, variance, gradient := o.f(rows, width), o.f(rows, width), o.tensor(device.Float32, rows, width), o.f(rows, width)
	c, gamma, perRow := o.f(width), o.f(width), o.f(rows)
	ids, weight := o.tensor(device.Int32, rows), o.f(9, width)
	heads, heads2, cos, sin := o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(rows, 8), o.f(rows, 8)
	dq, dk, dv, do, out := o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(1, rows, 2, 8)
	shape, bytes := d.AttentionSizes(heads, heads, heads)
	statistics, workspace := o.f(shape...), o.tensor(device.Uint8, bytes)
	narrow := o.tensor(device.BFloat16, rows, width)
	square, sum, clip := o.f(rows, rows), o.tensor(device.Float64, 1), o.tensor(device.Float64, 3)
	sums, exact := o.tensor(device.Float64, kernels.SquaredNormBlocks(rows*width)), o.tensor(device.Float64, kernels.ExactSumLen)
	copy(f64(clip), []float64{1, 1, 1})
	opt := kernels.AttentionOptions{Scale: 1, Causal: true}
	step := kernels.AdamWOptions{LR: 1e-6, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Step: 9}
	return map[string]func(){
		"MatMul":                func() { d.MatMul(s, square, x, y, kernels.MatMulOptions{TransB: true}) },
		"AddBias":               func() { d.AddBias(s, x, c) },
		"AddBiasBackward":       func() { d.AddBiasBackward(s, c, x, true) },
		"Add":                   func() { d.Add(s, x, x, y) },
		"Copy":                  func() { d.Copy(s, x, y) },
		"Cast":                  func() { d.Cast(s, narrow, x) },
		"Dropout":               func() { d.Dropout(s, x, y, kernels.DropoutOptions{Scale: 1.1, Rate: 0.1}) },
		"Zero":                  func() { d.Zero(s, x) },
		"RMSNorm":               func() { d.RMSNorm(s, y, perRow, x, gamma, 1e-5) },
		"RMSNormBackwardInput":  func() { d.RMSNormBackwardInput(s, z, y, x, perRow, gamma, z) },
		"AddRMSNorm":            func() { d.AddRMSNorm(s, z, perRow, x, x, y, gamma, 1e-5) },
		"RMSNormBackwardWeight": func() { d.RMSNormBackwardWeight(s, c, y, x, perRow, false) },
		"RoPE":                  func() { d.RoPE(s, heads, heads, cos, sin, kernels.Tensor{}, kernels.RoPEOptions{}) },
		"Attention":             func() { d.Attention(s, out, statistics, heads, heads2, heads2, opt) },
		"AttentionBackward": func() {
			d.AttentionBackward(s, dq, dk, dv, do, heads, heads2, heads2, out, statistics, workspace, opt)
		},
		"SwiGLU":            func() { d.SwiGLU(s, x, wide) },
		"SwiGLUBackward":    func() { d.SwiGLUBackward(s, wide, x, wide) },
		"Embedding":         func() { d.Embedding(s, x, weight, ids) },
		"EmbeddingBackward": func() { d.EmbeddingBackward(s, weight, x, ids, true) },
		"CrossEntropy":      func() { d.CrossEntropy(s, perRow, x, x, ids, 1) },
		"Sum":               func() { d.Sum(s, sum, x) },
		"SquaredNorm":       func() { d.SquaredNorm(s, sums, x) },
		"AddExact":          func() { d.AddExact(s, exact, sums) },
		"ClipFactor":        func() { d.ClipFactor(s, clip, exact, 1) },
		"AdamW": func() {
			d.AdamW(s, param, moment, variance, gradient, clip, step)
		},
	}
}

func TestLaunchesAllocateNothing(t *testing.T) {
	for _, threads := range []int{1, 2} {
		d, s := open(t, "", threads)
		for name, launch := range everyOperator(t, d, s, 130, 64) {
			if n := testing.AllocsPerRun(5, launch); n != 0 {
				t.Errorf("%s with %d threads: %v allocations", name, threads, n)
			}
			if err := s.Synchronize(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func BenchmarkOperators(b *testing.B) {
	d, s := open(b, "", 1)
	for name, launch := range everyOperator(b, d, s, 512, 512) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				launch()
			}
		})
	}
	if err := s.Synchronize(); err != nil {
		b.Fatal(err)
	}
}

func TestByRows(t *testing.T) {
	wide := kernels.NewTensor(nil, 0, device.Float32, 2, 3, 20)
	heads := wide.Narrow(2, 4, 16).Split(2, 4, 3)
	for _, test := range []struct {
		x    kernels.Tensor
		rank int
	}{
		{kernels.NewTensor(nil, 0, device.Float32, 7), 1},
		{kernels.NewTensor(nil, 0, device.Float32, 2, 3, 4, 5), 2},
		{wide.Narrow(2, 1, 3), 2},
		{heads, 3},
		{heads.Narrow(1, 0, 2), 4},
		{heads.Narrow(3, 0, 1), 3},
	} {
		got := byRows(test.x)
		if got.Rank != test.rank || got.Last() != test.x.Last() || got.Rows() != test.x.Rows() || got.Region() != test.x.Region() {
			t.Errorf("%v with strides %v became %v with %v", test.x, test.x.Stride, got, got.Stride)
		}
		for i := range test.x.Rows() {
			if row(&got, i) != row(&test.x, i) {
				t.Fatalf("row %d of %v is at %d, was at %d", i, got, row(&got, i), row(&test.x, i))
			}
		}
	}
}
