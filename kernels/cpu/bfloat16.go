package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Cast converts between Float32 and BFloat16.
func (d *Device) Cast(s device.Stream, y, x kernels.Tensor) {
	c := call{name: "Cast", run: runCast}
	c.operands(1, byRows(y), byRows(x))
	d.launch(s, kernels.CheckCast(y, x), c)
}

func runCast(d *Device, c *call) error {
	y := &c.args[0]
	d.parallel(c, partsOf(y.Rows(), rowsPerPart(y.Last())), castRows)
	return nil
}

func castRows(d *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	n := y.Last()
	i, end := rowSpan(y, from, to)
	if y.DType == device.BFloat16 {
		ys, xs := bf16(*y), f32(*x)
		for ; i < end; i++ {
			d.set.toBFloat16(ys[row(y, i):][:n], xs[row(x, i):][:n])
		}
		return
	}
	ys, xs := f32(*y), bf16(*x)
	for ; i < end; i++ {
		d.set.toFloat32(ys[row(y, i):][:n], xs[row(x, i):][:n])
	}
}

// castWhole is the number of elements of which widen and narrow take a multiple.
const castWhole = 16

// toFloat32 computes y[i] = x[i], exactly.
func (k *kernelSet) toFloat32(y []float32, x []uint16) {
	whole := len(y) / castWhole * castWhole
	if whole > 0 {
		k.widen(y[:whole], x[:whole])
	}
	widenGeneric(y[whole:], x[whole:])
}

// toBFloat16 computes y[i] = x[i], rounded to nearest, ties to even. A NaN stays one.
func (k *kernelSet) toBFloat16(y []uint16, x []float32) {
	whole := len(y) / castWhole * castWhole
	if whole > 0 {
		k.narrow(y[:whole], x[:whole])
	}
	narrowGeneric(y[whole:], x[whole:])
}

func widenGeneric(y []float32, x []uint16) {
	x = x[:len(y)]
	for i := range y {
		y[i] = math.Float32frombits(uint32(x[i]) << 16)
	}
}

// narrowGeneric adds just under half of the last place that is kept, and one more where that place is odd. The carry of a
// NaN could make it an infinity or a zero; it gets its quiet bit set instead.
func narrowGeneric(y []uint16, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		b := math.Float32bits(v)
		if v != v {
			y[i] = uint16(b>>16) | 0x40
		} else {
			y[i] = uint16((b + 0x7fff + b>>16&1) >> 16)
		}
	}
}
