// Package safetensors reads and writes the safetensors format, in which Hugging Face models are published and Lockstep
// keeps its own state.
//
// A file is
//
//	8 bytes        n, the header's length, little-endian
//	n bytes        a JSON object: tensor name -> {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, and perhaps
//	               "__metadata__": an object of strings; spaces may follow it
//	the rest       the tensors' elements, row-major and little-endian; data_offsets count from here
//
// The tensors lie one after another, without overlaps or holes, from the header to the end of the file. That makes the
// whole file checkable before a single element is read, which is what Open does: a header that does not describe exactly
// the bytes that follow it is refused with the name of the file and of the tensor.
//
// Files are memory-mapped, so that opening costs no more than reading the header, and only the tensors that are used are
// read from the disk. Elements may start at any byte, whatever their size: the format promises no alignment.
//
// The format is specified at https://github.com/huggingface/safetensors; limits and checks are those of its reference
// implementation.
package safetensors

import "lockstep/kernels/device"

// A DType is the type of a tensor's elements, by the name that the format gives it.
type DType string

// The element types that Lockstep computes with. Files may hold others, whose bytes can be read all the same.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	U8   DType = "U8"
)

// Bits returns the size of one element in bits, 0 for a type that the format does not have.
func (d DType) Bits() int {
	switch d {
	case F64, I64, "U64", "C64":
		return 64
	case F32, I32, "U32":
		return 32
	case F16, BF16, "I16", "U16":
		return 16
	case U8, "I8", "BOOL", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ":
		return 8
	case "F6_E2M3", "F6_E3M2":
		return 6
	case "F4":
		return 4
	}
	return 0
}

// Device returns the device's name for d, 0 for a type that devices do not have.
func (d DType) Device() device.DType {
	switch d {
	case F64:
		return device.Float64
	case F32:
		return device.Float32
	case F16:
		return device.Float16
	case BF16:
		return device.BFloat16
	case I64:
		return device.Int64
	case I32:
		return device.Int32
	case U8:
		return device.Uint8
	}
	return 0
}

// FromDevice returns the format's name for a device's element type, "" for no type.
func FromDevice(d device.DType) DType {
	switch d {
	case device.Float64:
		return F64
	case device.Float32:
		return F32
	case device.Float16:
		return F16
	case device.BFloat16:
		return BF16
	case device.Int64:
		return I64
	case device.Int32:
		return I32
	case device.Uint8:
		return U8
	}
	return ""
}

// Info describes one tensor of a file.
type Info struct {
	Name  string
	DType DType
	// Shape has one entry per dimension; a scalar has none.
	Shape []int
	// Start and End are the tensor's bytes, counted from the end of the header.
	Start, End int
}
