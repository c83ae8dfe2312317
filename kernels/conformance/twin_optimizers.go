package conformance

import (
	"math"

	"lockstep/kernels"
)

// Lerp moves y by weight towards x.
func Lerp(y, x []float64, weight float64) {
	for i := range y {
		y[i] += weight * (x[i] - y[i])
	}
}

// AddScaled computes y = alpha * a + beta * b; b may be nil.
func AddScaled(y, a, b []float64, alpha, beta float64) {
	for i := range y {
		y[i] = alpha * a[i]
		if b != nil {
			y[i] += beta * b[i]
		}
	}
}

// Normalize computes y = x / max(norm, eps), the norm being the root of the sum of sums.
func Normalize(y, x, sums []float64, eps float64) {
	total := 0.0
	for _, s := range sums {
		total += s
	}
	for i := range y {
		y[i] = x[i] / math.Max(math.Sqrt(total), eps)
	}
}

// SumSquares computes rows [R] and adds to columns [C] the sums of squares of x [R,C].
func SumSquares(rows, columns, x []float64) {
	clear(rows)
	for i, v := range x {
		rows[i/len(columns)] += v * v
		columns[i%len(columns)] += v * v
	}
}

// ApplyUpdate computes p = decay * p - rate * u, unless clip says that the norm is not finite.
func ApplyUpdate(p, u, clip []float64, decay, rate float64) {
	if clip[2] == 0 {
		return
	}
	for i := range p {
		p[i] = decay*p[i] - rate*u[i]
	}
}

// MuonMomentum moves m towards g times clip's factor and computes the update u.
func MuonMomentum(u, m, g, clip []float64, o kernels.MuonOptions) {
	if clip[2] == 0 {
		return
	}
	for i := range u {
		gi := g[i] * clip[1]
		m[i] += (1 - o.Momentum) * (gi - m[i])
		u[i] = m[i]
		if o.Nesterov {
			u[i] = gi + o.Momentum*(m[i]-gi)
		}
	}
}

// AdafactorMoments moves row and column by weight towards the mean squares of a gradient, whose sums are rows and columns,
// and returns the mean of row.
func AdafactorMoments(row, column, rows, columns, clip []float64, weight, eps float64) (mean float64) {
	for i := range row {
		row[i] += weight * (rows[i]*clip[1]*clip[1]/math.Max(1, float64(len(column))) - row[i])
		mean += row[i] / float64(len(row))
	}
	for j := range column {
		column[j] += weight * (columns[j]*clip[1]*clip[1]/float64(len(row)) - column[j])
	}
	if column == nil {
		return 1
	}
	return math.Max(mean, eps)
}

// AdafactorScale computes u = g / sqrt(max(row * column / mean, eps^2)); a nil column is one of 1.
func AdafactorScale(u, g, row, column []float64, mean float64, clip []float64, eps float64) {
	for i := range u {
		v := row[i*len(row)/len(u)] / mean
		if column != nil {
			v *= column[i%len(column)]
		}
		u[i] = g[i] * clip[1] / math.Sqrt(math.Max(v, eps*eps))
	}
}

// AdafactorSize returns the step size of an update of n elements.
func AdafactorSize(weights, updates []float64, n int, o kernels.AdafactorOptions) float64 {
	rms := func(sums []float64) float64 {
		total := 0.0
		for _, s := range sums {
			total += s
		}
		return math.Sqrt(total / float64(n))
	}
	relative := math.Min(o.LR, 1/math.Sqrt(float64(o.Step)))
	return relative * math.Max(o.MinScale, rms(weights)) / math.Max(1, rms(updates)/o.Threshold)
}
