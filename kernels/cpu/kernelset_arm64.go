//go:build !noasm

package cpu

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet { return []*kernelSet{neonSet(), genericSet()} }

// fastAdd is kernelSet.add for work without a Device.
func fastAdd(y, a, b []float32) { addNEON(y, a, b) }

// fastFolds are the folds of the kernel set.
func fastFolds() foldTable {
	return foldTable{{sumInto2NEON, sumAll2NEON}, {sumInto4NEON, sumAll4NEON}, {sumInto8NEON, sumAll8NEON}}
}

// fastSumInto8 is foldKernels.into for 8 sources, by a direct call, which lets dst stay on the caller's stack.
func fastSumInto8(dst *float32, src [][]byte, at, n int) { sumInto8NEON(dst, src, at, n) }

// fastWiden is kernelSet.widen for work without a Device.
func fastWiden(y []float32, x []uint16) {
	if len(y) > 0 {
		widenNEON(y, x)
	}
}

// fastNarrow is kernelSet.narrow for work without a Device.
func fastNarrow(y []uint16, x []float32) {
	if len(y) > 0 {
		narrowNEON(y, x)
	}
}

// neonSet needs Advanced SIMD, which is part of every arm64 processor that Go runs on.
func neonSet() *kernelSet {
	return &kernelSet{
		name: "neon",
		tile: tileKernels{
			a:        panelKernels{width: 8, copy: copyANEON, transpose: transposeANEON},
			b:        panelKernels{width: 12, copy: copyBNEON, transpose: transposeBNEON},
			multiply: multiplyNEON,
			prefetch: prefetchNEON,
			peak:     peakNEON,
		},
		add: addNEON, axpy: axpyNEON, scale: scaleNEON, scaleMul: scaleMulNEON, mulAxpy: mulAxpyNEON, scaleMulAdd: scaleMulAddNEON,
		dot: dotNEON, dot3: dot3NEON, sumSquares: sumSquaresNEON, max: maxNEON,
		expSum: expSumNEON, siluMul: siluMulNEON, siluMulBackward: siluMulBackwardNEON,
		addScaleMulAdd: addScaleMulAddNEON, rotate: rotateNEON, adamW: adamWNEON,
		widen: widenNEON, narrow: narrowNEON, folds: fastFolds(),
	}
}
