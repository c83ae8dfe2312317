package cpu

import (
	"fmt"

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
	d.overRows(c, &c.args[0], embeddingRows)
	return nil
}

func embeddingRows(_ *Device, c *call, _ *worker, from, to int) {
	y, weight := &c.args[0], &c.args[1]
	ys, weights, ids := f32(*y), f32(*weight), i32(c.args[2])
	i, end := rowSpan(y, from, to)
	for ; i < end; i++ {
		copy(ys[row(y, i):][:y.Last()], weights[row(weight, int(ids[i])):])
	}
}

// EmbeddingBackward adds each row of dy to the row of dweight that its id names, in the order of ids.
func (d *Device) EmbeddingBackward(s device.Stream, dweight, dy, ids kernels.Tensor, accumulate bool) {
	c := call{name: "EmbeddingBackward", run: runEmbeddingBackward}
	c.operands(1, dweight, dy, ids)
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckEmbeddingBackward(dweight, dy, ids), c)
}

func runEmbeddingBackward(d *Device, c *call) error {
	if err := checkIDs("ids", i32(c.args[2]), 0, c.args[0].Shape[0]); err != nil {
		return err
	}
	d.overColumns(c, &c.args[1], embeddingBackwardColumns)
	return nil
}

// embeddingBackwardColumns has one thread add all rows of a range of columns, so that rows with the same id are added in
// their order.
func embeddingBackwardColumns(d *Device, c *call, _ *worker, from, to int) {
	dweight, dy := &c.args[0], &c.args[1]
	dweights, dys, ids := f32(*dweight), f32(*dy), i32(c.args[2])
	per := columnsPerPart(dy.Last())
	at, end := min(from*per, dy.Last()), min(to*per, dy.Last())
	n := end - at
	if !c.flag[0] {
		for v := range dweight.Shape[0] {
			clear(dweights[row(dweight, v)+at:][:n])
		}
	}
	for i, id := range ids {
		r := dweights[row(dweight, int(id))+at:][:n]
		d.set.add(r, r, dys[row(dy, i)+at:][:n])
	}
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
