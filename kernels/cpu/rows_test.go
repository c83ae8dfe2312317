package cpu

import (
	"strings"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// TestWideRows: rows of bfloat16 go through scratch memory, and those that do not fit are refused; float32 has no limit.
func TestWideRows(t *testing.T) {
	const width = scratchBytes / 4 / 2 / 3
	d, s := open(t, "", 1)
	of := func(dtype device.DType, width int) kernels.Tensor {
		storage, err := d.Alloc(width * dtype.Size())
		if err != nil {
			t.Fatal(err)
		}
		return kernels.NewTensor(storage, 0, dtype, 1, width)
	}
	narrow, wide := of(device.BFloat16, width/scratchAlign*scratchAlign), of(device.Float32, 2*width)
	d.Add(s, narrow, narrow, narrow)
	d.Add(s, wide, wide, wide)
	if err := s.Synchronize(); err != nil {
		t.Fatal(err)
	}
	narrow = of(device.BFloat16, width+scratchAlign)
	d.Add(s, narrow, narrow, narrow)
	if err := s.Synchronize(); err == nil || !strings.Contains(err.Error(), "the CPU takes up to") {
		t.Errorf("rows that do not fit: %v", err)
	}
}
