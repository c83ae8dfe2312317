package cpu

import (
	"fmt"
	"strings"
)

// A kernelSet is one implementation of the innermost loops: a table of functions, so that operators are written once.
// Operators have the same bits within one set only. What the functions compute, and in which order they add, is the same
// in all sets and stated here; a set is free to fuse a multiplication with the addition that follows it.
//
// Row functions work on slices of one length, that of the first argument; an output may be one of the inputs. NaN and
// infinities propagate as in the plain loops.
type kernelSet struct {
	name string
	tile tileKernels
	// pairs multiplies bfloat16, nil where that would be no faster.
	pairs *pairKernels

	// add computes y[i] = a[i] + b[i].
	add func(y, a, b []float32)
	// axpy computes y[i] += a * x[i].
	axpy func(y, x []float32, a float32)
	// scale computes y[i] = a * x[i].
	scale func(y, x []float32, a float32)
	// scaleMul computes y[i] = a * x[i] * w[i].
	scaleMul func(y, x, w []float32, a float32)
	// mulAxpy computes y[i] += a * x[i] * z[i].
	mulAxpy func(y, x, z []float32, a float32)
	// scaleMulAdd computes y[i] = a * x[i] * w[i] + b * z[i].
	scaleMulAdd func(y, x, w, z []float32, a, b float32)
	// addScaleMulAdd computes y[i] = u[i] + a * x[i] * w[i] + b * z[i], from left to right.
	addScaleMulAdd func(y, u, x, w, z []float32, a, b float32)
	// rotate turns the points (a[i], b[i]): ya[i] = a[i] * cos[i] - b[i] * sin[i], yb[i] = b[i] * cos[i] + a[i] * sin[i].
	// With a and b, ya and yb exchanged it turns them back. ya may be a, yb may be b. All sets round every product, so
	// that their bits are equal.
	rotate func(ya, yb, a, b, cos, sin []float32)

	// dot returns the sum of x[i] * y[i]. Element i is added to lane i mod 32, then the lanes by halves.
	dot func(x, y []float32) float32
	// dot3 returns the sum of x[i] * y[i] * z[i], in the order of dot.
	dot3 func(x, y, z []float32) float32
	// sumSquares returns the sum of x[i]^2 in float64. Element i is added to lane i mod 32, then the lanes by halves.
	sumSquares func(x []float32) float64
	// max returns the largest element, -Inf where there is none. NaNs are passed over: expSum makes up for it.
	max func(x []float32) float32

	// expSum computes y[i] = exp(x[i] - max) and returns the sum of y, in the order of dot with 16 lanes. The relative
	// error of exp is below 2^-22, over the whole range of float32.
	expSum func(y, x []float32, max float32) float32
	// siluMul computes y[i] = gate[i] / (1 + exp(-gate[i])) * up[i].
	siluMul func(y, gate, up []float32)
	// siluMulBackward computes, from the gradient dy of siluMul's y, the gradients of gate and up.
	siluMulBackward func(dgate, dup, dy, gate, up []float32)

	// adamW updates p, m and v with the gradient g; the parameters are the fields of adamW, and weight1 is below 1/2. All
	// sets round after every operation, so that their bits are equal.
	adamW func(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32)

	// widen and narrow convert between float32 and bfloat16, as toFloat32 and toBFloat16 say, whose bits are the same in all
	// sets. The length is a multiple of castWhole.
	widen  func(y []float32, x []uint16)
	narrow func(y []uint16, x []float32)

	// folds add the buffers of several ranks.
	folds foldTable
}

// KernelSets returns the names of the kernel sets that this build has on this machine, best first: those with kernels for
// bfloat16 before those that have the same ones but for these.
func KernelSets() []string {
	var names []string
	for _, s := range kernelSets() {
		names = append(names, s.name)
	}
	return names
}

// chooseKernelSet returns the set of a name, or the best one, which has kernels for bfloat16 only where they are wanted.
func chooseKernelSet(name string, bfloat16 bool) (*kernelSet, error) {
	for _, s := range kernelSets() {
		if s.name == name || name == "" && (bfloat16 || s.pairs == nil) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("cpu: no kernel set %q here; there is %s", name, strings.Join(KernelSets(), ", "))
}

// genericSet is plain Go and there on every machine. Every product is rounded before it is added, as the explicit
// conversions demand of the compiler, so that its bits are the same on every architecture.
func genericSet() *kernelSet {
	return &kernelSet{
		name:            "generic",
		tile:            genericTile(),
		add:             addGeneric,
		axpy:            axpyGeneric,
		scale:           scaleGeneric,
		scaleMul:        scaleMulGeneric,
		mulAxpy:         mulAxpyGeneric,
		scaleMulAdd:     scaleMulAddGeneric,
		addScaleMulAdd:  addScaleMulAddGeneric,
		rotate:          rotateGeneric,
		dot:             dotGeneric,
		dot3:            dot3Generic,
		sumSquares:      sumSquaresGeneric,
		max:             maxGeneric,
		expSum:          expSumGeneric,
		siluMul:         siluMulGeneric,
		siluMulBackward: siluMulBackwardGeneric,
		adamW:           adamWGeneric,
		widen:           widenGeneric,
		narrow:          narrowGeneric,
	}
}
