package conformance

import (
	"math"
	"testing"

	"lockstep/kernels"
)

// numbersFor returns n reproducible values in [-2, 2).
func numbersFor(n int, seed uint64) []float64 {
	s := suite{state: seed}
	x := make([]float64, n)
	for i := range x {
		x[i] = s.random()
	}
	return x
}

// gradient returns the central finite differences of sum(dy * forward()) with respect to x, which forward reads.
func gradient(x, dy []float64, forward func() []float64) []float64 {
	const h = 1e-6
	loss := func() float64 {
		sum := 0.0
		for i, y := range forward() {
			sum += dy[i] * y
		}
		return sum
	}
	g := make([]float64, len(x))
	for i, v := range x {
		x[i] = v + h
		up := loss()
		x[i] = v - h
		g[i] = (up - loss()) / (2 * h)
		x[i] = v
	}
	return g
}

func wantNear(t *testing.T, name string, got, want []float64) {
	t.Helper()
	for i, w := range want {
		if math.Abs(got[i]-w) > 1e-7*(1+math.Abs(w)) {
			t.Errorf("%s: element %d is %v, finite differences say %v", name, i, got[i], w)
		}
	}
}

func TestTwinGradientOfBias(t *testing.T) {
	y, bias, dy := numbersFor(15, 1), numbersFor(5, 2), numbersFor(15, 3)
	want := gradient(bias, dy, func() []float64 {
		out := append([]float64(nil), y...)
		AddBias(out, bias)
		return out
	})
	got := make([]float64, 5)
	AddBiasBackward(got, dy, false)
	wantNear(t, "dbias", got, want)
}

func TestTwinGradientOfRMSNorm(t *testing.T) {
	x, gamma, dy := numbersFor(21, 1), numbersFor(7, 2), numbersFor(21, 3)
	rstd := make([]float64, 3)
	forward := func() []float64 {
		y := make([]float64, len(x))
		RMSNorm(y, rstd, x, gamma, 1e-5)
		return y
	}
	wantX, wantGamma := gradient(x, dy, forward), gradient(gamma, dy, forward)
	forward() // rstd of the unchanged x
	dx, dgamma := numbersFor(21, 4), make([]float64, 7)
	RMSNormBackwardInput(dx, dy, x, rstd, gamma, nil)
	RMSNormBackwardWeight(dgamma, dy, x, rstd, false)
	wantNear(t, "dx", dx, wantX)
	wantNear(t, "dgamma", dgamma, wantGamma)
	RMSNormBackwardInput(dx, dy, x, rstd, gamma, x)
	for i := range wantX {
		wantX[i] += x[i]
	}
	wantNear(t, "dx with a residual gradient", dx, wantX)
}

func TestTwinGradientOfRoPE(t *testing.T) {
	const tokens, heads, d = 3, 2, 4
	for _, positions := range [][]int32{nil, {0, 0, 1, 0, 2, 0}} {
		twinGradientOfRoPE(t, positions, tokens, heads, d)
	}
}

func twinGradientOfRoPE(t *testing.T, positions []int32, tokens, heads, d int) {
	t.Helper()
	x, dy := numbersFor(2*tokens*heads*d, 1), numbersFor(2*tokens*heads*d, 2)
	cos, sin := make([]float64, tokens*d), make([]float64, tokens*d)
	for i := range cos {
		angle := float64(i/d) * (1 + float64(i%d%(d/2)))
		cos[i], sin[i] = math.Cos(angle), math.Sin(angle)
	}
	want := gradient(x, dy, func() []float64 {
		y := make([]float64, len(x))
		RoPE(y, x, cos, sin, positions, tokens, heads, d, kernels.RoPEOptions{})
		return y
	})
	got := make([]float64, len(x))
	RoPE(got, dy, cos, sin, positions, tokens, heads, d, kernels.RoPEOptions{Inverse: true})
	wantNear(t, "dx", got, want)
}

func TestTwinGradientOfSwiGLU(t *testing.T) {
	x, dy := numbersFor(20, 1), numbersFor(10, 2)
	want := gradient(x, dy, func() []float64 {
		y := make([]float64, 10)
		SwiGLU(y, x, 5)
		return y
	})
	got := make([]float64, 20)
	SwiGLUBackward(got, dy, x, 5)
	wantNear(t, "dx", got, want)
}

func TestTwinGradientOfEmbedding(t *testing.T) {
	ids := []int32{2, 0, 2, 2}
	weight, dy := numbersFor(4*3, 1), numbersFor(4*3, 2)
	want := gradient(weight, dy, func() []float64 {
		y := make([]float64, 4*3)
		Embedding(y, weight, ids, 3)
		return y
	})
	got := numbersFor(4*3, 3)
	EmbeddingBackward(got, dy, ids, 3, false)
	wantNear(t, "dweight", got, want)
}

func TestTwinGradientOfCrossEntropy(t *testing.T) {
	const scale = 0.25
	labels := []int32{3, -1, 0}
	logits := numbersFor(3*5, 1)
	want := gradient(logits, []float64{scale, scale, scale}, func() []float64 {
		loss := make([]float64, 3)
		CrossEntropy(loss, make([]float64, 15), logits, labels, 5, scale)
		return loss
	})
	got := make([]float64, 15)
	CrossEntropy(make([]float64, 3), got, logits, labels, 5, scale)
	wantNear(t, "dlogits", got, want)
}

func TestBFloat16(t *testing.T) {
	for _, c := range [][2]float64{
		{1, 1}, {1 + 0x1p-8, 1}, {1 + 3*0x1p-8, 1 + 0x1p-6}, {-1 - 0x1.8p-8, -1 - 0x1p-7}, {0x1.fep127, 0x1.fep127},
		{0x1.fefp127, 0x1.fep127}, {0x1.ffp127, math.Inf(1)}, {-0x1.ffp127, math.Inf(-1)}, {math.Inf(-1), math.Inf(-1)},
		{0x1p-133, 0x1p-133}, {0x1p-134, 0}, {0x1.8p-134, 0x1p-133}, {0x1.ffp-127, 0x1p-126}, {0, 0},
	} {
		if got := BFloat16(c[0]); got != c[1] {
			t.Errorf("BFloat16(%x) = %x, not %x", c[0], got, c[1])
		}
	}
	if got := BFloat16(math.NaN()); !math.IsNaN(got) {
		t.Errorf("BFloat16(NaN) = %v", got)
	}
}
