package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"

	"lockstep/kernels/device"
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

// FromFloat32 converts float32 elements to little-endian ones of type d, rounding to nearest even. F32 keeps its bits. A number
// that is finite and too large for F16 is an error; any type but F64, F32, BF16 and F16 is as well. dst must have the size of
// the elements; it need not be aligned.
func FromFloat32(dst []byte, src []float32, d DType) error {
	switch d {
	case F64, F32, F16, BF16:
	default:
		return fmt.Errorf("float32 does not convert to dtype %s", d)
	}
	if len(dst) != len(src)*d.Bits()/8 {
		return fmt.Errorf("%d bytes of %s are not %d elements", len(dst), d, len(src))
	}
	for i, x := range src {
		switch d {
		case F64:
			binary.LittleEndian.PutUint64(dst[8*i:], math.Float64bits(float64(x)))
		case F32:
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
		case BF16:
			binary.LittleEndian.PutUint16(dst[2*i:], device.RoundBFloat16(x))
		case F16:
			h := toFloat16(x)
			if h&0x7fff == 0x7c00 && !math.IsInf(float64(x), 0) {
				return fmt.Errorf("element %d is %g, beyond the range of float16; use bfloat16 or float32", i, x)
			}
			binary.LittleEndian.PutUint16(dst[2*i:], h)
		}
	}
	return nil
}

// toFloat16 rounds to an IEEE 754 half-precision number, infinity where it is too large.
func toFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13&0x3ff)
	case b >= 0x47800000: // 2^16
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: subnormal, a multiple of 2^-24
		// Adding 2^-1 makes the last place worth 2^-24; the processor rounds to nearest even.
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-math.Float32bits(0.5))
	}
	b += 0xfff + b>>13&1 // round the 13 bits that go; a carry runs into the exponent, up to infinity
	return sign | uint16((b-(127-15)<<23)>>13)
}
