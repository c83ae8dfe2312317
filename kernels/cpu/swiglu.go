package cpu

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// SwiGLU computes y = silu(gate) * up, where gate and up are the halves of x's last dimension.
func (d *Device) SwiGLU(s device.Stream, y, x kernels.Tensor) {
	c := call{name: "SwiGLU", run: runSwiGLU}
	c.operands(1, byRows(y), byRows(x))
	d.launch(s, kernels.CheckSwiGLU(y, x), c)
}

func runSwiGLU(d *Device, c *call) error {
	return d.overRows(c, &c.args[0], swiGLURows)
}

func swiGLURows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, x := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1])
	n := c.args[0].Last()
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		xr := x.read(i)
		d.set.siluMul(y.at(i), xr[:n], xr[n:])
		y.store(i)
	}
}

// SwiGLUBackward computes dx from dy and x.
func (d *Device) SwiGLUBackward(s device.Stream, dx, dy, x kernels.Tensor) {
	c := call{name: "SwiGLUBackward", run: runSwiGLUBackward}
	c.operands(1, byRows(dx), byRows(dy), byRows(x))
	d.launch(s, kernels.CheckSwiGLUBackward(dx, dy, x), c)
}

func runSwiGLUBackward(d *Device, c *call) error {
	return d.overRows(c, &c.args[1], swiGLUBackwardRows)
}

func swiGLUBackwardRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	dx, dy, x := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1]), d.rows(&s, &c.args[2])
	n := c.args[1].Last()
	i, end := rowSpan(&c.args[1], from, to)
	for ; i < end; i++ {
		dxr, xr := dx.at(i), x.read(i)
		d.set.siluMulBackward(dxr[:n], dxr[n:], dy.read(i), xr[:n], xr[n:])
		dx.store(i)
	}
}
