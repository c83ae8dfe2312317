//go:build !noasm

package cpu

import "unsafe"

// The functions below are in the generated *_amd64.s. tileKernels, panelKernels and kernelSet say what each one computes.
// They take at most a few microseconds a call: the Go runtime cannot preempt assembly.

//go:noescape
func multiplyAVX2(kc int, a, b, c *float32, ldc int, accumulate bool)

func peakAVX2(kc int)

//go:noescape
func prefetchAVX2(p unsafe.Pointer, bytes int)

//go:noescape
func copyAAVX2(kc int, dst, src *float32, lds int)

//go:noescape
func copyBAVX2(kc int, dst, src *float32, lds int)

//go:noescape
func transposeAAVX2(kc int, dst, src *float32, lds int)

//go:noescape
func transposeBAVX2(kc int, dst, src *float32, lds int)

//go:noescape
func addAVX2(y, a, b []float32)

//go:noescape
func axpyAVX2(y, x []float32, a float32)

//go:noescape
func scaleAVX2(y, x []float32, a float32)

//go:noescape
func scaleMulAVX2(y, x, w []float32, a float32)

//go:noescape
func mulAxpyAVX2(y, x, z []float32, a float32)

//go:noescape
func scaleMulAddAVX2(y, x, w, z []float32, a, b float32)

//go:noescape
func dotAVX2(x, y []float32) float32

//go:noescape
func dot3AVX2(x, y, z []float32) float32

//go:noescape
func sumSquaresAVX2(x []float32) float64

//go:noescape
func maxAVX2(x []float32) float32

//go:noescape
func expSumAVX2(y, x []float32, max float32) float32

//go:noescape
func siluMulAVX2(y, gate, up []float32)

//go:noescape
func siluMulBackwardAVX2(dgate, dup, dy, gate, up []float32)

//go:noescape
func multiplyAVX512(kc int, a, b, c *float32, ldc int, accumulate bool)

func peakAVX512(kc int)

//go:noescape
func prefetchAVX512(p unsafe.Pointer, bytes int)

//go:noescape
func copyAAVX512(kc int, dst, src *float32, lds int)

//go:noescape
func copyBAVX512(kc int, dst, src *float32, lds int)

//go:noescape
func transposeAAVX512(kc int, dst, src *float32, lds int)

//go:noescape
func transposeBAVX512(kc int, dst, src *float32, lds int)

//go:noescape
func addAVX512(y, a, b []float32)

//go:noescape
func axpyAVX512(y, x []float32, a float32)

//go:noescape
func scaleAVX512(y, x []float32, a float32)

//go:noescape
func scaleMulAVX512(y, x, w []float32, a float32)

//go:noescape
func mulAxpyAVX512(y, x, z []float32, a float32)

//go:noescape
func scaleMulAddAVX512(y, x, w, z []float32, a, b float32)

//go:noescape
func dotAVX512(x, y []float32) float32

//go:noescape
func dot3AVX512(x, y, z []float32) float32

//go:noescape
func sumSquaresAVX512(x []float32) float64

//go:noescape
func maxAVX512(x []float32) float32

//go:noescape
func expSumAVX512(y, x []float32, max float32) float32

//go:noescape
func siluMulAVX512(y, gate, up []float32)

//go:noescape
func siluMulBackwardAVX512(dgate, dup, dy, gate, up []float32)

//go:noescape
func widenAVX2(y []float32, x []uint16)

//go:noescape
func narrowAVX2(y []uint16, x []float32)

//go:noescape
func widenAVX512(y []float32, x []uint16)

//go:noescape
func narrowAVX512(y []uint16, x []float32)

//go:noescape
func multiplyAVX512BF16(kc int, a, b, c *float32, ldc int, accumulate bool)

func peakAVX512BF16(kc int)

//go:noescape
func roundAVX512BF16(y []uint16, x []float32)

//go:noescape
func roundPairsAVX512BF16(y, a, b []float32)

//go:noescape
func joinPairsAVX512BF16(y []float32, a, b []uint16)
