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
	// Untrained says that no gradient changes it: it has none, and no optimizer state.
	Untrained bool
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
// gradients of its uses added at the end of the step.
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

// rows returns the place of the first n rows of this use's gradient in buffer g, where it consists of touched rows.
func (u *Use) rows(g kernels.Tensor, n int) kernels.Tensor {
	return kernels.NewTensor(g.Storage, g.Offset+u.gradient*device.Float32.Size(), device.Float32, n, u.shape[1])
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
// order, so that merging, reducing and clearing gradients are operations on one tensor. The embedding's gradient has no
// place for each row of its table: its touched rows are at the end, so many as there are.
type layout struct {
	weights, dense int // sizes in elements; dense is that of the gradients without the rows
}

// place lays out the uses in order, then the embedding's table, and then what has no gradients. A tied table is that of
// another use.
func (l *layout) place(uses []*Use, table *Use) {
	tied := false
	for _, u := range uses {
		if u == table || u.Parameters[0].Untrained {
			continue
		}
		tied = tied || u.Parameters[0] == table.Parameters[0]
		l.placeUse(u)
	}
	l.dense = l.weights
	if !tied {
		l.placeUse(table)
	}
	table.gradient = l.dense
	for _, u := range uses {
		if u.Parameters[0].Untrained {
			l.placeUse(u)
		}
	}
}

// placeUse gives the parameters of a use the next place.
func (l *layout) placeUse(u *Use) {
	u.gradient = l.weights
	for _, p := range u.Parameters {
		p.offset = l.weights
		l.weights += p.Len()
	}
	l.weights = align(l.weights)
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
