package cpu

import "math"

// The row functions of the generic set. kernelSet says what each one computes.

func addGeneric(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] + b[i]
	}
}

func axpyGeneric(y, x []float32, a float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += float32(a * x[i])
	}
}

func scaleGeneric(y, x []float32, a float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] = a * x[i]
	}
}

func scaleMulGeneric(y, x, w []float32, a float32) {
	x, w = x[:len(y)], w[:len(y)]
	for i := range y {
		y[i] = a * x[i] * w[i]
	}
}

func mulAxpyGeneric(y, x, z []float32, a float32) {
	x, z = x[:len(y)], z[:len(y)]
	for i := range y {
		y[i] += float32(float32(a*x[i]) * z[i])
	}
}

func scaleMulAddGeneric(y, x, w, z []float32, a, b float32) {
	x, w, z = x[:len(y)], w[:len(y)], z[:len(y)]
	for i := range y {
		y[i] = float32(float32(a*x[i])*w[i]) + float32(b*z[i])
	}
}

func dotGeneric(x, y []float32) float32 {
	y = y[:len(x)]
	var lane [32]float32
	for ; len(x) >= len(lane); x, y = x[len(lane):], y[len(lane):] {
		for l := range lane {
			lane[l] += float32(x[l] * y[l])
		}
	}
	for l := range x {
		lane[l] += float32(x[l] * y[l])
	}
	return addHalves(lane[:])
}

func dot3Generic(x, y, z []float32) float32 {
	y, z = y[:len(x)], z[:len(x)]
	var lane [32]float32
	for i := range x {
		lane[i%32] += float32(float32(x[i]*y[i]) * z[i])
	}
	return addHalves(lane[:])
}

func sumSquaresGeneric(x []float32) float64 {
	var lane [32]float64
	for i, v := range x {
		lane[i%32] += float64(float64(v) * float64(v))
	}
	return addHalves(lane[:])
}

// addHalves adds the upper half of the lanes to the lower half until one lane is left. The number of lanes is a power
// of two.
func addHalves[T float32 | float64](lane []T) T {
	for half := len(lane) / 2; half > 0; half /= 2 {
		for l := range half {
			lane[l] += lane[l+half]
		}
	}
	return lane[0]
}

func maxGeneric(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func expSumGeneric(y, x []float32, max float32) float32 {
	x = x[:len(y)]
	var lane [16]float32
	for i := range y {
		e := exp(x[i] - max)
		y[i] = e
		lane[i%16] += e
	}
	return addHalves(lane[:])
}

func siluMulGeneric(y, gate, up []float32) {
	gate, up = gate[:len(y)], up[:len(y)]
	for i := range y {
		y[i] = gate[i] / (1 + exp(-gate[i])) * up[i]
	}
}

func siluMulBackwardGeneric(dgate, dup, dy, gate, up []float32) {
	dup, dy, gate, up = dup[:len(dgate)], dy[:len(dgate)], gate[:len(dgate)], up[:len(dgate)]
	for i := range dgate {
		g, u, d := gate[i], up[i], dy[i]
		sigmoid := 1 / (1 + exp(-g))
		dup[i] = d * float32(g*sigmoid)
		dgate[i] = float32(d*u) * sigmoid * (1 + float32(g*(1-sigmoid)))
	}
}

// The constants of exp: below expLow the result rounds to zero, above expHigh to infinity; ln2High has few enough bits
// that n*ln2High is exact.
const (
	expLow  = -104
	expHigh = 89
	log2e   = 1.44269504088896341
	ln2High = 0.693359375
	ln2Low  = -2.12194440e-4
)

// exp returns e^x, NaN for NaN, with a relative error below 2^-22. It takes out the nearest power of two and approximates
// the rest, |r| <= ln(2)/2, by the polynomial of Cephes' expf (S. Moshier, "Methods and Programs for Mathematical
// Functions", 1989). The power of two is multiplied in two steps, so that results near the ends of float32's range,
// subnormal ones included, are rounded once.
func exp(x float32) float32 {
	if x != x {
		return x
	}
	x = min(max(x, expLow), expHigh)
	n := float32(math.RoundToEven(float64(float32(x * log2e))))
	r := x - float32(n*ln2High)
	r -= float32(n * ln2Low)
	p := float32(1.9875691500e-4)
	p = float32(p*r) + 1.3981999507e-3
	p = float32(p*r) + 8.3334519073e-3
	p = float32(p*r) + 4.1665795894e-2
	p = float32(p*r) + 1.6666665459e-1
	p = float32(p*r) + 5.0000001201e-1
	p = float32(float32(r*r)*p) + r + 1
	half := int32(n) >> 1
	return p * powerOfTwo(half) * powerOfTwo(int32(n)-half)
}

// powerOfTwo returns 2^n for -126 <= n <= 127.
func powerOfTwo(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }
