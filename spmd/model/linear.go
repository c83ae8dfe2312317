package model

import "lockstep/kernels"

// linear is y = x W^T + b: x [rows,in], W [out,in], y [rows,out]. The bias may be nil, and so may be the LoRA adapters, which
// add to y what they learn. Its methods take the records of the adapters.
type linear struct {
	weight, bias *Use
	lora         *lora
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

func (l *linear) forward(c *Context, r loraRecords, y, x kernels.Tensor) {
	c.Kernels.MatMul(c.Stream, y, x, l.weight.Weight(), kernels.MatMulOptions{TransB: true})
	if l.bias != nil {
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
	c.Kernels.MatMul(c.Stream, dx, dy, l.weight.Weight(), o)
	if l.lora != nil {
		l.lora.backwardInput(c, r[l], dx, dy)
	}
}

// backwardWeight computes, of what is trained, dW = dy^T x, db = the sum of dy over its rows, and the adapters' gradients.
func (l *linear) backwardWeight(c *Context, mb *MicroBatch, r loraRecords, dy, x kernels.Tensor) {
	if !l.weight.frozen() {
		c.Kernels.MatMul(c.Stream, l.weight.Gradient(mb.Gradients), dy, x, kernels.MatMulOptions{TransA: true, Accumulate: mb.Accumulate})
	}
	if l.bias != nil && !l.bias.frozen() {
		c.Kernels.AddBiasBackward(c.Stream, l.bias.Gradient(mb.Gradients), dy, mb.Accumulate)
	}
	if l.lora != nil {
		l.lora.backwardWeight(c, mb, r[l], dy, x)
	}
}
