package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// feedForward is y = (silu(x Wg^T) * (x Wu^T)) Wd^T.
type feedForward struct {
	intermediate int
	gateUp       linear // [2I,H]: gate and up as one matrix
	down         linear // [H,I]
}

// feedForwardRecord is what a feedForward keeps of a micro batch.
type feedForwardRecord struct {
	gateUp  kernels.Tensor // [B*T,2I], kept with KeepAll alone
	dGateUp kernels.Tensor // [B*T,2I], for the gradients of weights
	// activated is scratch memory [B*T,I]: the activation, which is computed again for the gradients of weights, and in
	// between its gradient.
	activated kernels.Tensor
}

func newFeedForward(b *builder, name string, intermediate int) *feedForward {
	h := b.config.HiddenSize
	f := &feedForward{intermediate: intermediate}
	f.gateUp.weight = newUse(b.weight(name+".gate_proj", intermediate, h), b.weight(name+".up_proj", intermediate, h))
	f.down = b.linear(name+".down_proj", h, intermediate, false)
	return f
}

func (f *feedForward) uses() []*Use { return append(f.gateUp.uses(), f.down.uses()...) }

func (f *feedForward) newRecord(_ kernels.Operators, size Size, m *Memory) Record {
	t, i := size.Tokens(), f.intermediate
	return &feedForwardRecord{
		gateUp:    m.keep(KeepAll).Tensor(device.Float32, t, 2*i),
		dGateUp:   m.Delayed.Tensor(device.Float32, t, 2*i),
		activated: m.Scratch.Tensor(device.Float32, t, i),
	}
}

func (f *feedForward) forward(c *Context, record Record, mb *MicroBatch, y, x kernels.Tensor) {
	r := record.(*feedForwardRecord)
	f.recompute(c, r, mb, x)
	c.Kernels.SwiGLU(c.Stream, r.activated, r.gateUp)
	f.down.forward(c, y, r.activated)
}

func (f *feedForward) recompute(c *Context, record Record, _ *MicroBatch, x kernels.Tensor) {
	f.gateUp.forward(c, record.(*feedForwardRecord).gateUp, x)
}

func (f *feedForward) backwardInput(c *Context, record Record, _ *MicroBatch, dx, dy kernels.Tensor) {
	r := record.(*feedForwardRecord)
	f.throughActivation(c, r, dy)
	f.gateUp.backwardInput(c, dx, r.dGateUp)
}

// throughActivation computes r.dGateUp from dy.
func (f *feedForward) throughActivation(c *Context, r *feedForwardRecord, dy kernels.Tensor) {
	f.down.backwardInput(c, r.activated, dy)
	c.Kernels.SwiGLUBackward(c.Stream, r.dGateUp, r.activated, r.gateUp)
}

func (f *feedForward) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*feedForwardRecord)
	f.gateUp.backwardWeight(c, mb, r.dGateUp, x)
	c.Kernels.SwiGLU(c.Stream, r.activated, r.gateUp)
	f.down.backwardWeight(c, mb, dy, r.activated)
}
