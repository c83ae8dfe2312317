package kernels

import (
	"fmt"

	"lockstep/kernels/device"
)

// The checks in this file are shared by all devices: each returns an error that names the operand at fault, nil when the
// operands fit the operator. A device calls them before it enqueues anything.

// CheckAdd checks the operands of Add.
func CheckAdd(y, a, b Tensor) error {
	return firstError(
		want("a", a, device.Float32, y.Dims()...),
		want("b", b, device.Float32, y.Dims()...),
		want("y", y, device.Float32, y.Dims()...),
	)
}

// CheckCopy checks the operands of Copy.
func CheckCopy(y, x Tensor) error { return want("x", x, y.DType, y.Dims()...) }

// CheckZero checks the operand of Zero.
func CheckZero(x Tensor) error {
	return firstError(want("x", x, x.DType, x.Dims()...), dense("x", x))
}

// want returns an error unless t is there, has the type and shape, and a dense last dimension.
func want(name string, t Tensor, dtype device.DType, shape ...int) error {
	ok := !t.IsZero() && t.DType == dtype && t.Rank == len(shape)
	for i := 0; ok && i < t.Rank; i++ {
		ok = t.Shape[i] == shape[i]
	}
	if !ok {
		return fmt.Errorf("%s is %v, not %v", name, t, NewTensor(nil, 0, dtype, shape...))
	}
	if t.Storage == nil {
		return fmt.Errorf("%s %v has no memory", name, t)
	}
	if t.Rank > 0 && t.Stride[t.Rank-1] != 1 {
		return fmt.Errorf("the last dimension of %s %v has stride %d, not 1", name, t, t.Stride[t.Rank-1])
	}
	return nil
}

func dense(name string, t Tensor) error {
	if !t.Dense() {
		return fmt.Errorf("%s %v is not dense: strides %v", name, t, t.Stride[:t.Rank])
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
