package kernels

import "lockstep/kernels/device"

// An exact sum is a long fixed-point number that float64 values are added to without rounding, so that it does not depend on
// their order, nor on how they are spread over ranks: the long accumulator of U. Kulisch, "Computer Arithmetic and Validity",
// 2008, in digits whose carries wait, as in J. Demmel and Y. Hida, "Accurate and Efficient Floating Point Summation", 2003.
//
// It is a tensor [ExactSumLen] Float64 of whole numbers. Element i < ExactSumDigits is a digit of weight 2^(32i-1074), so that
// the digits span all of float64. The two elements that follow count the values that have no digits: infinities and NaNs.
// AddExact leaves all digits but the highest below 2^32. So the element-wise float64 sum of the exact sums of up to 2^21 ranks
// is exact too, in any order: its elements are whole numbers below 2^53, and it is the exact sum of all ranks' values. All
// zeros is the sum of nothing.
const (
	ExactSumDigits = 66
	ExactSumLen    = ExactSumDigits + 2
)

// CheckAddExact checks the operands of AddExact.
func CheckAddExact(sum, x Tensor) error {
	return firstError(
		want("sum", sum, device.Float64, ExactSumLen),
		want("x", x, device.Float64, x.Shape[0]), dense("x", x),
		apart("sum", sum, "x", x, false),
	)
}
