package kernels

import (
	"strings"
	"testing"

	"lockstep/kernels/device"
)

func TestCheckMatMul(t *testing.T) {
	s := storage(1 << 12)
	a, b, c := NewTensor(s, 0, device.Float32, 3, 4), NewTensor(s, 512, device.Float32, 4, 6), NewTensor(s, 1024, device.Float32, 3, 6)
	at, bt := NewTensor(s, 0, device.Float32, 4, 3), NewTensor(s, 512, device.Float32, 6, 4)
	trans := MatMulOptions{TransA: true, TransB: true}
	for _, x := range []struct {
		c, a, b Tensor
		o       MatMulOptions
		want    string // part of the error; none when empty
	}{
		{c, a, b, MatMulOptions{}, ""},
		{c, at, bt, trans, ""},
		{c, NewTensor(s, 0, device.BFloat16, 3, 4), NewTensor(s, 512, device.BFloat16, 4, 6), MatMulOptions{}, ""},
		{c, NewTensor(s, 0, device.Int32, 3, 4), b, MatMulOptions{}, "neither float32 nor bfloat16"},
		{NewTensor(s, 1024, device.BFloat16, 3, 6), a, b, MatMulOptions{}, ""},
		{NewTensor(s, 1024, device.Float16, 3, 6), a, b, MatMulOptions{}, "c is"},
		{c, at, b, trans, "b is"},
		{c, a, bt, MatMulOptions{}, "b is"},
		{bt, a, b, MatMulOptions{}, "c is"},
		{c, a.Reshape(12), b, MatMulOptions{}, "2 dimensions"},
		{c, a, Tensor{}, MatMulOptions{}, "2 dimensions"},
		{c, a, NewTensor(s, 512, device.Float64, 4, 6), MatMulOptions{}, "b is"},
		{NewTensor(s, 0, device.Float32, 3, 6), a, b, MatMulOptions{Accumulate: true}, "c overlaps a"},
		{NewTensor(s, 520, device.Float32, 3, 6), a, b, MatMulOptions{}, "c overlaps b"},
		{NewTensor(nil, 0, device.Float32, 3, 6), a, b, MatMulOptions{}, "no memory"},
	} {
		checkError(t, CheckMatMul(x.c, x.a, x.b, x.o), x.want)
	}
}

func TestCheckCast(t *testing.T) {
	s := storage(1 << 12)
	wide, narrow := NewTensor(s, 0, device.Float32, 3, 4), NewTensor(s, 512, device.BFloat16, 3, 4)
	for _, x := range []struct {
		y, x Tensor
		want string
	}{
		{wide, narrow, ""},
		{narrow, wide, ""},
		{wide, wide, "nothing to convert"},
		{wide, narrow.Narrow(0, 0, 2), "x is"},
		{wide, NewTensor(s, 512, device.Float64, 3, 4), "x is"},
		{narrow, Tensor{}, "x is missing"},
		{Tensor{}, narrow, "y is missing"},
		{wide, NewTensor(s, 8, device.BFloat16, 3, 4), "y overlaps x"},
	} {
		checkError(t, CheckCast(x.y, x.x), x.want)
	}
}

// TestCheckAttention changes one operand at a time of a sound call, with q, k, v and their gradients in fused buffers.
func TestCheckAttention(t *testing.T) {
	const b, time, heads, kvHeads, d = 2, 3, 4, 2, 8
	const width = (heads + 2*kvHeads) * d
	s := storage(1 << 16)
	split := func(fused Tensor) (q, k, v Tensor) {
		return fused.Narrow(2, 0, heads*d).Split(2, heads, d), fused.Narrow(2, heads*d, (heads+kvHeads)*d).Split(2, kvHeads, d),
			fused.Narrow(2, (heads+kvHeads)*d, width).Split(2, kvHeads, d)
	}
	type operands struct{ dq, dk, dv, do, q, k, v, o, statistics, workspace, documents Tensor }
	sound := func() operands {
		var x operands
		x.q, x.k, x.v = split(NewTensor(s, 0, device.Float32, b, time, width))
		x.dq, x.dk, x.dv = split(NewTensor(s, 1<<13, device.Float32, b, time, width))
		x.o, x.do = NewTensor(s, 2<<13, device.Float32, b, time, heads, d), NewTensor(s, 3<<13, device.Float32, b, time, heads, d)
		x.statistics, x.workspace = NewTensor(s, 4<<13, device.Float32, b, heads, time), NewTensor(s, 5<<13, device.Uint8, 96)
		x.documents = NewTensor(s, 6<<13, device.Int32, b, time)
		return x
	}
	for _, c := range []struct {
		change func(x *operands)
		want   string
	}{
		{func(x *operands) {}, ""},
		{func(x *operands) { x.k = x.k.Narrow(2, 0, 0) }, "cannot share"},
		{func(x *operands) { x.q = x.q.Narrow(2, 0, 3) }, "cannot share"},
		{func(x *operands) { x.k = x.k.Narrow(3, 0, 4) }, "k is"},
		{func(x *operands) { x.v = x.v.Narrow(1, 0, 2) }, "v is"},
		{func(x *operands) { x.q = Tensor{} }, "4 dimensions"},
		{func(x *operands) { x.o = x.o.Narrow(3, 0, 4) }, "o is"},
		{func(x *operands) { x.o.Offset = 64 }, "o "},
		{func(x *operands) { x.statistics = x.statistics.Narrow(2, 0, 2) }, "statistics is"},
		{func(x *operands) { x.statistics.Stride[0]++ }, ""},
		{func(x *operands) { x.statistics.Stride[2]++ }, "has stride 2"},
		{func(x *operands) { x.dq = Tensor{} }, "dq is"},
		{func(x *operands) { x.dk = x.dv }, "overlaps"},
		{func(x *operands) { x.dq.Offset = 32 }, "overlaps"},
		{func(x *operands) { x.workspace = x.workspace.Narrow(0, 0, 95) }, "workspace"},
		{func(x *operands) { x.workspace.Offset++ }, "multiple of 8"},
		{func(x *operands) { x.workspace.Offset = 0 }, "overlaps"},
		{func(x *operands) { x.workspace.Storage = nil }, "no memory"},
		{func(x *operands) { x.documents = Tensor{} }, ""},
		{func(x *operands) { x.documents = x.documents.Narrow(1, 0, 2) }, "documents is"},
		{func(x *operands) { x.documents.DType = device.Float32 }, "documents is"},
		{func(x *operands) { x.documents.Offset = x.dq.Offset }, "overlaps"},
		{func(x *operands) { x.documents.Offset = x.statistics.Offset }, "overlaps"},
	} {
		x := sound()
		c.change(&x)
		err := CheckAttentionBackward(x.dq, x.dk, x.dv, x.do, x.q, x.k, x.v, x.o, x.statistics, x.workspace, AttentionOptions{Causal: true, Documents: x.documents}, 96, b, heads, time)
		checkError(t, err, c.want)
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("the error is %v, without %q", err, want)
	}
}
