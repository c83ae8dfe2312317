//go:build !noasm

package cpu

import "unsafe"

// The functions below are in the generated *_arm64.s. tileKernels, panelKernels and kernelSet say what each one computes.
// They take at most a few microseconds a call: the Go runtime cannot preempt assembly.

//go:noescape
func multiplyNEON(kc int, a, b, c *float32, ldc int, accumulate bool)

func peakNEON(kc int)

//go:noescape
func prefetchNEON(p unsafe.Pointer, bytes int)

//go:noescape
func copyANEON(kc int, dst, src *float32, lds int)

//go:noescape
func copyBNEON(kc int, dst, src *float32, lds int)

//go:noescape
func transposeANEON(kc int, dst, src *float32, lds int)

//go:noescape
func transposeBNEON(kc int, dst, src *float32, lds int)

//go:noescape
func addNEON(y, a, b []float32)

//go:noescape
func axpyNEON(y, x []float32, a float32)

//go:noescape
func scaleNEON(y, x []float32, a float32)

//go:noescape
func scaleMulNEON(y, x, w []float32, a float32)

//go:noescape
func mulAxpyNEON(y, x, z []float32, a float32)

//go:noescape
func scaleMulAddNEON(y, x, w, z []float32, a, b float32)

//go:noescape
func dotNEON(x, y []float32) float32

//go:noescape
func dot3NEON(x, y, z []float32) float32

//go:noescape
func sumSquaresNEON(x []float32) float64

//go:noescape
func maxNEON(x []float32) float32

//go:noescape
func expSumNEON(y, x []float32, max float32) float32

//go:noescape
func siluMulNEON(y, gate, up []float32)

//go:noescape
func siluMulBackwardNEON(dgate, dup, dy, gate, up []float32)

//go:noescape
func adamWNEON(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32)

//go:noescape
func addScaleMulAddNEON(y, u, x, w, z []float32, a, b float32)

//go:noescape
func rotateNEON(ya, yb, a, b, cos, sin []float32)

//go:noescape
func widenNEON(y []float32, x []uint16)

//go:noescape
func narrowNEON(y []uint16, x []float32)
