package conformance

import (
	"testing"

	"lockstep/kernels"
)

// routers are the ways of choosing experts of the families: Qwen3-MoE, DeepSeek-V2 and DeepSeek-V3, and one without groups.
func routers() []kernels.RouteOptions {
	return []kernels.RouteOptions{
		{TopK: 3, Normalize: true, Scale: 1},
		{TopK: 2, Groups: 4, TopGroups: 2, Scale: 1.5},
		{Sigmoid: true, TopK: 2, Groups: 4, TopGroups: 2, GroupTopTwo: true, Normalize: true, Epsilon: 1e-20, Scale: 2.5},
		{Sigmoid: true, TopK: 8, Scale: 1},
	}
}

func TestTwinGradientOfRoute(t *testing.T) {
	const tokens, e = 4, 8
	for _, o := range routers() {
		logits, dweights, balance := numbersFor(tokens*e, 1), numbersFor(tokens*o.TopK, 2), numbersFor(2*e, 3)
		experts, scores := make([]int32, tokens*o.TopK), make([]float64, tokens*e)
		forward := func() []float64 {
			weights, mass := make([]float64, tokens*o.TopK), make([]float64, 2*e)
			Route(weights, experts, scores, logits, nil, e, o)
			SumScores(mass, scores, experts, e, false)
			return append(weights, mass...)
		}
		want := gradient(logits, append(dweights[:len(dweights):len(dweights)], balance...), forward)
		forward()
		got := make([]float64, tokens*e)
		RouteBackward(got, dweights, experts, scores, balance, e, o)
		wantNear(t, "dlogits", got, want)
	}
}

func TestTwinGradientOfRouterZLoss(t *testing.T) {
	logits, experts := numbersFor(12, 1), []int32{0, 2, 3}
	want := gradient(logits, []float64{0.3}, func() []float64 { return []float64{RouterZLoss(make([]float64, 12), logits, experts, 4, 1)} })
	got := make([]float64, 12)
	RouterZLoss(got, logits, experts, 4, 0.3)
	wantNear(t, "dlogits", got, want)
}

func TestTwinGradientOfExpertSwiGLU(t *testing.T) {
	const width = 3
	x, weights, dy, position := numbersFor(4*2*width, 1), numbersFor(4, 2), numbersFor(4*width, 3), []int32{2, 0, 3, 1}
	forward := func() []float64 {
		y := make([]float64, 4*width)
		ExpertSwiGLU(y, x, weights, position, width)
		return y
	}
	wantX, wantWeights := gradient(x, dy, forward), gradient(weights, dy, forward)
	dx, dweights := make([]float64, len(x)), make([]float64, 4)
	ExpertSwiGLUBackward(dx, dweights, dy, x, weights, position, width)
	wantNear(t, "dx", dx, wantX)
	wantNear(t, "dweights", dweights, wantWeights)
}

func TestTwinGradientOfPermute(t *testing.T) {
	const k, c = 2, 3
	x, dy, position := numbersFor(3*c, 1), numbersFor(3*k*c, 2), []int32{4, 0, 1, 5, 2, 3}
	want := gradient(x, dy, func() []float64 {
		y := make([]float64, 3*k*c)
		Permute(y, x, position, k, c)
		return y
	})
	got := make([]float64, 3*c)
	Unpermute(got, dy, position, k, c)
	wantNear(t, "dx", got, want)
}
