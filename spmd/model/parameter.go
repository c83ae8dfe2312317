package model

import (
	"fmt"
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/shard"
)

// An Init says how a parameter starts when it is not loaded.
type Init uint8

// Normal draws from a normal distribution of mean 0 and standard deviation initializer_range, as Transformers does for
// linear layers and embeddings; norms start at one and biases at zero. Uniform draws from [-b, b) with b one over the root of
// the last dimension, as PyTorch's linear layers and PEFT's lora_A begin.
const (
	Normal Init = iota
	Ones
	Zeros
	Uniform
)

// A Parameter is one tensor of the model, under its Hugging Face name, or the part of it that this rank holds.
type Parameter struct {
	Name string
	// Shape is that of the part in memory.
	Shape []int
	// Slice says which part of the whole tensor it is.
	Slice shard.Slice
	Init  Init
	// Untrained says that no gradient changes it: it has none, and no optimizer state.
	Untrained bool
	// Weight is the tensor, once the model is bound to memory.
	Weight kernels.Tensor

	elsewhere bool // it is of an expert that another rank holds
	copy      int  // which of the tensor ranks that hold the same part this one is
	frozen    bool // see Model.Tune
	adapter   bool // it is a matrix of LoRA, not of the model's own
	offset    int  // of the first element in the flat buffer of the trained parameters, unless all of its Use is frozen
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
	reducers   Reducers
	shape      []int
	gradient   int  // offset of the first element in a gradient buffer
	row        int  // of a use of the embedding's table: how many uses' touched rows come before its own in a gradient buffer
	borrowed   bool // of such a use: the weights are another rank's, and this one has the touched rows of a step
	weight     kernels.Tensor
	place      int // of a frozen use: offset in the buffer of the frozen weights, in bytes
	dtype      device.DType
}

// newUse joins parameters along their first dimension.
func newUse(r Reducers, ps ...*Parameter) *Use {
	u := &Use{Parameters: ps, reducers: r, shape: append([]int(nil), ps[0].Shape...), dtype: device.Float32}
	for _, p := range ps[1:] {
		u.shape[0] += p.Shape[0]
	}
	return u
}

// frozen reports whether the use has no gradient: all of its parameters are frozen. Where some are not, the others are left
// out when the weights are updated.
func (u *Use) frozen() bool {
	for _, p := range u.Parameters {
		if !p.frozen {
			return false
		}
	}
	return true
}

// trained reports whether gradients change the use.
func (u *Use) trained() bool { return !u.Parameters[0].Untrained && !u.frozen() }

// Weight returns the joined weights.
func (u *Use) Weight() kernels.Tensor { return u.weight }

// Gradient returns the place of this use's gradient in buffer g.
func (u *Use) Gradient(g kernels.Tensor) kernels.Tensor {
	return kernels.NewTensor(g.Storage, g.Offset+u.gradient*device.Float32.Size(), device.Float32, u.shape...)
}

// rows returns the place of the n rows of this use's gradient in buffer g, where it consists of touched rows.
func (u *Use) rows(g kernels.Tensor, n int) kernels.Tensor {
	at := u.gradient + u.row*n*u.shape[1]
	return kernels.NewTensor(g.Storage, g.Offset+at*device.Float32.Size(), device.Float32, n, u.shape[1])
}

// elements returns the number of elements of the joined weights.
func (u *Use) elements() int {
	n := 0
	for _, p := range u.Parameters {
		n += p.Len()
	}
	return n
}

// bufferAlign is the alignment of uses in the flat buffers, in elements: whole cache lines and NPU blocks.
const bufferAlign = 128

// A layout places all trained parameters in one flat buffer of weights, and the gradients of all uses in one flat buffer of the
// same order, so that merging, reducing and clearing gradients are operations on one tensor, or on one for each set of ranks that
// add up their gradients. The embedding's gradient has no place for each row of its table: its touched rows are at the end, so
// many as there are, and those of each further use of the table. Frozen uses have a buffer of their own, and no gradient.
type layout struct {
	weights, dense int // sizes in elements; dense is that of the gradients without the rows
	frozen         int // size in bytes
	regions        []Region
}

// place lays out the uses, region by region in order, then the embedding's table where it is this rank's and no other use has
// placed it, and then what has no gradients.
func (l *layout) place(uses []*Use, t *table) {
	var tied *Use // the other use of a tied table
	for r := range NumReducers {
		from := l.weights
		for _, u := range uses {
			if u.reducers != r || slices.Contains(t.uses, u) || u.Parameters[0].Untrained {
				continue
			}
			l.placeUse(u)
			if u.Parameters[0] == t.parameter() {
				tied = u
			}
		}
		if l.weights > from || r == Replicas { // those of the touched rows
			l.regions = append(l.regions, Region{r, Span{from, l.weights}})
		}
	}
	l.dense = l.weights
	first := t.uses[0]
	switch {
	case tied != nil:
		first.place = tied.place
	case t.owned:
		l.placeUse(first)
	}
	for i, u := range t.here {
		u.gradient, u.place, u.row = l.dense, first.place, i
	}
	for _, u := range uses {
		if u.Parameters[0].Untrained {
			l.placeUse(u)
		}
	}
}

// placeUse gives the parameters of a use the next place.
func (l *layout) placeUse(u *Use) {
	elements := u.elements()
	if u.frozen() {
		u.place = l.frozen
		l.frozen += align(elements) * u.dtype.Size()
		return
	}
	u.gradient = l.weights
	for _, p := range u.Parameters {
		p.offset = l.weights
		l.weights += p.Len()
	}
	l.weights = align(l.weights)
}

func align(n int) int { return (n + bufferAlign - 1) / bufferAlign * bufferAlign }

// bind makes the parameters and uses views of the flat buffer of trained weights and of the buffer of frozen ones.
func bind(flat, frozen kernels.Tensor, uses []*Use) error {
	if !flat.IsZero() && flat.DType != device.Float32 {
		return fmt.Errorf("model: the weights' buffer is %v, not float32", flat)
	}
	for _, u := range uses {
		storage, at := flat.Storage, flat.Offset+u.Parameters[0].offset*u.dtype.Size()
		if u.frozen() {
			storage, at = frozen.Storage, frozen.Offset+u.place
		}
		u.weight = kernels.NewTensor(storage, at, u.dtype, u.shape...)
		for _, p := range u.Parameters {
			p.Weight = kernels.NewTensor(storage, at, u.dtype, p.Shape...)
			at += p.Weight.Bytes()
		}
	}
	return nil
}
