//go:build !noasm

package cpu

// The functions below are in the generated vector_*_amd64.s; kernelSet says what each one computes.

//go:noescape
func adamWAVX2(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32)

//go:noescape
func adamWAVX512(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32)

//go:noescape
func addScaleMulAddAVX2(y, u, x, w, z []float32, a, b float32)

//go:noescape
func rotateAVX2(ya, yb, a, b, cos, sin []float32)

//go:noescape
func addScaleMulAddAVX512(y, u, x, w, z []float32, a, b float32)

//go:noescape
func rotateAVX512(ya, yb, a, b, cos, sin []float32)
