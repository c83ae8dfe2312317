package model

import (
	"math"
	"testing"
)

// Frequencies and angles as Transformers 5.23 computes them, for heads of 16 and position 200.
func TestRoPETables(t *testing.T) {
	for _, c := range []struct {
		rope                  RoPE
		frequencies, cos, sin []float64
	}{
		{RoPE{Type: "default", Theta: 10000},
			[]float64{1, 0x1.43d136p-2, 0x1.99999ap-4, 0x1.030dc6p-5, 0x1.47ae14p-7, 0x1.9e7c7p-9, 0x1.0624dep-10, 0x1.4b96cp-12},
			[]float64{0.487187684, 0.915640116, 0.408082068, 0.999144375, -0.416146845, 0.806578398, 0.980066597, 0.998000681},
			[]float64{-0.873297274, 0.401999027, 0.912945271, 0.0413587652, 0.909297407, 0.591127157, 0.198669329, 0.0632034019}},
		{RoPE{Type: "linear", Theta: 10000, Factor: 4},
			[]float64{0x1p-2, 0x1.43d136p-4, 0x1.99999ap-6, 0x1.030dc6p-7, 0x1.47ae14p-9, 0x1.9e7c7p-11, 0x1.0624dep-12, 0x1.4b96cp-14},
			[]float64{0.964966059, -0.994656444, 0.2836622, -0.0103424573, 0.87758255, 0.987526, 0.998750269, 0.999875009},
			[]float64{-0.262374848, -0.10324046, -0.958924294, 0.999946535, 0.47942555, 0.157455906, 0.0499791689, 0.0158107299}},
		{RoPE{Type: "llama3", Theta: 500000, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 64},
			[]float64{1, 0x1.453c18p-4, 0x1.341190p-8, 0x1.ddee9ep-11, 0x1.72ba42p-13, 0x1.1f91fp-15, 0x1.be2188p-18, 0x1.5a0f4ep-20},
			[]float64{0.487187684, -0.98513478, 0.589666307, 0.983426332, 0.999375045, 0.999976516, 0.999999106, 1},
			[]float64{-0.873297274, -0.171783268, 0.80764699, 0.181308299, 0.0353479721, 0.00685615139, 0.00132957357, 0.000257834618}},
		{RoPE{Type: "yarn", Theta: 10000, Factor: 4, OriginalMaxPositionEmbeddings: 1024, BetaFast: 32, BetaSlow: 1, Truncate: true, TableScale: yarnScale(4, 1)},
			[]float64{1.0, 0.3162277638912201, 0.08125000447034836, 0.019764237105846405, 0.0043750000186264515, 0.0007905694656074047, 0.0002500000118743628, 7.905694656074047e-05},
			[]float64{0.554726243, 1.04257476, -0.975418031, -0.784047723, 0.729857922, 1.12442613, 1.13720644, 1.1384871},
			[]float64{-0.994361997, 0.457727939, -0.587398231, -0.825679183, 0.87394762, 0.179283932, 0.0569077544, 0.0180025622}},
	} {
		const dim, position = 16, 200
		frequencies := c.rope.frequencies(dim)
		cos, sin := c.rope.Tables(position+1, dim)
		for i, want := range c.frequencies {
			if d := math.Abs(float64(frequencies[i])/want - 1); d > 5e-7 { // four units in the last place: the blend rounds in another order
				t.Errorf("%s: frequency %d is %g, Transformers' %g", c.rope.Type, i, frequencies[i], want)
			}
			for half := range 2 {
				at := position*dim + half*dim/2 + i
				// One unit in the last place of the frequency is 2e-5 radians at this position.
				if math.Abs(float64(cos[at])-c.cos[i]) > 2e-5 || math.Abs(float64(sin[at])-c.sin[i]) > 2e-5 {
					t.Errorf("%s: angle %d has cosine %g and sine %g, Transformers' %g and %g", c.rope.Type, i, cos[at], sin[at], c.cos[i], c.sin[i])
				}
			}
		}
	}
}
