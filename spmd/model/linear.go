package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// linear is y = x W^T + b: x [rows,in], W [out,in], y [rows,out]. The bias may be nil, and so may be the LoRA adapters, which
// add to y what they learn. Its methods take the records of the adapters.
type linear struct {
	split        split
	weight, bias *Use
	othersBias   bool    // another rank adds the bias
	before       *linear // one of the same input, of which it is the rest
	lora         *lora
}

// A split says what of a linear the tensor ranks share.
type split uint8

const (
	splitNothing split = iota // all ranks have it whole
	splitOutputs              // each has some rows of W
	splitInputs               // each has some columns of W
)

// inTypeOf returns the options o of a product that is to be made in the type of an activation x, or of its gradient, even where
// the other operands are Float32: weights, or logits and the sum that runs through the layers.
func inTypeOf(x kernels.Tensor, o kernels.MatMulOptions) kernels.MatMulOptions {
	o.BFloat16 = x.DType == device.BFloat16
	return o
}

// uses returns the linear's uses.
func (l *linear) uses() []*Use {
	uses := []*Use{l.weight}
	if l.bias != nil {
		uses = append(uses, l.bias)
	}
	if l.lora != nil {
		uses = append(uses, l.lora.uses()...)
	}
	return uses
}

// copies says which of the tensor ranks that have the same outputs this one is.
func (l *linear) copies(i int) {
	for _, u := range l.uses() {
		for _, p := range u.Parameters {
			p.copy = i
		}
	}
}

func (l *linear) forward(c *Context, r loraRecords, y, x kernels.Tensor) {
	c.Kernels.MatMul(c.Stream, y, x, l.weight.Weight(), inTypeOf(x, kernels.MatMulOptions{TransB: true}))
	if l.bias != nil && !l.othersBias {
		c.Kernels.AddBias(c.Stream, y, l.bias.Weight())
	}
	if l.lora != nil {
		l.lora.forward(c, r[l], y, x)
	}
}

// backwardInput computes dx = dy W, and what the adapters add to it.
func (l *linear) backwardInput(c *Context, r loraRecords, dx, dy kernels.Tensor) {
	l.throughWeight(c, r, dx, dy, kernels.MatMulOptions{})
}

// addBackwardInput computes dx += dy W.
func (l *linear) addBackwardInput(c *Context, r loraRecords, dx, dy kernels.Tensor) {
	l.throughWeight(c, r, dx, dy, kernels.MatMulOptions{Accumulate: true})
}

func (l *linear) throughWeight(c *Context, r loraRecords, dx, dy kernels.Tensor, o kernels.MatMulOptions) {
	c.Kernels.MatMul(c.Stream, dx, dy, l.weight.Weight(), inTypeOf(dx, o))
	if l.lora != nil {
		l.lora.backwardInput(c, r[l], dx, dy)
	}
}

// backwardWeight computes, of what is trained, dW = dy^T x, db = the sum of dy over its rows, and the adapters' gradients.
func (l *linear) backwardWeight(c *Context, mb *MicroBatch, r loraRecords, dy, x kernels.Tensor) {
	if !l.weight.frozen() {
		c.Kernels.MatMul(c.Stream, l.weight.Gradient(mb.Gradients), dy, x, inTypeOf(x, kernels.MatMulOptions{TransA: true, Accumulate: mb.Accumulate}))
	}
	if l.bias != nil && !l.bias.frozen() {
		c.Kernels.AddBiasBackward(c.Stream, l.bias.Gradient(mb.Gradients), dy, mb.Accumulate)
	}
	if l.lora != nil {
		l.lora.backwardWeight(c, mb, r[l], dy, x)
	}
}

// joined are linears of one input. Their outputs are columns of one matrix, those of one linear after those of another.
type joined []*linear

// each calls f with the linears and their columns of y.
func (j joined) each(y kernels.Tensor, f func(l *linear, columns kernels.Tensor)) {
	from := 0
	for _, l := range j {
		to := from + l.weight.shape[0]
		f(l, y.Narrow(1, from, to))
		from = to
	}
}

func (j joined) uses() (uses []*Use) {
	for _, l := range j {
		uses = append(uses, l.uses()...)
	}
	return uses
}

func (j joined) forward(c *Context, r loraRecords, y, x kernels.Tensor) {
	j.each(y, func(l *linear, y kernels.Tensor) { l.forward(c, r, y, x) })
}

func (j joined) backwardInput(c *Context, r loraRecords, dx, dy kernels.Tensor) {
	add := false
	j.each(dy, func(l *linear, dy kernels.Tensor) {
		l.throughWeight(c, r, dx, dy, kernels.MatMulOptions{Accumulate: add})
		add = true
	})
}

func (j joined) backwardWeight(c *Context, mb *MicroBatch, r loraRecords, dy, x kernels.Tensor) {
	j.each(dy, func(l *linear, dy kernels.Tensor) { l.backwardWeight(c, mb, r, dy, x) })
}
