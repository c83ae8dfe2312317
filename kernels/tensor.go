package kernels

import (
	"fmt"
	"slices"
	"strings"

	"lockstep/kernels/device"
)

// MaxRank is the largest number of dimensions of a Tensor.
const MaxRank = 4

// A Tensor is a view of device memory: a type, a shape, and strides in elements. It is a value; copying it copies no
// elements. The last dimension is dense (stride 1); operators say where they want all of them dense. The zero Tensor
// stands for an operand that is not there.
type Tensor struct {
	Storage *device.Storage
	// Offset is the position of the first element, in bytes.
	Offset int
	DType  device.DType
	// Rank is the number of dimensions in use; Shape and Stride are zero beyond it.
	Rank   int
	Shape  [MaxRank]int
	Stride [MaxRank]int
}

// NewTensor returns the dense tensor of the given shape whose first element is at offset bytes of storage. storage may be
// nil when only sizes are wanted.
func NewTensor(storage *device.Storage, offset int, dtype device.DType, shape ...int) Tensor {
	if len(shape) > MaxRank {
		// A copy of the shape, so that the callers' shapes need not be on the heap.
		panic(fmt.Sprintf("kernels: a tensor of shape %v has more than %d dimensions", slices.Clone(shape), MaxRank))
	}
	t := Tensor{Storage: storage, Offset: offset, DType: dtype, Rank: len(shape)}
	stride := 1
	for i := len(shape) - 1; i >= 0; i-- {
		t.Shape[i], t.Stride[i] = shape[i], stride
		stride *= shape[i]
	}
	return t
}

// IsZero reports whether the tensor stands for an operand that is not there.
func (t Tensor) IsZero() bool { return t.DType == 0 }

// Len returns the number of elements.
func (t Tensor) Len() int {
	if t.IsZero() {
		return 0
	}
	n := 1
	for _, d := range t.Shape[:t.Rank] {
		n *= d
	}
	return n
}

// Bytes returns the size of the elements, without the gaps that strides leave.
func (t Tensor) Bytes() int { return t.Len() * t.DType.Size() }

// Dims returns the shape.
func (t Tensor) Dims() []int { return append([]int(nil), t.Shape[:t.Rank]...) }

// Last returns the size of the last dimension, 1 for a scalar.
func (t Tensor) Last() int {
	if t.Rank == 0 {
		return 1
	}
	return t.Shape[t.Rank-1]
}

// Rows returns how many rows the last dimension leaves: Len() / Last().
func (t Tensor) Rows() int {
	n := 1
	for i := 0; i < t.Rank-1; i++ {
		n *= t.Shape[i]
	}
	return n
}

// Dense reports whether the elements lie one after the other, in row-major order.
func (t Tensor) Dense() bool {
	stride := 1
	for i := t.Rank - 1; i >= 0; i-- {
		if t.Shape[i] != 1 && t.Stride[i] != stride {
			return false
		}
		stride *= t.Shape[i]
	}
	return true
}

// Region returns the bytes from the first element to the last, gaps included.
func (t Tensor) Region() device.Region {
	n := t.Len()
	if n == 0 {
		return device.Region{Storage: t.Storage, Offset: t.Offset}
	}
	last := 0
	for i := 0; i < t.Rank; i++ {
		last += (t.Shape[i] - 1) * t.Stride[i]
	}
	return device.Region{Storage: t.Storage, Offset: t.Offset, Bytes: (last + 1) * t.DType.Size()}
}

// Reshape returns a dense tensor's elements in another shape. It panics when the tensor is not dense or the sizes differ:
// shapes are fixed when a model is built, so this is a mistake in the program.
func (t Tensor) Reshape(shape ...int) Tensor {
	r := NewTensor(t.Storage, t.Offset, t.DType, shape...)
	if !t.Dense() || r.Len() != t.Len() {
		panic(fmt.Sprintf("kernels: %v cannot be reshaped to %v", t, slices.Clone(shape)))
	}
	return r
}

// Split replaces dimension dim, of size a*b, by two of sizes a and b, as in [T, N*D] -> [T, N, D]. It works on views.
func (t Tensor) Split(dim, a, b int) Tensor {
	if t.Rank == MaxRank || t.Shape[dim] != a*b {
		panic(fmt.Sprintf("kernels: dimension %d of %v cannot be split into %d x %d", dim, t, a, b))
	}
	r := t
	r.Rank++
	copy(r.Shape[dim+2:], t.Shape[dim+1:])
	copy(r.Stride[dim+2:], t.Stride[dim+1:])
	r.Shape[dim], r.Stride[dim] = a, t.Stride[dim]*b
	r.Shape[dim+1], r.Stride[dim+1] = b, t.Stride[dim]
	return r
}

// Narrow returns the view of the indices [from, to) of dimension dim.
func (t Tensor) Narrow(dim, from, to int) Tensor {
	if dim < 0 || dim >= t.Rank || from < 0 || to < from || to > t.Shape[dim] {
		panic(fmt.Sprintf("kernels: [%d, %d) of dimension %d is outside %v", from, to, dim, t))
	}
	t.Offset += from * t.Stride[dim] * t.DType.Size()
	t.Shape[dim] = to - from
	return t
}

// Transpose returns the view in which dimensions i and j have changed places. The last dimension of an operand must stay dense.
func (t Tensor) Transpose(i, j int) Tensor {
	if i < 0 || i >= t.Rank || j < 0 || j >= t.Rank {
		panic(fmt.Sprintf("kernels: %v has no dimensions %d and %d", t, i, j))
	}
	t.Shape[i], t.Shape[j] = t.Shape[j], t.Shape[i]
	t.Stride[i], t.Stride[j] = t.Stride[j], t.Stride[i]
	return t
}

// Expand returns a view in which dimension dim, of size 1, is repeated n times. It is for operands that are only read.
func (t Tensor) Expand(dim, n int) Tensor {
	if dim < 0 || dim >= t.Rank || t.Shape[dim] != 1 {
		panic(fmt.Sprintf("kernels: dimension %d of %v is not of size 1", dim, t))
	}
	t.Shape[dim], t.Stride[dim] = n, 0
	return t
}

// SameShape reports whether the two tensors have the same dimensions.
func (t Tensor) SameShape(o Tensor) bool { return t.Rank == o.Rank && t.Shape == o.Shape }

// String returns the type and shape, such as "float32[2 128 64]".
func (t Tensor) String() string {
	if t.IsZero() {
		return "none"
	}
	return t.DType.String() + "[" + strings.Trim(fmt.Sprint(t.Shape[:t.Rank]), "[]") + "]"
}
