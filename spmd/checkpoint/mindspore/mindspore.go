// Package mindspore reads and writes MindSpore's checkpoint files (.ckpt), and translates between Hugging Face's names and
// those of MindSpore Transformers, which keeps some matrices fused.
//
// A .ckpt file is one protobuf message, schema in MindSpore's checkpoint.proto:
//
//	message Checkpoint     { message Value { required string tag = 1; oneof value { TensorProto tensor = 2; MapTensorProto maptensor = 3; } }
//	                         repeated Value value = 1; }
//	message TensorProto    { repeated int64 dims = 1; required string tensor_type = 2; required bytes tensor_content = 3; }
//
// Elements are row-major and little-endian. A tensor above 512 MiB is cut into several Values with the same tag, one after
// the other, each with the shape of the whole. A scalar has no dims, or the one dim 0. After the message there may be
// "crc_num" and the CRC-32 of all bytes before it, as ten bytes, big-endian.
//
// The few fields are decoded here and not by a protobuf library: such a library copies every tensor into memory, and this
// reader only takes down where each lies in the mapped file.
package mindspore

import "lockstep/spmd/checkpoint/safetensors"

// types are MindSpore's names of element types. Its other ones (quantised and complex numbers) are refused.
var types = map[string]safetensors.DType{
	"Float64": safetensors.F64, "Float32": safetensors.F32, "Float16": safetensors.F16, "BFloat16": safetensors.BF16,
	"Int64": safetensors.I64, "Int32": safetensors.I32, "Int16": "I16", "Int8": "I8",
	"UInt64": "U64", "UInt32": "U32", "UInt16": "U16", "UInt8": safetensors.U8, "Bool": "BOOL",
}

// typeName is the inverse of types, "" for an element type that MindSpore does not have.
func typeName(d safetensors.DType) string {
	for name, t := range types {
		if t == d {
			return name
		}
	}
	return ""
}

// textType is the type of a string that was saved along with the tensors, in UTF-32.
const textType = "str"

// Field numbers of the schema.
const (
	checkpointValue = 1
	valueTag        = 1
	valueTensor     = 2
	valueMapTensor  = 3
	tensorDims      = 1
	tensorType      = 2
	tensorContent   = 3
)

// sliceBytes is how much of a tensor MindSpore puts into one Value.
const sliceBytes = 512 << 20

// crcMark stands before the checksum at the end of a file, crcBytes is the length of both.
const (
	crcMark  = "crc_num"
	crcBytes = len(crcMark) + 10
)
