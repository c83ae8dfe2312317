package kernels

import (
	"fmt"

	"lockstep/kernels/device"
)

// MuonOptions modifies MuonMomentum.
type MuonOptions struct {
	// Momentum is the decay rate of the mean of the gradients.
	Momentum float64
	// Nesterov looks one step ahead: the update is the gradient on its way to the mean.
	Nesterov bool
}

// AdafactorOptions modifies AdafactorSize.
type AdafactorOptions struct {
	// LR bounds the relative step size, which is 1/sqrt(Step) where that is less. Step counts from 1.
	LR   float64
	Step int
	// MinScale is what a weight's root mean square counts at least.
	MinScale float64
	// Threshold is the root mean square that an update may have before it is scaled down.
	Threshold float64
}

// OptimizerOperators are what optimizers beside AdamW are made of. clip is what ClipFactor computes: gradients are taken
// times its factor, and state and weights stay as they are where it says that the norm is not finite.
type OptimizerOperators interface {
	// Lerp moves y by a part of the way to x: y += weight * (x - y), both dense and of one shape.
	Lerp(s device.Stream, y, x Tensor, weight float64)
	// AddScaled computes y = alpha * a + beta * b, all dense and of one shape. b may be none; y may be a.
	AddScaled(s device.Stream, y, a, b Tensor, alpha, beta float64)
	// Normalize computes y = x / max(norm, eps), with the norm whose block sums SquaredNorm has computed: x, y dense and of
	// one shape, sums [blocks] Float64. y may be x.
	Normalize(s device.Stream, y, x, sums Tensor, eps float64)
	// SumSquares computes the sums of squares of the rows of x, rows [R], and of its columns, columns [C] = (or +=); x [R,C]
	// dense. columns may be none.
	SumSquares(s device.Stream, rows, columns, x Tensor, accumulate bool)
	// ApplyUpdate computes p = decay * p - rate * size * u: p, u dense and of one shape, size [1] Float64, which is 1
	// where it is none.
	ApplyUpdate(s device.Stream, p, u, size, clip Tensor, decay, rate float64)

	// MuonMomentum moves the mean m of the gradients towards g and computes the update u that is then to be made
	// orthogonal, as torch.optim.Muon does; all dense, of one shape.
	MuonMomentum(s device.Stream, u, m, g, clip Tensor, o MuonOptions)

	// AdafactorMoments moves the mean squares of a gradient's rows, row [R], and columns, column [C], by weight towards those
	// whose sums SumSquares has computed, rows [R] and columns [C], and leaves in mean [1] Float64 that of row, at least
	// eps. column and columns may be none: then the gradient is a vector of R elements, and mean is 1.
	AdafactorMoments(s device.Stream, row, column, mean, rows, columns, clip Tensor, weight, eps float64)
	// AdafactorScale divides a gradient by the root of its second moment: u = g / sqrt(max(row * column / mean, eps^2)); u, g
	// [R,C] dense, row [R], column [C], which is 1 where it is none, mean [1] Float64. u may be g.
	AdafactorScale(s device.Stream, u, g, row, column, mean, clip Tensor, eps float64)
	// AdafactorSize computes the step size of an update of n elements, size [1] Float64 = min(LR, 1/sqrt(Step)) *
	// max(MinScale, RMS(weights)) / max(1, RMS(update)/Threshold); weights and updates are block sums of SquaredNorm.
	AdafactorSize(s device.Stream, size, weights, updates Tensor, n int, o AdafactorOptions)
}

// CheckLerp checks the operands of Lerp.
func CheckLerp(y, x Tensor) error {
	return firstError(rows("y", y), dense("y", y), like("x", x, y), dense("x", x), apart("y", y, "x", x, false))
}

// CheckAddScaled checks the operands of AddScaled; b may be none.
func CheckAddScaled(y, a, b Tensor) error {
	err := firstError(rows("y", y), dense("y", y), like("a", a, y), dense("a", a), apart("y", y, "a", a, true))
	if err != nil || b.IsZero() {
		return err
	}
	return firstError(like("b", b, y), dense("b", b), apart("y", y, "b", b, false))
}

// CheckNormalize checks the operands of Normalize.
func CheckNormalize(y, x, sums Tensor) error {
	return firstError(
		rows("y", y), dense("y", y),
		like("x", x, y), dense("x", x),
		want("sums", sums, device.Float64, SquaredNormBlocks(y.Len())),
		apart("y", y, "x", x, true), apart("y", y, "sums", sums, false),
	)
}

// CheckSumSquares checks the operands of SumSquares; columns may be none.
func CheckSumSquares(sumRows, columns, x Tensor) error {
	err := firstError(
		want("x", x, device.Float32, x.Shape[0], x.Shape[1]), dense("x", x),
		want("rows", sumRows, device.Float32, x.Shape[0]),
		apart("rows", sumRows, "x", x, false),
	)
	if err != nil || columns.IsZero() {
		return err
	}
	return firstError(want("columns", columns, device.Float32, x.Shape[1]), outside("columns", columns, x, sumRows))
}

// CheckApplyUpdate checks the operands of ApplyUpdate; size may be none.
func CheckApplyUpdate(p, u, size, clip Tensor) error {
	err := firstError(
		rows("p", p), dense("p", p),
		like("u", u, p), dense("u", u),
		want("clip", clip, device.Float64, 3),
		outside("p", p, u, size, clip),
	)
	if err != nil || size.IsZero() {
		return err
	}
	return want("size", size, device.Float64, 1)
}

// CheckMuonMomentum checks the operands of MuonMomentum.
func CheckMuonMomentum(u, m, g, clip Tensor) error {
	return firstError(
		rows("u", u), dense("u", u),
		like("m", m, u), dense("m", m),
		like("g", g, u), dense("g", g),
		want("clip", clip, device.Float64, 3),
		outside("u", u, m, g, clip), outside("m", m, g, clip),
	)
}

// CheckAdafactorMoments checks the operands of AdafactorMoments; column and columns may be none, both.
func CheckAdafactorMoments(row, column, mean, sumRows, columns, clip Tensor) error {
	err := firstError(
		want("row", row, device.Float32, row.Shape[0]),
		want("rows", sumRows, device.Float32, row.Shape[0]),
		want("mean", mean, device.Float64, 1),
		want("clip", clip, device.Float64, 3),
		outside("row", row, column, mean, sumRows, columns, clip), outside("mean", mean, column, sumRows, columns, clip),
	)
	switch {
	case err != nil || column.IsZero() && columns.IsZero():
		return err
	case column.IsZero() || columns.IsZero():
		return fmt.Errorf("column is %v and columns is %v; give both or none", column, columns)
	}
	return firstError(
		want("column", column, device.Float32, column.Shape[0]),
		want("columns", columns, device.Float32, column.Shape[0]),
		outside("column", column, sumRows, columns, clip),
	)
}

// CheckAdafactorScale checks the operands of AdafactorScale; column may be none.
func CheckAdafactorScale(u, g, row, column, mean, clip Tensor) error {
	err := firstError(
		want("u", u, device.Float32, u.Shape[0], u.Shape[1]), dense("u", u),
		like("g", g, u), dense("g", g),
		want("row", row, device.Float32, u.Shape[0]),
		want("mean", mean, device.Float64, 1),
		want("clip", clip, device.Float64, 3),
		apart("u", u, "g", g, true),
		outside("u", u, row, column, mean, clip),
	)
	if err != nil || column.IsZero() {
		return err
	}
	return want("column", column, device.Float32, u.Shape[1])
}

// CheckAdafactorSize checks the operands of AdafactorSize.
func CheckAdafactorSize(size, weights, updates Tensor, n int, o AdafactorOptions) error {
	if o.Step < 1 {
		return fmt.Errorf("step is %d; steps count from 1", o.Step)
	}
	return firstError(
		want("size", size, device.Float64, 1),
		want("weights", weights, device.Float64, SquaredNormBlocks(n)),
		want("updates", updates, device.Float64, weights.Shape[0]),
		outside("size", size, weights, updates),
	)
}
