package cpu

import (
	"fmt"
	"math"
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Embedding gathers the rows of weight that ids name.
func (d *Device) Embedding(s device.Stream, y, weight, ids kernels.Tensor) {
	c := call{name: "Embedding", run: runEmbedding}
	c.operands(1, y, weight, ids)
	d.launch(s, kernels.CheckEmbedding(y, weight, ids), c)
}

func runEmbedding(d *Device, c *call) error {
	if err := checkIDs("ids", i32(c.args[2]), 0, c.args[1].Shape[0]); err != nil {
		return err
	}
	return d.overRows(c, &c.args[0], embeddingRows)
}

func embeddingRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, weight, ids := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1]), i32(c.args[2])
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		copy(y.at(i), weight.read(int(ids[i])))
		y.store(i)
	}
}

// EmbeddingBackward adds each row of dy to the row of dweight that its id names, in the order of ids. The ids are sorted
// first, so that each row of dweight is met once, by one thread, while it is in the fastest cache.
func (d *Device) EmbeddingBackward(s device.Stream, dweight, dy, ids kernels.Tensor, accumulate bool) {
	c := call{name: "EmbeddingBackward", run: runEmbeddingBackward}
	c.operands(1, dweight, dy, ids)
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckEmbeddingBackward(dweight, dy, ids), c)
}

func runEmbeddingBackward(d *Device, c *call) error {
	ids := i32(c.args[2])
	if err := checkIDs("ids", ids, math.MinInt32, c.args[0].Shape[0]); err != nil {
		return err
	}
	order := &d.order
	order.mu.Lock()
	defer order.mu.Unlock()
	accumulate := c.flag[0]
	for at := 0; at < len(ids) || !accumulate; at, accumulate = at+orderedIDs, true {
		var err error
		order.sort(ids[at:min(at+orderedIDs, len(ids))], at)
		if accumulate {
			err = d.overParts(c, partsOf(len(order.entries), rowsPerPart(c.args[1].Last())), addOrderedRows)
		} else {
			err = d.overRows(c, &c.args[0], setOrderedRows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setOrderedRows computes rows of dweight that hold nothing yet: sums where there are ids, zeros in between.
func setOrderedRows(d *Device, c *call, w *worker, from, to int) {
	dweight := &c.args[0]
	s := w.free()
	dweights, dy, entries := f32(*dweight), d.rows(&s, &c.args[1]), d.order.entries
	v, end := rowSpan(dweight, from, to)
	at, _ := slices.BinarySearch(entries, newOrderEntry(v, 0))
	for v < end {
		next := end
		if at < len(entries) {
			next = min(entries[at].id(), end)
		}
		clearRows(dweights, dweight, v, next)
		if v = next; v < end {
			at = d.addRow(c, &dy, at, true)
			v++
		}
	}
}

// clearRows zeroes the rows [from, to) of t, whose elements are x, in one go where they are dense.
func clearRows(x []float32, t *kernels.Tensor, from, to int) {
	if t.Stride[0] == t.Last() {
		clear(x[from*t.Last() : to*t.Last()])
		return
	}
	for i := from; i < to; i++ {
		clear(x[row(t, i):][:t.Last()])
	}
}

// addOrderedRows adds the rows of the entries of the parts [from, to). A run of one id belongs to the part in which it
// starts.
func addOrderedRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	dy, entries, per := d.rows(&s, &c.args[1]), d.order.entries, rowsPerPart(c.args[1].Last())
	at, end := from*per, min(to*per, len(entries))
	for at > 0 && at < end && entries[at].id() == entries[at-1].id() {
		at++
	}
	for at < end {
		at = d.addRow(c, &dy, at, false)
	}
}

// addRow adds to a row of dweight, or first sets it to, the rows of dy of the entries at and after at that have the same
// id. It returns the position of the next id.
func (d *Device) addRow(c *call, dy *rows, at int, set bool) int {
	dweight, entries := &c.args[0], d.order.entries
	id := entries[at].id()
	r := f32(*dweight)[row(dweight, id):][:dweight.Last()]
	if set {
		copy(r, dy.read(entries[at].position()))
		at++
	}
	for ; at < len(entries) && entries[at].id() == id; at++ {
		d.set.add(r, r, dy.read(entries[at].position()))
	}
	return at
}

// checkIDs returns an error for the first id outside [low, high).
func checkIDs(name string, ids []int32, low, high int) error {
	for i, id := range ids {
		if int(id) < low || int(id) >= high {
			return fmt.Errorf("%s[%d] is %d, outside [%d, %d)", name, i, id, low, high)
		}
	}
	return nil
}
