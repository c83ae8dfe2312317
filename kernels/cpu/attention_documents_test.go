package cpu

import (
	"fmt"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/conformance"
	"lockstep/kernels/device"
)

// TestDocumentsSaveWork counts the multiplications of both passes. Documents never add any, and those of a bounded length
// make their number linear in the length of the row.
func TestDocumentsSaveWork(t *testing.T) {
	work := func(width, group int, lengths ...int) (n int) {
		d, s := open(t, "generic", 1)
		counting := *d.set
		counting.tile.multiply = func(kc int, a, b, c *float32, ldc int, accumulate bool) { n += kc }
		d.set = &counting
		shape := conformance.AttentionShape{B: 1, Tq: width, Tk: width, N: group, Nkv: 1, D: 16, Dv: 16, Scale: 0.25, Causal: true}
		if len(lengths) > 0 {
			shape.Documents = packed(1, width, lengths...)
		}
		a := newAttentionCase(shape)
		a.run(t, d, s)
		return n
	}
	for _, group := range []int{1, 3} {
		plain := work(2000, group)
		if one := work(2000, group, 2000); one != plain {
			t.Errorf("%d multiplications for one document, %d for none", one, plain)
		}
		for _, lengths := range [][]int{{1}, {20}, {7, 500, 1}, {1999, 1}, {1, 1999}, {256, 192}} {
			if n := work(2000, group, lengths...); n > plain {
				t.Errorf("documents of %v: %d multiplications, without documents %d", lengths, n, plain)
			}
		}
		if short, long := work(1000, group, 20), work(2000, group, 20); float64(long) > 2.1*float64(short) || long > plain/10 {
			t.Errorf("documents of 20: %d multiplications in 1000 tokens, %d in 2000; without documents %d", short, long, plain)
		}
	}
}

// BenchmarkAttentionDocuments times both passes over documents of several lengths; 0 is without documents.
func BenchmarkAttentionDocuments(b *testing.B) {
	const width, heads, kvHeads, dim = 1024, 6, 3, 64
	d, s := open(b, "", 1)
	o := operands{b, d}
	q, k, v, out := o.f(1, width, heads, dim), o.f(1, width, kvHeads, dim), o.f(1, width, kvHeads, dim), o.f(1, width, heads, dim)
	do, dq, dk, dv := o.f(1, width, heads, dim), o.f(1, width, heads, dim), o.f(1, width, kvHeads, dim), o.f(1, width, kvHeads, dim)
	shape, bytes := d.AttentionSizes(q, k, v)
	statistics, workspace := o.f(shape...), o.tensor(device.Uint8, bytes)
	for _, length := range []int{0, 1024, 300, 20, 1} {
		opt := kernels.AttentionOptions{Scale: 0.125, Causal: true}
		if length > 0 {
			opt.Documents = o.tensor(device.Int32, 1, width)
			copy(i32(opt.Documents), packed(1, width, length))
		}
		b.Run(fmt.Sprintf("length=%d", length), func(b *testing.B) {
			for b.Loop() {
				d.Attention(s, out, statistics, q, k, v, opt)
				d.AttentionBackward(s, dq, dk, dv, do, q, k, v, out, statistics, workspace, opt)
			}
		})
	}
	if err := s.Synchronize(); err != nil {
		b.Fatal(err)
	}
}
