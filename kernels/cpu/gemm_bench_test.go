package cpu

import (
	"fmt"
	"testing"
	"time"

	"lockstep/kernels"
	"lockstep/kernels/conformance"
	"lockstep/kernels/device"
)

// The figures below are per device, in 10^9 floating-point operations a second; a multiply-add counts as two.

// BenchmarkTile runs the tile kernel on panels in the first-level cache: what the set can reach at most.
func BenchmarkTile(b *testing.B) {
	for _, set := range kernelSets() {
		b.Run(set.name, func(b *testing.B) {
			t := &set.tile
			a, p, c := noise(t.a.width*blockK, 1, 1), noise(t.b.width*blockK, 2, 1), make([]float32, t.a.width*t.b.width)
			for b.Loop() {
				t.multiply(blockK, &a[0], &p[0], &c[0], t.b.width, false)
			}
			reportRate(b, 2*float64(blockK*t.a.width*t.b.width))
		})
	}
}

// A layer is a linear layer of the given outputs and inputs on a number of tokens.
type layer struct {
	name                    string
	tokens, outputs, inputs int
}

// benchLayers are squares, and the layers of three models on 1024 tokens: the fused projections of q, k and v, the output
// projection, gate and up, down, and the output head.
func benchLayers() []layer {
	layers := []layer{{"square", 512, 512, 512}, {"square", 1024, 1024, 1024}, {"square", 2048, 2048, 2048}}
	for _, m := range []struct {
		name                        string
		hidden, qkv, attention, ffn int
	}{{"llama-15m", 288, 864, 288, 768}, {"qwen3-42m", 512, 1024, 512, 1536}, {"llama-110m", 768, 2304, 768, 2048}} {
		for _, s := range [][2]int{{m.qkv, m.hidden}, {m.hidden, m.attention}, {2 * m.ffn, m.hidden}, {m.hidden, m.ffn}, {32000, m.hidden}} {
			layers = append(layers, layer{m.name, 1024, s[0], s[1]})
		}
	}
	return layers
}

// BenchmarkMatMul runs the three products of linear layers, on one or two threads: forward y = x w^T, input dx = dy w, and
// weight dw += dy^T x. It reports GFLOP/s and the share of the multiply-adds that as many threads do on registers alone.
func BenchmarkMatMul(b *testing.B) {
	for _, set := range KernelSets() {
		for _, l := range benchLayers() {
			for threads := 1; threads <= 2; threads++ {
				name := fmt.Sprintf("%s/%s/%dx%dx%d/threads=%d", set, l.name, l.tokens, l.outputs, l.inputs, threads)
				b.Run(name, func(b *testing.B) { l.bench(b, set, threads) })
			}
		}
	}
}

func (l layer) bench(b *testing.B, set string, threads int) {
	d, s := open(b, set, threads)
	x, w := benchMatrix(b, d, l.tokens, l.inputs), benchMatrix(b, d, l.outputs, l.inputs)
	y, dw := benchMatrix(b, d, l.tokens, l.outputs), benchMatrix(b, d, l.outputs, l.inputs)
	for _, p := range []struct {
		name    string
		c, a, b kernels.Tensor
		o       kernels.MatMulOptions
	}{
		{"forward", y, x, w, kernels.MatMulOptions{TransB: true}},
		{"input", x, y, w, kernels.MatMulOptions{}},
		{"weight", dw, y, x, kernels.MatMulOptions{TransA: true, Accumulate: true}},
	} {
		b.Run(p.name, func(b *testing.B) {
			peak := peakRate(d)
			d.MatMul(s, p.c, p.a, p.b, p.o) // touches the memory
			b.ResetTimer()
			for b.Loop() {
				d.MatMul(s, p.c, p.a, p.b, p.o)
			}
			rate := reportRate(b, 2*float64(l.tokens)*float64(l.outputs)*float64(l.inputs))
			if peak > 0 {
				b.ReportMetric(100*rate/peak, "%peak")
			}
		})
	}
	if err := s.Synchronize(); err != nil {
		b.Fatal(err)
	}
}

// benchMatrix returns a matrix of a few repeated values: making random ones for the largest takes longer than the products.
func benchMatrix(b *testing.B, d *Device, rows, cols int) kernels.Tensor {
	o := operands{b, d}
	t := o.tensor(device.Float32, rows, cols)
	values, pattern := f32(t), noise(997, 1, 1)
	for len(values) > 0 {
		values = values[copy(values, pattern):]
	}
	return t
}

// peakRate returns the GFLOP/s of all threads' multiply-adds on registers, the best of a few runs of some milliseconds; 0
// where the kernel set has no such loop.
func peakRate(d *Device) float64 {
	t, best := &d.set.tile, 0.0
	if t.peak == nil {
		return 0
	}
	const kc, partsPerThread = 5000, 50
	parts := partsPerThread * len(d.pool.workers)
	for range 10 {
		start := time.Now()
		d.parallel(&call{}, parts, func(d *Device, _ *call, _ *worker, from, to int) {
			for range to - from {
				d.set.tile.peak(kc)
			}
		})
		flops := 2 * float64(kc) * float64(parts) * float64(t.a.width*t.b.width)
		best = max(best, flops/time.Since(start).Seconds()/1e9)
	}
	return best
}

// BenchmarkAttention counts the products of both passes over the whole square of scores, half of them where it is causal.
func BenchmarkAttention(b *testing.B) {
	for _, shape := range []conformance.AttentionShape{
		{B: 8, Tq: 256, Tk: 256, N: 6, Nkv: 2, D: 32, Dv: 32, Scale: 0.2, Causal: true},
		{B: 1, Tq: 1024, Tk: 1024, N: 8, Nkv: 2, D: 64, Dv: 64, Scale: 0.125, Causal: true},
		{B: 1, Tq: 1024, Tk: 1024, N: 2, Nkv: 2, D: 128, Dv: 128, Scale: 0.088},
	} {
		for _, set := range kernelSets() {
			d, s := open(b, set.name, 1)
			head := func(heads, width int) kernels.Tensor {
				return strided(b, d, s, noise(shape.B*shape.Tq*heads*width, 1, 1), 0, shape.B, shape.Tq, heads, width)
			}
			q, k, v, o := head(shape.N, shape.D), head(shape.Nkv, shape.D), head(shape.Nkv, shape.Dv), head(shape.N, shape.Dv)
			dq, dk, dv, do := head(shape.N, shape.D), head(shape.Nkv, shape.D), head(shape.Nkv, shape.Dv), head(shape.N, shape.Dv)
			sizes, bytes := d.AttentionSizes(q, k, v)
			statistics := strided(b, d, s, nil, 0, sizes...)
			workspace := strided(b, d, s, nil, 0, bytes/4)
			workspace.DType, workspace.Shape[0] = device.Uint8, bytes
			opt := kernels.AttentionOptions{Scale: shape.Scale, Causal: shape.Causal}
			flops := 2 * float64(shape.B*shape.N*shape.Tq*shape.Tk*shape.D)
			if shape.Causal {
				flops /= 2
			}
			name := fmt.Sprintf("T%d/N%d/D%d/causal=%v/%s", shape.Tq, shape.N, shape.D, shape.Causal, set.name)
			b.Run(name+"/forward", func(b *testing.B) {
				for b.Loop() {
					d.Attention(s, o, statistics, q, k, v, opt)
				}
				reportRate(b, 2*flops)
			})
			b.Run(name+"/backward", func(b *testing.B) {
				for b.Loop() {
					d.AttentionBackward(s, dq, dk, dv, do, q, k, v, o, statistics, workspace, opt)
				}
				reportRate(b, 5*flops)
			})
			if err := s.Synchronize(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func reportRate(b *testing.B, flops float64) float64 {
	rate := flops * float64(b.N) / b.Elapsed().Seconds() / 1e9
	b.ReportMetric(rate, "GFLOP/s")
	return rate
}
