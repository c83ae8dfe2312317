package kernels

import (
	"testing"

	"lockstep/kernels/device"
)

// TestOverlap compares overlap with the sets of bytes that the views hold.
func TestOverlap(t *testing.T) {
	s := storage(4096)
	fused := NewTensor(s, 64, device.Float32, 6, 24)
	views := []Tensor{
		fused, fused.Narrow(1, 0, 8), fused.Narrow(1, 8, 16), fused.Narrow(1, 7, 9), fused.Narrow(0, 0, 3), fused.Narrow(0, 3, 6),
		fused.Narrow(1, 0, 8).Split(1, 2, 4), fused.Narrow(1, 16, 24).Split(1, 4, 2).Split(0, 2, 3), fused.Narrow(1, 16, 24).Split(0, 3, 2),
		fused.Narrow(1, 20, 24).Narrow(0, 2, 3), NewTensor(s, 64+4*24, device.Float64, 7), fused.Narrow(0, 2, 2),
		NewTensor(s, 64, device.Int32, 6, 25).Narrow(1, 0, 2), NewTensor(s, 64, device.Uint8, 6, 96).Narrow(1, 32, 63),
	}
	exact := 0
	for _, a := range views {
		for _, b := range views {
			want := shareAByte(a, b)
			got := overlap(&a, &b)
			if want && !got {
				t.Errorf("%v at %d (strides %v) and %v at %d (strides %v) share a byte", a, a.Offset, a.Stride, b, b.Offset, b.Stride)
			}
			if want == got {
				exact++
			}
		}
	}
	// Views of rows of another length (25) may be taken for overlapping where they are not; all others are told apart.
	if missed := len(views)*len(views) - exact; missed > 12 {
		t.Errorf("%d pairs of %d are taken for overlapping without need", missed, len(views)*len(views))
	}
	if q, k := fused.Narrow(1, 0, 8).Split(1, 2, 4), fused.Narrow(1, 8, 16).Split(1, 2, 4); overlap(&q, &k) {
		t.Error("the heads of a fused projection are taken for overlapping")
	}
}

func shareAByte(a, b Tensor) bool {
	in := map[int]bool{}
	for _, x := range bytesOf(a) {
		in[x] = true
	}
	for _, x := range bytesOf(b) {
		if in[x] {
			return true
		}
	}
	return false
}

func bytesOf(t Tensor) []int {
	var all []int
	for i := range t.Len() {
		at := 0
		for k := t.Rank - 1; k >= 0; k-- {
			at += i % t.Shape[k] * t.Stride[k]
			i /= t.Shape[k]
		}
		for j := range t.DType.Size() {
			all = append(all, t.Offset+at*t.DType.Size()+j)
		}
	}
	return all
}

func TestSound(t *testing.T) {
	s := storage(96)
	x := NewTensor(s, 0, device.Float32, 4, 6)
	if err := sound("x", x); err != nil {
		t.Fatal(err)
	}
	negative, backwards, odd, beyond, columns := x, x, x, x, x
	negative.Shape[0] = -1
	backwards.Stride[0] = -6
	odd.Offset = 2
	beyond.Offset = 4
	columns.Stride[1] = 2
	for name, bad := range map[string]Tensor{
		"a negative size": negative, "a negative stride": backwards, "an odd offset": odd.Narrow(0, 0, 3),
		"a view beyond the storage": beyond, "a spread last dimension": columns.Narrow(1, 0, 3),
		"no storage": NewTensor(nil, 0, device.Float32, 2),
	} {
		if err := sound("x", bad); err == nil {
			t.Errorf("%s is taken for sound: %v, offset %d, strides %v", name, bad, bad.Offset, bad.Stride)
		}
	}
}

// TestChecksAllocateNothing: they run before every operator of every step.
func TestChecksAllocateNothing(t *testing.T) {
	s := storage(1 << 16)
	at := 0
	f := func(shape ...int) Tensor {
		x := NewTensor(s, at, device.Float32, shape...)
		at += x.Bytes()
		return x
	}
	x, y, z, r, c := f(4, 6), f(4, 6), f(4, 6), f(4), f(6)
	square := f(4, 4)
	clip := NewTensor(s, 32<<10, device.Float64, 3)
	m, v, g := f(6), f(6), f(6)
	var err error
	if n := testing.AllocsPerRun(10, func() {
		err = firstError(
			CheckRMSNorm(y, r, x, c), CheckRMSNormBackwardInput(x, y, z, r, c, x), CheckAddRMSNorm(z, r, x, x, y, c), CheckAdd(y, x, x),
			CheckAdamW(c, m, v, g, clip, AdamWOptions{Step: 1}), CheckMatMul(square, x, y, MatMulOptions{TransB: true}),
		)
	}); n != 0 || err != nil {
		t.Errorf("%v allocations, error %v", n, err)
	}
}
