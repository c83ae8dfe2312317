package model

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// An Init says how a parameter starts when it is not loaded.
type Init uint8

// Normal draws from a normal distribution of mean 0 and standard deviation initializer_range, as Transformers does for
// linear layers and embeddings; norms start at one and biases at zero.
const (
	Normal Init = iota
	Ones
	Zeros
)

// A Parameter is one trained tensor, under its Hugging Face name.
type Parameter struct {
	Name  string
	Shape []int
	Init  Init
	// Weight is the tensor, once the model is bound to memory.
	Weight kernels.Tensor

	offset int // of the first element in the flat buffer of all parameters
}

// Len returns the number of elements.
func (p *Parameter) Len() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// A Use is a place where a layer uses parameters: one, or several that lie one after the other and work as one matrix
// (q, k and v; gate and up). Each use has gradients of its own; a parameter that is used twice (a tied head) has the
// gradients of its uses added at the end of the step, in the order of the uses.
type Use struct {
	Parameters []*Parameter
	shape      []int
	gradient   int // offset of the first element in a gradient buffer
	weight     kernels.Tensor
}

// newUse joins parameters along their first dimension.
func newUse(ps ...*Parameter) *Use {
	u := &Use{Parameters: ps, shape: append([]int(nil), ps[0].Shape...)}
	for _, p := range ps[1:] {
		u.shape[0] += p.Shape[0]
	}
	return u
}

// Weight returns the joined weights.
func (u *Use) Weight() kernels.Tensor { return u.weight }

// Gradient returns the place of this use's gradient in buffer g.
func (u *Use) Gradient(g kernels.Tensor) kernels.Tensor {
	return kernels.NewTensor(g.Storage, g.Offset+u.gradient*device.Float32.Size(), device.Float32, u.shape...)
}

// span returns the range of this use's gradient in a gradient buffer.
func (u *Use) span() Span {
	n := 0
	for _, p := range u.Parameters {
		n += p.Len()
	}
	return Span{u.gradient, u.gradient + n}
}

// bufferAlign is the alignment of uses in the flat buffers, in elements: whole cache lines and NPU blocks.
const bufferAlign = 128

// A layout places all parameters in one flat buffer of weights, and the gradients of all uses in one flat buffer of the same
// order, so that merging, reducing and clearing gradients are operations on one tensor.
type layout struct {
	weights, gradients int // sizes in elements
	extra              []extraUse
}

// An extraUse is a second or later use of a parameter, whose gradient is added to the first at the end.
type extraUse struct{ first, later *Use }

// place lays out the uses in order. A use whose parameters already have a place shares their weights.
func (l *layout) place(uses []*Use) {
	owner := map[*Parameter]*Use{}
	for _, u := range uses {
		first := u.Parameters[0]
		if o, ok := owner[first]; ok {
			l.extra = append(l.extra, extraUse{first: o, later: u})
			continue
		}
		u.gradient = l.weights
		for _, p := range u.Parameters {
			owner[p] = u
			p.offset = l.weights
			l.weights += p.Len()
		}
		l.weights = align(l.weights)
	}
	l.gradients = l.weights
	for _, e := range l.extra {
		e.later.gradient = l.gradients
		l.gradients = align(l.gradients + e.later.Parameters[0].Len())
	}
}

func align(n int) int { return (n + bufferAlign - 1) / bufferAlign * bufferAlign }

// bind makes the parameters and uses views of the flat buffer.
func bind(flat kernels.Tensor, params []*Parameter, uses []*Use) error {
	at := func(offset int, shape []int) kernels.Tensor {
		return kernels.NewTensor(flat.Storage, flat.Offset+offset*device.Float32.Size(), device.Float32, shape...)
	}
	if flat.DType != device.Float32 {
		return fmt.Errorf("model: the weights' buffer is %v, not float32", flat)
	}
	for _, p := range params {
		p.Weight = at(p.offset, p.Shape)
	}
	for _, u := range uses {
		u.weight = at(u.Parameters[0].offset, u.shape)
	}
	return nil
}
