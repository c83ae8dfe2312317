package conformance

// MatMul is the definition of kernels.Operators.MatMul in float64, on dense matrices: C [m,n] = (or +=) op(A) op(B), op(A)
// [m,k], op(B) [k,n].
func MatMul(c, a, b []float64, m, n, k int, transA, transB, accumulate bool) {
	for i := range m {
		for j := range n {
			sum := 0.0
			for l := range k {
				x, y := i*k+l, l*n+j
				if transA {
					x = l*m + i
				}
				if transB {
					y = j*k + l
				}
				sum += a[x] * b[y]
			}
			if accumulate {
				sum += c[i*n+j]
			}
			c[i*n+j] = sum
		}
	}
}
