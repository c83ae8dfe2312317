package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// RMSNorm computes y = gamma * (x * rstd) with rstd = 1/sqrt(mean(x^2) + eps) over the last dimension, as Transformers'
// LlamaRMSNorm does in float32.
func (d *Device) RMSNorm(s device.Stream, y, rstd, x, gamma kernels.Tensor, eps float64) {
	c := call{name: "RMSNorm", run: runRMSNorm}
	c.operands(2, byRows(y), rstd, byRows(x), gamma)
	c.f[0] = eps
	d.launch(s, kernels.CheckRMSNorm(y, rstd, x, gamma), c)
}

func runRMSNorm(d *Device, c *call) error {
	return d.overRows(c, &c.args[2], rmsNormRows)
}

func rmsNormRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, x := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[2])
	rstd, gamma := f32(c.args[1]), f32(c.args[3])
	i, end := rowSpan(&c.args[2], from, to)
	for ; i < end; i++ {
		rstd[i] = d.rmsNormRow(y.at(i), x.read(i), gamma, c.f[0])
		y.store(i)
	}
}

// AddRMSNorm computes sum = a + b and the RMSNorm of it, while a row is in the fastest cache.
func (d *Device) AddRMSNorm(s device.Stream, y, rstd, sum, a, b, gamma kernels.Tensor, eps float64) {
	c := call{name: "AddRMSNorm", run: runAddRMSNorm}
	c.operands(3, byRows(y), rstd, byRows(sum), gamma, byRows(a), byRows(b))
	c.f[0] = eps
	d.launch(s, kernels.CheckAddRMSNorm(y, rstd, sum, a, b, gamma), c)
}

func runAddRMSNorm(d *Device, c *call) error {
	return d.overRows(c, &c.args[2], addRMSNormRows)
}

func addRMSNormRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, sum, a, b := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[2]), d.rows(&s, &c.args[4]), d.rows(&s, &c.args[5])
	rstd, gamma := f32(c.args[1]), f32(c.args[3])
	i, end := rowSpan(&c.args[2], from, to)
	for ; i < end; i++ {
		d.set.add(sum.at(i), a.read(i), b.read(i))
		sum.store(i)
		rstd[i] = d.rmsNormRow(y.at(i), sum.read(i), gamma, c.f[0])
		y.store(i)
	}
}

// rmsNormRow normalises one row and returns its rstd.
func (d *Device) rmsNormRow(y, x, gamma []float32, eps float64) float32 {
	rstd := float32(1 / math.Sqrt(d.set.sumSquares(x)/float64(len(x))+eps))
	d.set.scaleMul(y, x, gamma, rstd)
	return rstd
}

// RMSNormBackwardInput computes, with g = dy * gamma,
//
//	dx = residual + rstd * g - x * rstd^3 / C * sum(g * x)
func (d *Device) RMSNormBackwardInput(s device.Stream, dx, dy, x, rstd, gamma, residual kernels.Tensor) {
	c := call{name: "RMSNormBackwardInput", run: runRMSNormBackwardInput}
	c.operands(1, byRows(dx), byRows(dy), byRows(x), rstd, gamma, byRows(residual))
	d.launch(s, kernels.CheckRMSNormBackwardInput(dx, dy, x, rstd, gamma, residual), c)
}

func runRMSNormBackwardInput(d *Device, c *call) error {
	return d.overRows(c, &c.args[2], rmsNormBackwardInputRows)
}

func rmsNormBackwardInputRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	dx, dy, x, residual := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1]), d.rows(&s, &c.args[2]), d.rows(&s, &c.args[5])
	rstd, gamma := f32(c.args[3]), f32(c.args[4])
	i, end := rowSpan(&c.args[2], from, to)
	for ; i < end; i++ {
		dyr, xr, r := dy.read(i), x.read(i), rstd[i]
		sum := d.set.dot3(dyr, gamma, xr)
		k := float32(-float64(r) * float64(r) * float64(r) * float64(sum) / float64(len(xr)))
		if residual.tensor.IsZero() {
			d.set.scaleMulAdd(dx.at(i), dyr, gamma, xr, r, k)
		} else {
			d.set.addScaleMulAdd(dx.at(i), residual.read(i), dyr, gamma, xr, r, k)
		}
		dx.store(i)
	}
}

// RMSNormBackwardWeight computes dgamma = (or +=) the sum over rows of dy * x * rstd.
func (d *Device) RMSNormBackwardWeight(s device.Stream, dgamma, dy, x, rstd kernels.Tensor, accumulate bool) {
	c := call{name: "RMSNormBackwardWeight", run: runRMSNormBackwardWeight}
	c.operands(1, dgamma, byRows(dy), byRows(x), rstd)
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckRMSNormBackwardWeight(dgamma, dy, x, rstd), c)
}

func runRMSNormBackwardWeight(d *Device, c *call) error {
	return d.overColumns(c, &c.args[1], rmsNormBackwardWeightColumns)
}

func rmsNormBackwardWeightColumns(d *Device, c *call, w *worker, from, to int) {
	sumRows(d, c, w, &c.args[1], rmsNormWeightTerm, from, to)
}

// rmsNormWeightTerm is the rowsTerm of dy * x * rstd.
func rmsNormWeightTerm(d *Device, c *call, s scratch, sum []float32, first, end, at int) {
	dy, x, rstd := d.rows(&s, &c.args[1]), d.rows(&s, &c.args[2]), f32(c.args[3])
	for i := first; i < end; i++ {
		d.set.mulAxpy(sum, dy.part(i, at, len(sum)), x.part(i, at, len(sum)), rstd[i])
	}
}
