package cpu

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// GroupedMatMul multiplies each expert's rows by its matrix: one MatMul for each expert. An element has the bits that MatMul
// on the expert's rows alone gives it.
func (d *Device) GroupedMatMul(s device.Stream, c, a, b, offsets kernels.Tensor, o kernels.MatMulOptions) {
	k := call{name: "GroupedMatMul", run: runGroupedMatMul, flag: matMulFlags(o)}
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
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	experts := len(offsets) - 1
	for e := range experts {
		if d.isShared(offsets, e) {
			d.matMul(c, newGroup(d, c, e, len(d.pool.workers)))
		}
	}
	d.pool.run(d, c, experts, groupedParts)
	return nil
}

// expertsPerThread is how many experts are enough to give all threads work, one expert each at a time.
const expertsPerThread = 4

// isShared returns whether all threads work on the product of expert e together: where there are few experts, or where it
// has so many of the rows that a thread alone would keep the others waiting.
func (d *Device) isShared(offsets []int32, e int) bool {
	threads, experts := len(d.pool.workers), len(offsets)-1
	rows, all := int(offsets[e+1]-offsets[e]), int(offsets[experts]-offsets[0])
	return threads > 1 && (experts < expertsPerThread*threads || 2*threads*rows > all)
}

// groupedParts computes the products that one thread works on.
func groupedParts(d *Device, c *call, w *worker, from, to int) {
	offsets := i32(c.args[3])
	for e := from; e < to; e++ {
		if d.isShared(offsets, e) {
			continue
		}
		if p := newGroup(d, c, e, 1); !p.empty() {
			w.strip.reset(&p, 0)
			w.strip.work(&p, w)
		}
	}
}

// newGroup returns the product of expert e, cut for a number of threads.
func newGroup(d *Device, c *call, e, threads int) product {
	k := groupCall(c, e)
	return newProduct(d, &k, threads)
}

// groupCall returns the call of MatMul that the product of expert e is.
func groupCall(c *call, e int) call {
	k := *c
	offsets := i32(c.args[3])
	from, to := int(offsets[e]), int(offsets[e+1])
	k.args[1] = c.args[1].Narrow(0, from, to)
	if transA := c.flag[0]; transA {
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
