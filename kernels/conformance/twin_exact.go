package conformance

import (
	"math"
	"math/big"

	"lockstep/kernels"
)

// exactUnit is the exponent of an exact sum's lowest bit.
const exactUnit = -1074

// ExactValue returns the finite part of an exact sum, in units of 2^-1074.
func ExactValue(sum []float64) *big.Int {
	value := new(big.Int)
	for i := kernels.ExactSumDigits - 1; i >= 0; i-- {
		digit, _ := big.NewFloat(sum[i]).Int(nil)
		value.Add(value.Lsh(value, 32), digit)
	}
	return value
}

// AddExact adds x to an exact sum.
func AddExact(sum, x []float64) {
	value := ExactValue(sum)
	for _, v := range x {
		switch {
		case math.IsNaN(v):
			sum[kernels.ExactSumDigits+1]++
		case math.IsInf(v, 1):
			sum[kernels.ExactSumDigits]++
		default:
			units := new(big.Float).SetMantExp(big.NewFloat(v), -exactUnit)
			whole, _ := units.Int(nil)
			value.Add(value, whole)
		}
	}
	mask := big.NewInt(1<<32 - 1)
	for i := range kernels.ExactSumDigits {
		digit := new(big.Int).And(value, mask)
		if i == kernels.ExactSumDigits-1 {
			digit = value
		}
		sum[i], _ = new(big.Float).SetInt(digit).Float64()
		value = new(big.Int).Rsh(value, 32)
	}
}

// ClipFactor computes clip[3] = {norm, factor, finite} from an exact sum.
func ClipFactor(clip, sum []float64, maxNorm float64) {
	value := new(big.Float).SetInt(ExactValue(sum))
	square, _ := new(big.Float).SetMantExp(value, exactUnit).Float64()
	norm := math.Sqrt(square)
	if sum[kernels.ExactSumDigits] > 0 {
		norm = math.Inf(1)
	}
	if sum[kernels.ExactSumDigits+1] > 0 {
		norm = math.NaN()
	}
	clip[0], clip[1], clip[2] = norm, 1, 1
	if maxNorm != 0 {
		clip[1] = math.Min(1, maxNorm/(norm+1e-6))
	}
	if math.IsNaN(norm) || math.IsInf(norm, 1) {
		clip[2] = 0
	}
}
