package model

import "lockstep/kernels"

// feedForward is y = (silu(x Wg^T) * (x Wu^T)) Wd^T.
type feedForward struct {
	intermediate int    // this rank's part of I
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
	lora      loraRecords
}

func newFeedForward(b *builder, name string, intermediate int) *feedForward {
	h := b.config.HiddenSize
	first, end := b.cut(intermediate)
	f := &feedForward{intermediate: end - first}
	f.gateUp = *b.outputs(Replicas, h, false, module{name + ".gate_proj", intermediate, first, end}, module{name + ".up_proj", intermediate, first, end})
	f.down = b.inputs(name+".down_proj", h, intermediate, first, end, false)
	return f
}

func (f *feedForward) uses() []*Use { return append(f.gateUp.uses(), f.down.uses()...) }

func (f *feedForward) linears() []*linear { return []*linear{&f.gateUp, &f.down} }

func (f *feedForward) newRecord(_ kernels.Operators, size Size, m *Memory) Record {
	t, i := size.Tokens(), f.intermediate
	r := &feedForwardRecord{
		gateUp:    m.activation(m.keep(KeepAll), t, 2*i),
		dGateUp:   m.activation(m.Delayed, t, 2*i),
		activated: m.activation(m.Scratch, t, i),
	}
	r.lora.place(t, m.keep(KeepAll), m, &f.gateUp)
	r.lora.place(t, m.Saved, m, &f.down)
	return r
}

func (f *feedForward) forward(c *Context, record Record, mb *MicroBatch, y, x kernels.Tensor) {
	f.intoActivation(c, record, mb, x)
	f.outOfActivation(c, record, y)
}

// intoActivation is the first part of forward, outOfActivation the second.
func (f *feedForward) intoActivation(c *Context, record Record, mb *MicroBatch, x kernels.Tensor) {
	r := record.(*feedForwardRecord)
	r.lora.begin(mb)
	f.recompute(c, r, mb, x)
}

func (f *feedForward) outOfActivation(c *Context, record Record, y kernels.Tensor) {
	r := record.(*feedForwardRecord)
	c.Kernels.SwiGLU(c.Stream, r.activated, r.gateUp)
	f.down.forward(c, r.lora, y, r.activated)
}

func (f *feedForward) recompute(c *Context, record Record, _ *MicroBatch, x kernels.Tensor) {
	r := record.(*feedForwardRecord)
	f.gateUp.forward(c, r.lora, r.gateUp, x)
}

func (f *feedForward) backwardInput(c *Context, record Record, _ *MicroBatch, dx, dy kernels.Tensor) {
	r := record.(*feedForwardRecord)
	f.throughActivation(c, r, dy)
	f.gateUp.backwardInput(c, r.lora, dx, r.dGateUp)
}

// throughActivation computes r.dGateUp from dy.
func (f *feedForward) throughActivation(c *Context, r *feedForwardRecord, dy kernels.Tensor) {
	f.down.backwardInput(c, r.lora, r.activated, dy)
	c.Kernels.SwiGLUBackward(c.Stream, r.dGateUp, r.activated, r.gateUp)
}

func (f *feedForward) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*feedForwardRecord)
	f.gateUp.backwardWeight(c, mb, r.lora, r.dGateUp, x)
	c.Kernels.SwiGLU(c.Stream, r.activated, r.gateUp)
	f.down.backwardWeight(c, mb, r.lora, dy, r.activated)
}
