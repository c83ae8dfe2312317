package device

import (
	"fmt"
	"math"
)

// A DType is the type of a tensor's elements. The zero value is no type.
type DType uint8

// The element types. Float64 holds sums (squared norms, losses), never activations.
const (
	Float32 DType = iota + 1
	BFloat16
	Float16
	Float64
	Int32
	Int64
	Uint8
)

var dtypes = [...]struct {
	name string
	size int
}{
	Float32: {"float32", 4}, BFloat16: {"bfloat16", 2}, Float16: {"float16", 2}, Float64: {"float64", 8},
	Int32: {"int32", 4}, Int64: {"int64", 8}, Uint8: {"uint8", 1},
}

// Size returns the bytes of one element, 0 for no type.
func (d DType) Size() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].size
}

// String returns the name that PyTorch and config.toml use, such as "float32".
func (d DType) String() string {
	if d.Size() == 0 {
		return fmt.Sprintf("dtype(%d)", uint8(d))
	}
	return dtypes[d].name
}

// RoundBFloat16 returns the bits of the bfloat16 number nearest to x, the one with an even last place where two are: an infinity
// beyond the largest one. A NaN stays one.
func RoundBFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40 // the upper half alone might be an infinity
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// RoundBFloat16s is RoundBFloat16 for each of the values.
func RoundBFloat16s(values []float32) []uint16 {
	rounded := make([]uint16, len(values))
	for i, x := range values {
		rounded[i] = RoundBFloat16(x)
	}
	return rounded
}
