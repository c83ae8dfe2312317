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
	d.overRows(c, &c.args[0], swiGLURows)
	return nil
}

func swiGLURows(d *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	ys, xs := f32(*y), f32(*x)
	n := y.Last()
	i, end := rowSpan(y, from, to)
	for ; i < end; i++ {
		xr := xs[row(x, i):][:2*n]
		d.set.siluMul(ys[row(y, i):][:n], xr[:n], xr[n:])
	}
}

// SwiGLUBackward computes dx from dy and x.
func (d *Device) SwiGLUBackward(s device.Stream, dx, dy, x kernels.Tensor) {
	c := call{name: "SwiGLUBackward", run: runSwiGLUBackward}
	c.operands(1, byRows(dx), byRows(dy), byRows(x))
	d.launch(s, kernels.CheckSwiGLUBackward(dx, dy, x), c)
}

func runSwiGLUBackward(d *Device, c *call) error {
	d.overRows(c, &c.args[1], swiGLUBackwardRows)
	return nil
}

func swiGLUBackwardRows(d *Device, c *call, _ *worker, from, to int) {
	dx, dy, x := &c.args[0], &c.args[1], &c.args[2]
	dxs, dys, xs := f32(*dx), f32(*dy), f32(*x)
	n := dy.Last()
	i, end := rowSpan(dy, from, to)
	for ; i < end; i++ {
		dxr, xr := dxs[row(dx, i):][:2*n], xs[row(x, i):][:2*n]
		d.set.siluMulBackward(dxr[:n], dxr[n:], dys[row(dy, i):][:n], xr[:n], xr[n:])
	}
}
