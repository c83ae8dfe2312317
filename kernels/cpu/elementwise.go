package cpu

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// rowsPerPart cuts rows of the given width into parts of about 16 Ki elements, by the shape alone.
func rowsPerPart(width int) int { return max(1, (16<<10)/max(1, width)) }

func partsOf(n, per int) int { return (n + per - 1) / per }

// Add computes y = a + b.
func (d *Device) Add(s device.Stream, y, a, b kernels.Tensor) {
	c := call{name: "Add", run: runAdd}
	c.operands(1, y, a, b)
	d.launch(s, kernels.CheckAdd(y, a, b), c)
}

func runAdd(d *Device, c *call) error {
	y := &c.args[0]
	d.parallel(c, partsOf(y.Rows(), rowsPerPart(y.Last())), addRows)
	return nil
}

func addRows(_ *Device, c *call, _ *worker, from, to int) {
	y, a, b := &c.args[0], &c.args[1], &c.args[2]
	width, per := y.Last(), rowsPerPart(y.Last())
	ys, as, bs := f32(*y), f32(*a), f32(*b)
	for i := from * per; i < min(to*per, y.Rows()); i++ {
		addRow(ys[row(y, i):][:width], as[row(a, i):][:width], bs[row(b, i):][:width])
	}
}

func addRow(y, a, b []float32) {
	for i := range y {
		y[i] = a[i] + b[i]
	}
}
