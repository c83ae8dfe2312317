package model

import (
	"math"

	"lockstep/kernels"
)

// Tables returns the cosines and sines of positions [0, positions) for heads of dimension dim, as [positions, dim] in
// row-major order with equal halves. All arithmetic rounds to float32 where Transformers' does.
func (r RoPE) Tables(positions, dim int) (cos, sin []float32) {
	frequencies := r.frequencies(dim)
	half, scale := dim/2, float32(1)
	if r.Type == "yarn" {
		scale = float32(r.TableScale)
	}
	cos, sin = make([]float32, positions*dim), make([]float32, positions*dim)
	for p := range positions {
		for i, f := range frequencies {
			s, c := math.Sincos(float64(float32(p) * f))
			at := p*dim + i
			cos[at], sin[at] = float32(c)*scale, float32(s)*scale
			cos[at+half], sin[at+half] = cos[at], sin[at]
		}
	}
	return cos, sin
}

// options returns how queries and keys are rotated.
func (r RoPE) options() kernels.RoPEOptions { return kernels.RoPEOptions{Interleaved: r.Interleaved} }

// frequencies returns the dim/2 angular frequencies, in radians per position.
func (r RoPE) frequencies(dim int) []float32 {
	out := make([]float32, dim/2)
	low, high := r.yarnRange(dim)
	for i := range out {
		exponent := float32(2*i) / float32(dim)
		out[i] = 1 / float32(math.Pow(r.Theta, float64(exponent)))
		switch r.Type {
		case "linear":
			out[i] /= float32(r.Factor)
		case "llama3":
			out[i] = r.llama3(out[i])
		case "yarn":
			interpolated := 1 / float32(float32(r.Factor)*float32(math.Pow(r.Theta, float64(exponent))))
			// kept is 1 where a frequency is high, 0 where it is low.
			kept := 1 - min(max((float32(i)-low)/(high-low), 0), 1)
			out[i] = float32(interpolated*(1-kept)) + float32(out[i]*kept)
		}
	}
	return out
}

// llama3 divides low frequencies by the factor, keeps high ones, and blends those between (Llama 3.1's context extension).
func (r RoPE) llama3(f float32) float32 {
	context := float64(r.OriginalMaxPositionEmbeddings)
	wavelength := float32(2 * math.Pi / float64(f))
	longest, shortest := float32(context/r.LowFreqFactor), float32(context/r.HighFreqFactor)
	switch {
	case wavelength > longest:
		return f / float32(r.Factor)
	case wavelength < shortest:
		return f
	}
	smooth := (float32(context)/wavelength - float32(r.LowFreqFactor)) / float32(r.HighFreqFactor-r.LowFreqFactor)
	// The conversions keep compilers from fusing the products, so that all processors round alike.
	return float32((1-smooth)*f)/float32(r.Factor) + float32(smooth*f)
}

// yarnRange returns the pairs of a head between which YaRN blends: up to low frequencies are kept, from high on they are
// divided by the factor.
func (r RoPE) yarnRange(dim int) (low, high float32) {
	if r.Type != "yarn" {
		return 0, 0
	}
	// The pair that turns n times in the original context.
	pair := func(n float64) float64 {
		return float64(dim) * math.Log(float64(r.OriginalMaxPositionEmbeddings)/(n*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	from, to := pair(r.BetaFast), pair(r.BetaSlow)
	if r.Truncate {
		from, to = math.Floor(from), math.Ceil(to)
	}
	from, to = max(from, 0), min(to, float64(dim-1))
	if from == to {
		to += 0.001 // an edge, as Transformers has it
	}
	return float32(from), float32(to)
}
