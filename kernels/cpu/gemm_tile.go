package cpu

// tileKernels are the register-blocked core of MatMul and Attention and the packing that feeds it. Operands are packed
// into panels: a panel of width w holds, for each k in turn, w neighbouring rows (of op(A)) or columns (of op(B)), so that
// the core reads both operands as one stream each.
type tileKernels struct {
	// mr and nr are the tile's rows and columns: the widths of the panels of A and of B.
	mr, nr int
	// multiply computes one tile of C, with rows ldc elements apart, from a panel of A and one of B, kc deep:
	//
	//	for i, j := range mr, nr {
	//		sum := float32(0)
	//		for k := range kc {
	//			sum += a[k*mr+i] * b[k*nr+j]
	//		}
	//		if accumulate { c[i*ldc+j] += sum } else { c[i*ldc+j] = sum }
	//	}
	multiply func(kc int, a, b, c *float32, ldc int, accumulate bool)
	// packA and packB fill one whole panel from a matrix whose rows are the panel's k, lds elements apart:
	//
	//	for k, i := range kc, w { dst[k*w+i] = src[k*lds+i] }
	packA, packB func(kc int, dst, src *float32, lds int)
	// transposeA and transposeB fill one whole panel from a matrix whose columns are the panel's k:
	//
	//	for k, i := range kc, w { dst[k*w+i] = src[i*lds+k] }
	transposeA, transposeB func(kc int, dst, src *float32, lds int)
}
