package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// SumSquares computes the sums of squares of the rows of x, and of its columns.
func (d *Device) SumSquares(s device.Stream, rows, columns, x kernels.Tensor, accumulate bool) {
	c := call{name: "SumSquares", run: runSumSquares}
	c.operands(2, columns, rows, x) // sumRows wants its sums first
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckSumSquares(rows, columns, x), c)
}

func runSumSquares(d *Device, c *call) error {
	if err := d.overRows(c, &c.args[2], sumSquaresOfRows); err != nil || c.args[0].IsZero() {
		return err
	}
	return d.overColumns(c, &c.args[2], sumSquaresOfColumns)
}

func sumSquaresOfRows(d *Device, c *call, _ *worker, from, to int) {
	x := &c.args[2]
	n, sums, xs := x.Last(), f32(c.args[1]), f32(*x)
	i, end := rowSpan(x, from, to)
	for ; i < end; i++ {
		sums[i] = float32(d.set.sumSquares(xs[i*n:][:n]))
	}
}

func sumSquaresOfColumns(d *Device, c *call, w *worker, from, to int) {
	sumRows(d, c, w, &c.args[2], squaresTerm, from, to)
}

// squaresTerm is the rowsTerm of x^2.
func squaresTerm(d *Device, c *call, _ scratch, sum []float32, first, end, at int) {
	x := &c.args[2]
	xs := f32(*x)
	for i := first; i < end; i++ {
		r := xs[row(x, i)+at:][:len(sum)]
		d.set.mulAxpy(sum, r, r, 1)
	}
}

// AdafactorMoments moves the mean squares of a gradient's rows and columns. The method is that of N. Shazeer and M. Stern,
// "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018, as torch.optim.Adafactor has it.
func (d *Device) AdafactorMoments(s device.Stream, row, column, mean, rows, columns, clip kernels.Tensor, weight, eps float64) {
	c := call{name: "AdafactorMoments", run: runAdafactorMoments}
	c.operands(3, row, column, mean, rows, columns, clip)
	c.f[0], c.f[1] = weight, eps
	d.launch(s, kernels.CheckAdafactorMoments(row, column, mean, rows, columns, clip), c)
}

// runAdafactorMoments works on one thread: there are only as many numbers as a matrix has rows and columns.
func runAdafactorMoments(_ *Device, c *call) error {
	clip := f64(c.args[5])
	if clip[2] == 0 {
		return nil
	}
	row, rows := f32(c.args[0]), f32(c.args[3])
	scale, mean := float64(clip[1]*clip[1]), f64(c.args[2])
	mean[0] = 1
	if c.args[1].IsZero() {
		moveTo(row, rows, scale, c.f[0])
		return nil
	}
	column, columns := f32(c.args[1]), f32(c.args[4])
	moveTo(row, rows, scale/float64(len(column)), c.f[0])
	moveTo(column, columns, scale/float64(len(row)), c.f[0])
	sum := 0.0
	for _, v := range row {
		sum += float64(v)
	}
	mean[0] = max(sum/float64(len(row)), c.f[1])
	return nil
}

// moveTo moves y by weight towards scale times x.
func moveTo(y, x []float32, scale, weight float64) {
	for i, v := range x {
		y[i] = lerp(y[i], float32(float64(v)*scale), float32(weight))
	}
}

// AdafactorScale computes u = g / sqrt(max(row * column / mean, eps^2)).
func (d *Device) AdafactorScale(s device.Stream, u, g, row, column, mean, clip kernels.Tensor, eps float64) {
	c := call{name: "AdafactorScale", run: runAdafactorScale}
	c.operands(1, u, g, row, column, mean, clip)
	c.f[0] = eps
	d.launch(s, kernels.CheckAdafactorScale(u, g, row, column, mean, clip), c)
}

func runAdafactorScale(d *Device, c *call) error {
	return d.overRows(c, &c.args[0], adafactorScaleRows)
}

// adafactorScaleRows splits the root into one of the row and one of each column, which takes no root per element. Only a row in
// which some elements are below eps and others are not is left to a loop over its elements.
func adafactorScaleRows(d *Device, c *call, w *worker, from, to int) {
	u := &c.args[0]
	n, us, gs, rows := u.Last(), f32(*u), f32(c.args[1]), f32(c.args[2])
	factor, floor := f64(c.args[5])[1], c.f[0]*c.f[0]
	roots, columns, least, most := w.scratch[:n], []float32(nil), 1.0, 1.0
	if column := c.args[3]; !column.IsZero() {
		columns = f32(column)
		least, most = inverseRoots(roots, columns)
	} else {
		roots[0] = 1
	}
	i, end := rowSpan(u, from, to)
	for ; i < end; i++ {
		y, g, r := us[i*n:][:n], gs[i*n:][:n], float64(rows[i])/f64(c.args[4])[0]
		switch {
		case r*least >= floor:
			d.set.scaleMul(y, g, roots, float32(factor/math.Sqrt(r)))
		case r*most < floor:
			d.set.scale(y, g, float32(factor/c.f[0]))
		default:
			for j := range y {
				y[j] = float32(float64(g[j]) * factor / math.Sqrt(max(r*float64(columns[j]), floor)))
			}
		}
	}
}

// inverseRoots computes y = 1/sqrt(x) and returns the smallest and the largest of x.
func inverseRoots(y, x []float32) (least, most float64) {
	least, most = math.Inf(1), 0
	for j, v := range x {
		y[j] = float32(1 / math.Sqrt(float64(v)))
		least, most = min(least, float64(v)), max(most, float64(v))
	}
	return least, most
}

// AdafactorSize computes the step size of an update.
func (d *Device) AdafactorSize(s device.Stream, size, weights, updates kernels.Tensor, n int, o kernels.AdafactorOptions) {
	c := call{name: "AdafactorSize", run: runAdafactorSize}
	c.operands(1, size, weights, updates)
	c.f = [6]float64{o.LR, float64(o.Step), o.MinScale, o.Threshold, float64(n)}
	d.launch(s, kernels.CheckAdafactorSize(size, weights, updates, n, o), c)
}

func runAdafactorSize(_ *Device, c *call) error {
	lr, step, minScale, threshold, n := c.f[0], c.f[1], c.f[2], c.f[3], c.f[4]
	scale := max(minScale, math.Sqrt(total(c.args[1])/n))
	excess := max(1, math.Sqrt(total(c.args[2])/n)/threshold)
	f64(c.args[0])[0] = min(lr, 1/math.Sqrt(step)) * scale / excess
	return nil
}
