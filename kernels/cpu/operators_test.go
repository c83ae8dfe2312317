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

func (o operands) f(shape ...int) kernels.Tensor { return o.tensor(device.Float32, shape...) }

// everyOperator returns a function that launches each operator once.
func everyOperator(t testing.TB, d *Device, s device.Stream, rows, width int) map[string]func() {
	o := operands{t, d}
	x, y, z, gradient, wide := o.f(rows, width), o.f(rows, width), o.f(rows, width), o.f(rows, width), o.f(rows, 2*width)
	c, gamma, perRow := o.f(width), o.f(width), o.f(rows)
	ids, weight := o.tensor(device.Int32, rows), o.f(9, width)
	heads, heads2, cos, sin := o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(rows, 8), o.f(rows, 8)
	dq, dk, dv, do, out := o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(1, rows, 2, 8), o.f(1, rows, 2, 8)
	shape, bytes := d.AttentionSizes(heads, heads, heads)
	statistics, workspace := o.f(shape...), o.tensor(device.Uint8, bytes)
	square, sum, clip := o.f(rows, rows), o.tensor(device.Float64, 1), o.tensor(device.Float64, 3)
	sums := o.tensor(device.Float64, kernels.SquaredNormBlocks(rows*width))
	opt := kernels.AttentionOptions{Scale: 1, Causal: true}
	return map[string]func(){
		"MatMul":                func() { d.MatMul(s, square, x, y, kernels.MatMulOptions{TransB: true}) },
		"AddBias":               func() { d.AddBias(s, x, c) },
		"AddBiasBackward":       func() { d.AddBiasBackward(s, c, x, true) },
		"Add":                   func() { d.Add(s, x, x, y) },
		"Copy":                  func() { d.Copy(s, x, y) },
		"Zero":                  func() { d.Zero(s, x) },
		"RMSNorm":               func() { d.RMSNorm(s, y, perRow, x, gamma, 1e-5) },
		"RMSNormBackwardInput":  func() { d.RMSNormBackwardInput(s, z, y, x, perRow, gamma, false) },
		"RMSNormBackwardWeight": func() { d.RMSNormBackwardWeight(s, c, y, x, perRow, false) },
		"RoPE":                  func() { d.RoPE(s, heads, heads, cos, sin, false) },
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
		"ClipFactor":        func() { d.ClipFactor(s, clip, sums, 1) },
		"AdamW": func() {
			d.AdamW(s, x, y, z, gradient, clip, kernels.AdamWOptions{Step: 1})
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
