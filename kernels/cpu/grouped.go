package cpu

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// GroupedMatMul multiplies each expert's rows by its matrix: one MatMul for each expert, whose parts are shared among the
// threads all together. An element has the bits that MatMul on the expert's rows alone gives it.
func (d *Device) GroupedMatMul(s device.Stream, c, a, b, offsets kernels.Tensor, o kernels.MatMulOptions) {
	k := call{name: "GroupedMatMul", run: runGroupedMatMul, flag: [3]bool{o.TransA, o.TransB, o.Accumulate}}
	k.operands(1, c, a, b, offsets)
	d.launch(s, kernels.CheckGroupedMatMul(c, a, b, offsets, o), k)
}

func runGroupedMatMul(d *Device, c *call) error {
	offsets := i32(c.args[3])
	for e, at := range offsets[1:] {
		if at < offsets[e] || offsets[0] < 0 || int(at) > c.args[1].Shape[0] {
			return fmt.Errorf("offsets[%d] is %d: they must not fall and stay within the %d rows", e+1, at, c.args[1].Shape[0])
		}
	}
	parts := 0
	for e := range len(offsets) - 1 {
		p := newGroup(d, c, e)
		parts += p.down * p.across
	}
	d.parallel(c, parts, groupedParts)
	return nil
}

// newGroup returns the product of expert e.
func newGroup(d *Device, c *call, e int) product {
	offsets := i32(c.args[3])
	rows, experts := int(offsets[e+1]-offsets[e]), len(offsets)-1
	p := product{m: rows, n: c.args[0].Last(), k: c.args[1].Last(), transA: c.flag[0], transB: c.flag[1], accumulate: c.flag[2]}
	if p.transA {
		p.m, p.k = c.args[1].Last(), rows
	}
	if p.m == 0 {
		return p
	}
	// Where there are experts enough, they give all threads work and need not be cut to balance the load.
	threads := len(d.pool.workers)
	if experts >= partsPerThread*threads {
		threads = 1
	}
	p.cut(threads, d.set.tile.a.width, d.set.tile.b.width)
	return p
}

func groupedParts(d *Device, c *call, w *worker, from, to int) {
	part := from
	for e, first := 0, 0; part < to; e++ {
		p := newGroup(d, c, e)
		end := first + p.down*p.across
		if part < end {
			k := p.operands(c, e)
			for ; part < min(to, end); part++ {
				i, j := (part-first)%p.down*p.rows, (part-first)/p.down*p.cols
				p.part(d.set, &k, w, i, j, min(p.rows, p.m-i), min(p.cols, p.n-j))
			}
		}
		first = end
	}
}

// operands returns the call of MatMul that the product of expert e is.
func (p *product) operands(c *call, e int) call {
	k := *c
	offsets := i32(c.args[3])
	from, to := int(offsets[e]), int(offsets[e+1])
	k.args[1] = c.args[1].Narrow(0, from, to)
	if p.transA {
		k.args[0], k.args[2] = matrix(c.args[0], e), c.args[2].Narrow(0, from, to)
	} else {
		k.args[0], k.args[2] = c.args[0].Narrow(0, from, to), matrix(c.args[2], e)
	}
	return k
}

// matrix returns matrix e of a [E,M,N] tensor.
func matrix(t kernels.Tensor, e int) kernels.Tensor {
	t.Offset += e * t.Stride[0] * t.DType.Size()
	t.Rank = 2
	t.Shape = [kernels.MaxRank]int{t.Shape[1], t.Shape[2]}
	t.Stride = [kernels.MaxRank]int{t.Stride[1], t.Stride[2]}
	return t
}
