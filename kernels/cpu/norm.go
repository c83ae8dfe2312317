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
	d.overRows(c, &c.args[2], rmsNormRows)
	return nil
}

func rmsNormRows(d *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[2]
	n := x.Last()
	ys, rstd, xs, gamma := f32(*y), f32(c.args[1]), f32(*x), f32(c.args[3])
	i, end := rowSpan(x, from, to)
	for ; i < end; i++ {
		rstd[i] = d.rmsNormRow(ys[row(y, i):][:n], xs[row(x, i):][:n], gamma, c.f[0])
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
	d.overRows(c, &c.args[2], addRMSNormRows)
	return nil
}

func addRMSNormRows(d *Device, c *call, _ *worker, from, to int) {
	y, sum, a, b := &c.args[0], &c.args[2], &c.args[4], &c.args[5]
	n := sum.Last()
	ys, rstd, sums, gamma, as, bs := f32(*y), f32(c.args[1]), f32(*sum), f32(c.args[3]), f32(*a), f32(*b)
	i, end := rowSpan(sum, from, to)
	for ; i < end; i++ {
		r := sums[row(sum, i):][:n]
		d.set.add(r, as[row(a, i):][:n], bs[row(b, i):][:n])
		rstd[i] = d.rmsNormRow(ys[row(y, i):][:n], r, gamma, c.f[0])
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
	d.overRows(c, &c.args[2], rmsNormBackwardInputRows)
	return nil
}

func rmsNormBackwardInputRows(d *Device, c *call, _ *worker, from, to int) {
	dx, dy, x, residual := &c.args[0], &c.args[1], &c.args[2], &c.args[5]
	n := x.Last()
	dxs, dys, xs, rstd, gamma, residuals := f32(*dx), f32(*dy), f32(*x), f32(c.args[3]), f32(c.args[4]), f32(*residual)
	i, end := rowSpan(x, from, to)
	for ; i < end; i++ {
		dxr, dyr, xr, r := dxs[row(dx, i):][:n], dys[row(dy, i):][:n], xs[row(x, i):][:n], rstd[i]
		sum := d.set.dot3(dyr, gamma, xr)
		k := float32(-float64(r) * float64(r) * float64(r) * float64(sum) / float64(n))
		if residual.IsZero() {
			d.set.scaleMulAdd(dxr, dyr, gamma, xr, r, k)
		} else {
			d.set.addScaleMulAdd(dxr, residuals[row(residual, i):][:n], dyr, gamma, xr, r, k)
		}
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
	d.overColumns(c, &c.args[1], rmsNormBackwardWeightColumns)
	return nil
}

func rmsNormBackwardWeightColumns(d *Device, c *call, w *worker, from, to int) {
	sumRows(d, c, w, &c.args[1], rmsNormWeightTerm, from, to)
}

// rmsNormWeightTerm is the rowsTerm of dy * x * rstd.
func rmsNormWeightTerm(d *Device, c *call, sum []float32, first, end, at int) {
	dy, x := &c.args[1], &c.args[2]
	dys, xs, rstd := f32(*dy), f32(*x), f32(c.args[3])
	for i := first; i < end; i++ {
		d.set.mulAxpy(sum, dys[row(dy, i)+at:][:len(sum)], xs[row(x, i)+at:][:len(sum)], rstd[i])
	}
}
