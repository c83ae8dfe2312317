package cpu

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// rows reads and writes the rows of a Float32 or BFloat16 tensor as float32, the only numbers that kernels know. A row of
// BFloat16 is widened to scratch memory to be read, and is made there and rounded when it is stored: the operator has the bits
// that it has on Float32, and each element is rounded once. The row is in the fastest cache on the way, and in memory it has
// half the bytes.
type rows struct {
	set     *kernelSet
	tensor  *kernels.Tensor
	float32 []float32
	narrow  []uint16
	wide    []float32 // one row
}

// rows returns the rows of t, with memory from s for one of them where t is BFloat16. The zero Tensor has none.
func (d *Device) rows(s *scratch, t *kernels.Tensor) rows {
	r := rows{set: d.set, tensor: t}
	if t.DType == device.BFloat16 {
		r.narrow, r.wide = bf16(*t), s.take(t.Last())
	} else {
		r.float32 = f32(*t)
	}
	return r
}

// at returns where row i is made: store comes after it.
func (r *rows) at(i int) []float32 { return r.position(row(r.tensor, i)) }

// position is at for the row that begins at an element, counted from the tensor's first.
func (r *rows) position(at int) []float32 {
	if r.narrow != nil {
		return r.wide
	}
	return r.float32[at:][:r.tensor.Last()]
}

// read returns row i.
func (r *rows) read(i int) []float32 { return r.elements(row(r.tensor, i), r.tensor.Last()) }

// part returns n elements of row i, from element from on.
func (r *rows) part(i, from, n int) []float32 { return r.elements(row(r.tensor, i)+from, n) }

// elements returns n elements of one row, from a position on.
func (r *rows) elements(at, n int) []float32 {
	if r.narrow != nil {
		r.set.toFloat32(r.wide[:n], r.narrow[at:][:n])
		return r.wide[:n]
	}
	return r.float32[at:][:n]
}

// store puts the row that was made at at(i) in its place.
func (r *rows) store(i int) {
	if r.narrow != nil {
		r.storeAt(row(r.tensor, i))
	}
}

// storeAt is store for the row at a position.
func (r *rows) storeAt(at int) {
	if r.narrow != nil {
		r.set.toBFloat16(r.narrow[at:][:len(r.wide)], r.wide)
	}
}

// overParts runs b over parts of a call that works on rows. It fails where the rows of BFloat16 that one needs at a time do not
// fit a worker's scratch memory, half of which is theirs.
func (d *Device) overParts(c *call, parts int, b body) error {
	wide := 0
	for i := range c.args[:c.n] {
		if t := &c.args[i]; t.DType == device.BFloat16 {
			wide += roundUp(t.Last(), scratchAlign)
		}
	}
	if most := scratchBytes / device.Float32.Size() / 2; wide > most {
		return fmt.Errorf("rows of %d bfloat16 elements, over all operands: the CPU takes up to %d", wide, most)
	}
	d.parallel(c, parts, b)
	return nil
}

// overRows is overParts over the rows of t, cut by rowsPerPart.
func (d *Device) overRows(c *call, t *kernels.Tensor, b body) error {
	return d.overParts(c, partsOf(t.Rows(), rowsPerPart(t.Last())), b)
}
