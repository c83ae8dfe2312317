package cpu

import (
	"fmt"
	"slices"
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
			d, _ := open(b, set.name, 1)
			t, products := d.benchTile()
			a, p, c := noise(t.a.width*maxDepth, 1, 1), noise(t.b.width*maxDepth, 2, 1), make([]float32, t.a.width*t.b.width)
			besidePeak(b, d, 2*float64(products*maxDepth*t.a.width*t.b.width), func() {
				t.multiply(maxDepth, &a[0], &p[0], &c[0], t.b.width, false)
			})
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
// weight dw += dy^T x; and of squares y = x^T w^T besides, which no layer needs. It reports GFLOP/s and the share of the
// multiply-adds that as many threads do on registers alone. A set with kernels for bfloat16 has x and y in it.
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
	narrow := d.set.pairs != nil
	if narrow {
		x, y = castDown(b, d, s, x), castDown(b, d, s, y)
	}
	flops := 2 * float64(l.tokens) * float64(l.outputs) * float64(l.inputs)
	product := func(name string, c, a, b2 kernels.Tensor, o kernels.MatMulOptions) {
		o.BFloat16 = narrow
		b.Run(name, func(b *testing.B) {
			besidePeak(b, d, flops, func() { d.MatMul(s, c, a, b2, o) })
		})
	}
	product("forward", y, x, w, kernels.MatMulOptions{TransB: true})
	product("input", x, y, w, kernels.MatMulOptions{})
	product("weight", dw, y, x, kernels.MatMulOptions{TransA: true, Accumulate: true})
	if l.name == "square" {
		product("both", y, x, w, kernels.MatMulOptions{TransA: true, TransB: true})
	}
	if err := s.Synchronize(); err != nil {
		b.Fatal(err)
	}
}

// benchSample is the least time of a sample.
const benchSample = 2 * time.Millisecond

// besidePeak runs, in turns, product and as many multiply-adds on registers, on the same threads. A sample of either is some
// calls that take some milliseconds. What is reported are the medians over all samples: of the time of a call, of the
// rate, and of the rate's share of that of the registers in the sample before it. So neither the clock's changes nor other
// work on the machine, which hit both, show in the share.
func besidePeak(b *testing.B, d *Device, flops float64, product func()) {
	product() // touches the memory
	start := time.Now()
	product()
	calls := int(benchSample/max(time.Since(start), 1)) + 1
	var seconds, shares []float64
	for b.Loop() {
		peak := d.peakTime(flops * float64(calls)).Seconds()
		start := time.Now()
		for range calls {
			product()
		}
		sample := time.Since(start).Seconds()
		seconds, shares = append(seconds, sample/float64(calls)), append(shares, 100*peak/sample)
	}
	call := median(seconds)
	b.ReportMetric(1e9*call, "ns/op")
	b.ReportMetric(flops/call/1e9, "GFLOP/s")
	if t, _ := d.benchTile(); t.peak != nil {
		b.ReportMetric(median(shares), "%peak")
	}
}

// BenchmarkLimits measures what a step's floor is made of, as medians of samples of some milliseconds: the multiply-adds on
// registers, and copies from memory to memory, whose reads and writes both count.
func BenchmarkLimits(b *testing.B) {
	for threads := 1; threads <= 2; threads++ {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			d, _ := open(b, "", threads)
			const floats, part = 16 << 20, 256 << 10
			c := call{args: [maxArgs]kernels.Tensor{benchMatrix(b, d, 1, floats), benchMatrix(b, d, 1, floats)}}
			flops := 1e9 * float64(threads)
			var peaks, copies []float64
			for b.Loop() {
				peaks = append(peaks, flops/d.peakTime(flops).Seconds()/1e9)
				start := time.Now()
				d.parallel(&c, floats/part, func(_ *Device, c *call, _ *worker, from, to int) {
					copy(f32(c.args[0])[from*part:to*part], f32(c.args[1])[from*part:])
				})
				copies = append(copies, 2*4*floats/time.Since(start).Seconds()/1e9)
			}
			b.ReportMetric(median(peaks), "GFLOP/s")
			b.ReportMetric(median(copies), "GB/s")
		})
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// peakTime runs so many floating-point operations as multiply-adds on registers, on all threads, and returns the time that
// it took; 0 where the kernel set has no such loop.
func (d *Device) peakTime(flops float64) time.Duration {
	t, products := d.benchTile()
	if t.peak == nil {
		return 0
	}
	const kc = 512 // some microseconds
	part := 2 * kc * float64(products*t.a.width*t.b.width)
	parts := max(1, int(flops/part))
	start := time.Now()
	d.parallel(&call{}, parts, func(d *Device, _ *call, _ *worker, from, to int) {
		for range to - from {
			t.peak(kc)
		}
	})
	whole := flops / (part * float64(parts))
	return time.Duration(whole * float64(time.Since(start)))
}

// benchTile returns the tile that benchmarks of products use, and how many products a step of it adds to an element.
func (d *Device) benchTile() (t *tileKernels, products int) {
	if d.set.pairs != nil {
		return &d.set.pairs.tile, 2
	}
	return &d.set.tile, 1
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
