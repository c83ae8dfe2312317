package safetensors

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

// Every half-precision number, against the definition of the format in float64 arithmetic.
func TestFloat16IsExact(t *testing.T) {
	src := make([]byte, 2<<16)
	dst := make([]float32, 1<<16)
	for i := range dst {
		binary.LittleEndian.PutUint16(src[2*i:], uint16(i))
	}
	if err := ToFloat32(dst, src, F16); err != nil {
		t.Fatal(err)
	}
	for i, got := range dst {
		exponent, fraction := i>>10&0x1f, i&0x3ff
		want := math.Ldexp(1+float64(fraction)/1024, exponent-15)
		switch {
		case exponent == 0:
			want = math.Ldexp(float64(fraction), -24)
		case exponent == 31 && fraction == 0:
			want = math.Inf(1)
		case exponent == 31:
			if bits := math.Float32bits(got); bits&0x7fffff != uint32(fraction)<<13 || bits>>31 != uint32(i)>>15 || got == got {
				t.Errorf("%#04x is NaN, got %#08x", i, bits)
			}
			continue
		}
		if i >= 1<<15 {
			want = math.Copysign(want, -1)
		}
		if float64(got) != want || math.Signbit(float64(got)) != math.Signbit(want) {
			t.Errorf("%#04x: %g, expected %g", i, got, want)
		}
	}
}

// Every bfloat16 is the upper half of a float32.
func TestBFloat16IsExact(t *testing.T) {
	src := make([]byte, 2<<16)
	dst := make([]float32, 1<<16)
	for i := range dst {
		binary.LittleEndian.PutUint16(src[2*i:], uint16(i))
	}
	if err := ToFloat32(dst, src, BF16); err != nil {
		t.Fatal(err)
	}
	for i, got := range dst {
		if math.Float32bits(got) != uint32(i)<<16 {
			t.Errorf("%#04x: %#08x", i, math.Float32bits(got))
		}
	}
}

func TestFloat32AndFloat64(t *testing.T) {
	patterns := []uint32{0, 1, 1 << 31, 0x3f800001, 0x7f800000, 0x7f800001, 0xffc12345, 0x007fffff}
	var src []byte
	for _, p := range patterns {
		src = binary.LittleEndian.AppendUint32(src, p)
	}
	dst := make([]float32, len(patterns))
	if err := ToFloat32(dst, src, F32); err != nil {
		t.Fatal(err)
	}
	for i, p := range patterns {
		if math.Float32bits(dst[i]) != p {
			t.Errorf("%#08x became %#08x", p, math.Float32bits(dst[i]))
		}
	}
	wide := binary.LittleEndian.AppendUint64(nil, math.Float64bits(1+0x1p-24+0x1p-50))
	if err := ToFloat32(dst[:1], wide, F64); err != nil || dst[0] != 1+0x1p-23 {
		t.Errorf("rounded to %v, %v", dst[0], err)
	}
}

func TestToFloat32Refuses(t *testing.T) {
	if err := ToFloat32(make([]float32, 1), make([]byte, 1), "F8_E4M3"); err == nil || !strings.Contains(err.Error(), "F8_E4M3") {
		t.Errorf("eight bits: %v", err)
	}
	for _, d := range []DType{F64, F32, F16, BF16} {
		if err := ToFloat32(make([]float32, 2), make([]byte, 2*d.Bits()/8-1), d); err == nil || !strings.Contains(err.Error(), "are not 2 elements") {
			t.Errorf("%s of the wrong size: %v", d, err)
		}
	}
}

// TestFromFloat32 goes through all half-precision numbers, which must come back, and through what lies between two of them.
func TestFromFloat32(t *testing.T) {
	for _, d := range []DType{F16, BF16} {
		for h := range 1 << 16 {
			src := []byte{byte(h), byte(h >> 8)}
			var x [1]float32
			if err := ToFloat32(x[:], src, d); err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, 2)
			if err := FromFloat32(dst, x[:], d); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(dst, src) && x[0] == x[0] {
				t.Fatalf("%s %04x is %g and came back as %x", d, h, x[0], dst)
			}
			if x[0] != x[0] {
				ToFloat32(x[:], dst, d)
				if x[0] == x[0] {
					t.Fatalf("%s %04x is no number and became %g", d, h, x[0])
				}
			}
		}
	}
	for _, c := range []struct {
		d    DType
		x    float32
		want uint16
	}{
		{BF16, math.Float32frombits(0x3f808000), 0x3f80}, // halfway: to even
		{BF16, math.Float32frombits(0x3f818000), 0x3f82},
		{BF16, math.Float32frombits(0x3f808001), 0x3f81},
		{BF16, math.MaxFloat32, 0x7f80},
		{BF16, math.Float32frombits(0x7f800001), 0x7fc0}, // a NaN whose payload would be lost
		{F16, 1 + 0x1p-11, 0x3c00},
		{F16, 1 + 3*0x1p-11, 0x3c02},
		{F16, 1 + 0x1p-11 + 0x1p-20, 0x3c01},
		{F16, 65504 + 15, 0x7bff},
		{F16, 0x1p-25, 0}, // halfway to the smallest
		{F16, 3 * 0x1p-25, 2},
		{F16, -0x1p-14 + 0x1p-25, 0x8400},
		{F16, float32(math.Inf(-1)), 0xfc00},
	} {
		dst := make([]byte, 2)
		if err := FromFloat32(dst, []float32{c.x}, c.d); err != nil || binary.LittleEndian.Uint16(dst) != c.want {
			t.Errorf("%g as %s is %04x, %v, want %04x", c.x, c.d, binary.LittleEndian.Uint16(dst), err, c.want)
		}
	}
	if err := FromFloat32(make([]byte, 2), []float32{65520}, F16); err == nil || !strings.Contains(err.Error(), "use bfloat16") {
		t.Errorf("65520 as F16: %v", err)
	}
	if FromFloat32(make([]byte, 1), []float32{1}, U8) == nil || FromFloat32(make([]byte, 3), []float32{1}, F32) == nil {
		t.Error("a wrong type or size was accepted")
	}
	wide := make([]byte, 12)
	if FromFloat32(wide[:8], []float32{1.5}, F64) != nil || math.Float64frombits(binary.LittleEndian.Uint64(wide)) != 1.5 {
		t.Errorf("1.5 as F64 is %x", wide[:8])
	}
}
