package cpu

// The row functions of the generic set that save passes over memory. kernelSet says what each one computes.

func addScaleMulAddGeneric(y, u, x, w, z []float32, a, b float32) {
	u, x, w, z = u[:len(y)], x[:len(y)], w[:len(y)], z[:len(y)]
	for i := range y {
		y[i] = u[i] + float32(float32(a*x[i])*w[i]) + float32(b*z[i])
	}
}

func rotateGeneric(ya, yb, a, b, cos, sin []float32) {
	yb, a, b, cos, sin = yb[:len(ya)], a[:len(ya)], b[:len(ya)], cos[:len(ya)], sin[:len(ya)]
	for i := range ya {
		u, v := a[i], b[i]
		ya[i] = float32(u*cos[i]) - float32(v*sin[i])
		yb[i] = float32(v*cos[i]) + float32(u*sin[i])
	}
}
