package cpu

import (
	"fmt"
	"unsafe"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// maxArgs is the most tensors that any operator takes.
const maxArgs = 11

// maxFlags is the most flags that any operator takes.
const maxFlags = 4

// A call is one operator with its operands, as a value: launching it on an inline stream allocates nothing. The first
// outs arguments are written, the rest read; an output that the operator also reads (accumulate) counts as written.
type call struct {
	device *Device
	name   string
	// run does the work, by handing parts of it to Device.parallel.
	run  func(d *Device, c *call) error
	args [maxArgs]kernels.Tensor
	n    int // arguments in use
	outs int
	f    [6]float64
	word [3]uint64
	flag [maxFlags]bool
}

// operands sets the arguments: outputs first.
func (c *call) operands(outs int, args ...kernels.Tensor) {
	c.outs = outs
	c.n = copy(c.args[:], args)
}

// Name returns the operator's name.
func (c *call) Name() string { return c.name }

// Accesses visits what the operator reads and writes.
func (c *call) Accesses(visit func(r device.Region, write bool)) {
	for i, t := range c.args[:c.n] {
		if !t.IsZero() {
			visit(t.Region(), i < c.outs)
		}
	}
}

// Run computes the operator.
func (c *call) Run() error { return c.run(c.device, c) }

// launch enqueues the call on s, unless the check of its operands failed.
func (d *Device) launch(s device.Stream, check error, c call) {
	c.device = d
	if check != nil {
		s.Fail(fmt.Errorf("%s: %w", c.name, check))
		return
	}
	switch s := s.(type) {
	case *inlineStream:
		s.call(c)
	case device.HostStream:
		queued := c
		s.Launch(&queued)
	default:
		s.Fail(fmt.Errorf("%s: stream %s (%T) does not belong to the CPU", c.name, s.Name(), s))
	}
}

// f32 returns the elements of t from its first to its last, gaps included. For use while an operator runs.
func f32(t kernels.Tensor) []float32 { return elements[float32](t) }

// f64 is f32 for Float64 tensors.
func f64(t kernels.Tensor) []float64 { return elements[float64](t) }

// i32 is f32 for Int32 tensors.
func i32(t kernels.Tensor) []int32 { return elements[int32](t) }

// bf16 is f32 for BFloat16 tensors, as bits.
func bf16(t kernels.Tensor) []uint16 { return elements[uint16](t) }

func elements[T float32 | float64 | int32 | uint16](t kernels.Tensor) []T {
	b := t.Region().Mapped()
	if len(b) == 0 {
		return nil
	}
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/int(unsafe.Sizeof(zero)))
}

// row returns the position, in elements from the first, of row i of t: the rows are the leading dimensions in order.
func row(t *kernels.Tensor, i int) int {
	at := 0
	for k := t.Rank - 2; k > 0; k-- {
		at += i % t.Shape[k] * t.Stride[k]
		i /= t.Shape[k]
	}
	if t.Rank >= 2 {
		at += i * t.Stride[0]
	}
	return at
}
