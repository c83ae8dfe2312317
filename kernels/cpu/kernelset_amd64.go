//go:build !noasm

package cpu

import cpufeatures "golang.org/x/sys/cpu"

//go:generate go run ./gen

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet {
	sets := []*kernelSet{genericSet()}
	x86 := &cpufeatures.X86
	if x86.HasAVX2 && x86.HasFMA && x86.HasBMI2 {
		sets = append([]*kernelSet{avx2Set()}, sets...)
		if x86.HasAVX512F && x86.HasAVX512VL {
			sets = append([]*kernelSet{avx512Set()}, sets...)
			if x86.HasAVX512BF16 {
				sets = append([]*kernelSet{avx512BFloat16Set()}, sets...)
			}
		}
	}
	return sets
}

// fastAdd is kernelSet.add for work without a Device.
func fastAdd(y, a, b []float32) {
	if cpufeatures.X86.HasAVX2 {
		addAVX2(y, a, b)
	} else {
		addGeneric(y, a, b)
	}
}

// fastFolds are the folds of the best kernel set.
func fastFolds() (t foldTable) {
	switch {
	case cpufeatures.X86.HasAVX512F:
		return avx512Folds()
	case cpufeatures.X86.HasAVX2:
		return avx2Folds()
	}
	return t
}

func avx2Folds() foldTable {
	return foldTable{{sumInto2AVX2, sumAll2AVX2}, {sumInto4AVX2, sumAll4AVX2}, {sumInto8AVX2, sumAll8AVX2}}
}

func avx512Folds() foldTable {
	return foldTable{{sumInto2AVX512, sumAll2AVX512}, {sumInto4AVX512, sumAll4AVX512}, {sumInto8AVX512, sumAll8AVX512}}
}

// fastSumInto8 is foldKernels.into for 8 sources, by a direct call, which lets dst stay on the caller's stack.
func fastSumInto8(dst *float32, src [][]byte, at, n int) {
	switch {
	case cpufeatures.X86.HasAVX512F:
		sumInto8AVX512(dst, src, at, n)
	case cpufeatures.X86.HasAVX2:
		sumInto8AVX2(dst, src, at, n)
	default:
		sumInto8Generic(dst, src, at, n)
	}
}

// fastWiden is kernelSet.widen for work without a Device.
func fastWiden(y []float32, x []uint16) {
	if cpufeatures.X86.HasAVX2 && len(y) > 0 {
		widenAVX2(y, x)
	} else {
		widenGeneric(y, x)
	}
}

// fastNarrow is kernelSet.narrow for work without a Device.
func fastNarrow(y []uint16, x []float32) {
	if cpufeatures.X86.HasAVX2 && len(y) > 0 {
		narrowAVX2(y, x)
	} else {
		narrowGeneric(y, x)
	}
}

// avx2Set needs AVX2, FMA and BMI2: Intel's Haswell (2013), AMD's Zen (2017) and what came after them.
func avx2Set() *kernelSet {
	return &kernelSet{
		name: "avx2",
		tile: tileKernels{
			a:        panelKernels{width: 6, copy: copyAAVX2, transpose: transposeAAVX2},
			b:        panelKernels{width: 16, copy: copyBAVX2, transpose: transposeBAVX2},
			multiply: multiplyAVX2,
			prefetch: prefetchAVX2,
			peak:     peakAVX2,
		},
		add: addAVX2, axpy: axpyAVX2, scale: scaleAVX2, scaleMul: scaleMulAVX2, mulAxpy: mulAxpyAVX2, scaleMulAdd: scaleMulAddAVX2,
		dot: dotAVX2, dot3: dot3AVX2, sumSquares: sumSquaresAVX2, max: maxAVX2,
		expSum: expSumAVX2, siluMul: siluMulAVX2, siluMulBackward: siluMulBackwardAVX2,
		addScaleMulAdd: addScaleMulAddAVX2, rotate: rotateAVX2, adamW: adamWAVX2,
		widen: widenAVX2, narrow: narrowAVX2, folds: avx2Folds(),
	}
}

// avx512Set needs AVX-512 F and VL besides: Intel's Skylake servers (2017), AMD's Zen 4 (2022) and what came after them.
func avx512Set() *kernelSet {
	return &kernelSet{
		name: "avx512",
		tile: tileKernels{
			a:        panelKernels{width: 12, copy: copyAAVX512, transpose: transposeAAVX512},
			b:        panelKernels{width: 32, copy: copyBAVX512, transpose: transposeBAVX512},
			multiply: multiplyAVX512,
			prefetch: prefetchAVX512,
			peak:     peakAVX512,
		},
		add: addAVX512, axpy: axpyAVX512, scale: scaleAVX512, scaleMul: scaleMulAVX512, mulAxpy: mulAxpyAVX512,
		scaleMulAdd: scaleMulAddAVX512,
		dot:         dotAVX512, dot3: dot3AVX512, sumSquares: sumSquaresAVX512, max: maxAVX512,
		expSum: expSumAVX512, siluMul: siluMulAVX512, siluMulBackward: siluMulBackwardAVX512,
		addScaleMulAdd: addScaleMulAddAVX512, rotate: rotateAVX512, adamW: adamWAVX512,
		widen: widenAVX512, narrow: narrowAVX512, folds: avx512Folds(),
	}
}

// avx512BFloat16Set is avx512Set with products of bfloat16, which need AVX512_BF16: Intel's Cooper Lake (2020), AMD's Zen 4 (2022)
// and what came after them.
func avx512BFloat16Set() *kernelSet {
	s := avx512Set()
	s.name = "avx512bf16"
	s.pairs = &pairKernels{tile: s.tile, round: roundAVX512BF16, roundPairs: roundPairsAVX512BF16, joinPairs: joinPairsAVX512BF16}
	s.pairs.tile.multiply, s.pairs.tile.peak = multiplyAVX512BF16, peakAVX512BF16
	return s
}
