package device

import "fmt"

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
