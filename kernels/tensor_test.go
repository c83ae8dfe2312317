package kernels

import (
	"slices"
	"testing"

	"lockstep/kernels/device"
)

func storage(bytes int) *device.Storage {
	return device.NewStorage(0, make([]byte, bytes), bytes, nil)
}

func TestTensorShape(t *testing.T) {
	x := NewTensor(nil, 8, device.Float32, 2, 3, 5)
	if x.Len() != 30 || x.Bytes() != 120 || x.Last() != 5 || x.Rows() != 6 || !x.Dense() || !slices.Equal(x.Dims(), []int{2, 3, 5}) {
		t.Errorf("%v: Len %d, Bytes %d, Last %d, Rows %d, Dims %v", x, x.Len(), x.Bytes(), x.Last(), x.Rows(), x.Dims())
	}
	if x.String() != "float32[2 3 5]" || (Tensor{}).String() != "none" {
		t.Errorf("names %q and %q", x, Tensor{})
	}
	if scalar := NewTensor(nil, 0, device.Float64); scalar.Len() != 1 || scalar.Last() != 1 || scalar.Rows() != 1 {
		t.Errorf("a scalar has Len %d, Last %d, Rows %d", scalar.Len(), scalar.Last(), scalar.Rows())
	}
	if (Tensor{}).Len() != 0 || !(Tensor{}).IsZero() {
		t.Error("the zero tensor has elements")
	}
}

func TestTensorViews(t *testing.T) {
	s := storage(4000)
	// The key heads of a fused projection: columns 6 to 12 of 20, as 2 heads of 3.
	fused := NewTensor(s, 16, device.Float32, 4, 5, 20)
	k := fused.Narrow(2, 6, 12).Split(2, 2, 3)
	if !slices.Equal(k.Dims(), []int{4, 5, 2, 3}) || k.Stride != [MaxRank]int{100, 20, 3, 1} || k.Offset != 16+24 {
		t.Errorf("k is %v, strides %v, offset %d", k, k.Stride, k.Offset)
	}
	if k.Dense() {
		t.Error("a view with gaps is called dense")
	}
	want := device.Region{Storage: s, Offset: 40, Bytes: 4 * (3*100 + 4*20 + 3 + 2 + 1)}
	if r := k.Region(); r != want {
		t.Errorf("the region of k is %+v, expected %+v", r, want)
	}
	if r := fused.Narrow(0, 1, 1).Region(); r.Bytes != 0 {
		t.Errorf("an empty view has %d bytes", r.Bytes)
	}
	if one := fused.Narrow(0, 1, 2).Narrow(1, 2, 3); !one.Dense() || one.Offset != 16+4*(100+40) {
		t.Errorf("one row: dense %v, offset %d", one.Dense(), one.Offset)
	}
	if x := k.Transpose(0, 2); !slices.Equal(x.Dims(), []int{2, 5, 4, 3}) || x.Stride != [MaxRank]int{3, 20, 100, 1} || x.Transpose(2, 0) != k {
		t.Errorf("transposed it is %v, strides %v", x, x.Stride)
	}
	if r := fused.Reshape(20, 20); !r.SameShape(NewTensor(nil, 0, device.Uint8, 20, 20)) || r.SameShape(fused) {
		t.Errorf("reshaped to %v", r)
	}
}

func TestTensorMistakesPanic(t *testing.T) {
	x := NewTensor(nil, 0, device.Float32, 4, 6)
	for name, f := range map[string]func(){
		"five dimensions":        func() { NewTensor(nil, 0, device.Float32, 1, 1, 1, 1, 1) },
		"reshaping to more":      func() { x.Reshape(25) },
		"reshaping a view":       func() { x.Narrow(1, 0, 3).Reshape(12) },
		"narrowing to outside":   func() { x.Narrow(1, 3, 7) },
		"narrowing a dimension":  func() { x.Narrow(2, 0, 1) },
		"narrowing backwards":    func() { x.Narrow(0, 2, 1) },
		"transposing outside":    func() { x.Transpose(0, 2) },
		"splitting unevenly":     func() { x.Split(1, 4, 2) },
		"splitting to five dims": func() { NewTensor(nil, 0, device.Float32, 1, 1, 1, 4).Split(3, 2, 2) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s went through", name)
				}
			}()
			f()
		}()
	}
}

func TestArenaPlansThenPlaces(t *testing.T) {
	layout := func(a *Arena) []Tensor {
		x := a.Tensor(device.Float32, 3, 5)
		mark := a.Mark()
		y := a.Tensor(device.Float32, 1000)
		a.Release(mark)
		z := a.Tensor(device.Uint8, 7)
		return []Tensor{x, y, z}
	}
	var plan Arena
	layout(&plan)
	if want := arenaAlign + 4096; plan.Bytes() != want {
		t.Fatalf("measured %d bytes, expected %d", plan.Bytes(), want)
	}
	placed := layout(NewArena(storage(plan.Bytes())))
	if placed[1].Offset != arenaAlign || placed[2].Offset != arenaAlign {
		t.Errorf("released memory is not used again: offsets %d and %d", placed[1].Offset, placed[2].Offset)
	}
	for _, x := range placed {
		if r := x.Region(); r.Offset%arenaAlign != 0 || r.Offset+r.Bytes > plan.Bytes() {
			t.Errorf("%v lies at [%d, %d) of %d", x, r.Offset, r.Offset+r.Bytes, plan.Bytes())
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("an arena placed more than it has")
		}
	}()
	layout(NewArena(storage(plan.Bytes() - 1)))
}
