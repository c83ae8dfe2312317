package model

import "math"

// Tables returns the cosines and sines of positions [0, positions) for heads of dimension dim, as [positions, dim] in
// row-major order with equal halves. All arithmetic rounds to float32 where Transformers' does.
func (r RoPE) Tables(positions, dim int) (cos, sin []float32) {
	frequencies := r.frequencies(dim)
	half := dim / 2
	cos, sin = make([]float32, positions*dim), make([]float32, positions*dim)
	for p := range positions {
		for i, f := range frequencies {
			s, c := math.Sincos(float64(float32(p) * f))
			at := p*dim + i
			cos[at], sin[at] = float32(c), float32(s)
			cos[at+half], sin[at+half] = float32(c), float32(s)
		}
	}
	return cos, sin
}

// frequencies returns the dim/2 angular frequencies, in radians per position.
func (r RoPE) frequencies(dim int) []float32 {
	out := make([]float32, dim/2)
	for i := range out {
		exponent := float32(2*i) / float32(dim)
		out[i] = 1 / float32(math.Pow(r.Theta, float64(exponent)))
		switch r.Type {
		case "linear":
			out[i] /= float32(r.Factor)
		case "llama3":
			out[i] = r.llama3(out[i])
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
