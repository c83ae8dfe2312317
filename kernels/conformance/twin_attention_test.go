package conformance

import (
	"math"
	"testing"
)

// TestAttentionTwinGradients checks the twin's backward pass against central differences of its forward pass.
func TestAttentionTwinGradients(t *testing.T) {
	for _, s := range []AttentionShape{
		{B: 1, Tq: 4, Tk: 4, N: 1, Nkv: 1, D: 3, Dv: 3, Scale: 0.7, Causal: true},
		{B: 2, Tq: 3, Tk: 5, N: 4, Nkv: 2, D: 3, Dv: 2, Scale: 0.5, Causal: true},
		{B: 1, Tq: 5, Tk: 3, N: 2, Nkv: 1, D: 2, Dv: 4, Scale: 0.9},
		{B: 2, Tq: 4, Tk: 4, N: 2, Nkv: 1, D: 3, Dv: 2, Scale: 0.7, Causal: true, Documents: []int32{0, 0, 2, 2, 0, 1, 1, 1}},
		{B: 1, Tq: 3, Tk: 5, N: 1, Nkv: 1, D: 2, Dv: 2, Scale: 0.7, Causal: true, Documents: []int32{1, 4, 5}},
	} {
		t.Run(s.String(), func(t *testing.T) {
			q, k, v := wave(s.B*s.Tq*s.N*s.D, 1), wave(s.B*s.Tk*s.Nkv*s.D, 2), wave(s.B*s.Tk*s.Nkv*s.Dv, 3)
			do := wave(s.B*s.Tq*s.N*s.Dv, 4)
			o, lse := make([]float64, len(do)), make([]float64, s.B*s.N*s.Tq)
			loss := func() float64 {
				Attention(o, lse, q, k, v, s)
				return dot(o, do)
			}
			dq, dk, dv := make([]float64, len(q)), make([]float64, len(k)), make([]float64, len(v))
			AttentionBackward(dq, dk, dv, do, q, k, v, s)
			for _, x := range []struct {
				name            string
				value, gradient []float64
			}{{"dq", q, dq}, {"dk", k, dk}, {"dv", v, dv}} {
				for i, at := range x.value {
					const h = 1e-5
					x.value[i] = at + h
					up := loss()
					x.value[i] = at - h
					down := loss()
					x.value[i] = at
					if want := (up - down) / (2 * h); math.Abs(x.gradient[i]-want) > 1e-8 {
						t.Fatalf("%s[%d] is %v, the difference quotient %v", x.name, i, x.gradient[i], want)
					}
				}
			}
		})
	}
}

// wave returns n smooth numbers in [-1, 1] without a pattern that a mistake could hide in.
func wave(n int, seed float64) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = math.Sin(seed + 1.7*float64(i) + 0.3*float64(i*i))
	}
	return x
}
