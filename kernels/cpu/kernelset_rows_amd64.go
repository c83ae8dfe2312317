//go:build !noasm

package cpu

// The functions below are in the generated vector_*_amd64.s; kernelSet says what each one computes.

//go:noescape
func adamWAVX2(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32)

//go:noescape
func adamWAVX512(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32)
