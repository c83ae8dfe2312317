package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
)

// ToFloat32 converts little-endian elements of type d to float32. F32 keeps its bits; BF16 and F16 convert exactly,
// subnormal numbers, infinities and the payloads of NaNs included; F64 rounds to nearest even. Any other type is an error.
// src must hold len(dst) elements; it need not be aligned.
func ToFloat32(dst []float32, src []byte, d DType) error {
	var size int
	switch d {
	case F64, F32, F16, BF16:
		size = d.Bits() / 8
	default:
		return fmt.Errorf("dtype %s does not convert to float32; convert the tensor to F32, BF16 or F16 first", d)
	}
	if len(src) != len(dst)*size {
		return fmt.Errorf("%d bytes of %s are not %d elements", len(src), d, len(dst))
	}
	switch d {
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F16:
		for i := range dst {
			dst[i] = fromFloat16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
	return nil
}

// fromFloat16 widens an IEEE 754 half-precision number: 1 bit of sign, 5 of exponent (bias 15), 10 of fraction.
func fromFloat16(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exponent, fraction := uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exponent {
	case 0:
		// Zero or subnormal: fraction x 2^-24, which float32 holds as an ordinary number.
		return math.Float32frombits(math.Float32bits(float32(fraction)*0x1p-24) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0xff<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}
