package cpu

import (
	"fmt"
	"testing"

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

// BenchmarkMatMul runs the three products of a linear layer of n outputs and k inputs on m tokens.
func BenchmarkMatMul(b *testing.B) {
	for _, shape := range [][3]int{{2048, 192, 192}, {2048, 768, 192}, {2048, 192, 768}, {1024, 1024, 1024}} {
		m, n, k := shape[0], shape[1], shape[2]
		for _, set := range kernelSets() {
			d, s := open(b, set.name, 1)
			x, w, y := strided(b, d, s, noise(m*k, 1, 1), 0, m, k), strided(b, d, s, noise(n*k, 2, 1), 0, n, k), strided(b, d, s, noise(m*n, 3, 1), 0, m, n)
			name := fmt.Sprintf("%dx%dx%d/%s", m, n, k, set.name)
			measure := func(product string, c, p, q kernels.Tensor, o kernels.MatMulOptions) {
				b.Run(name+"/"+product, func(b *testing.B) {
					for b.Loop() {
						d.MatMul(s, c, p, q, o)
					}
					reportRate(b, 2*float64(m)*float64(n)*float64(k))
				})
			}
			measure("forward", y, x, w, kernels.MatMulOptions{TransB: true})
			measure("input", x, y, w, kernels.MatMulOptions{})
			measure("weight", w, y, x, kernels.MatMulOptions{TransA: true, Accumulate: true})
		}
	}
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

func reportRate(b *testing.B, flops float64) {
	b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
