package model

import (
	"fmt"

	"lockstep/kernels"
)

// block is one transformer layer:
//
//	h   = x + attention(RMSNorm(x))
//	out = h + feedForward(RMSNorm(h))
type block struct {
	name        string
	hidden      int
	inputNorm   norm // [H]
	attention   attention
	postNorm    norm // [H]
	feedForward part
}

// A part is one half of a block, between a norm and a residual sum: it computes y from the normed input x, both [B*T,H].
// What BackwardWeight needs of x is computed again by the block.
type part interface {
	uses() []*Use
	// linears lists what LoRA can adapt.
	linears() []*linear
	// newRecord places what one micro batch needs; the block releases the scratch memory.
	newRecord(k kernels.Operators, size Size, m *Memory) Record
	forward(c *Context, r Record, mb *MicroBatch, y, x kernels.Tensor)
	// recompute fills what the record does not keep, from x.
	recompute(c *Context, r Record, mb *MicroBatch, x kernels.Tensor)
	backwardInput(c *Context, r Record, mb *MicroBatch, dx, dy kernels.Tensor)
	backwardWeight(c *Context, r Record, mb *MicroBatch, dy, x kernels.Tensor)
}

// attention is a part that mixes tokens, and can go on from the keys and values of earlier ones.
type attention interface {
	part
	// project computes y from the attended values that the record holds: the end of forward.
	project(c *Context, r Record, y kernels.Tensor)
	newCache(a *kernels.Arena, positions int) cache
	// decode computes y from x at position at, with what the cache holds of all positions before.
	decode(c *Context, r Record, kv cache, at int, y, x kernels.Tensor)
}

// blockRecord is what a block keeps of a micro batch, beside what its parts keep. S is the number of tokens that this rank
// holds: B*T, or a part of those with sequence parallelism.
type blockRecord struct {
	recompute              Recompute
	split                  bool // BackwardWeight runs apart from BackwardInput
	attention, feedForward Record

	x            kernels.Tensor // [S,H] the input, always kept
	h            kernels.Tensor // [S,H] after attention, kept but for RecomputeFull
	rstd1, rstd2 kernels.Tensor // [S] of the norms of x and h, kept with KeepAll alone

	// From BackwardInput for BackwardWeight: gradients of the tensors of the same name.
	dNormed2, dh, dNormed1 kernels.Tensor // [S,H]

	// Within one call. BackwardWeight computes the normed inputs again, to the same bits: that costs one pass over memory
	// each, keeping them for every layer would cost a fifth of the record.
	normed    kernels.Tensor // [B*T,H] of the input, then of h
	projected kernels.Tensor // [B*T,H] what a part gives, or this rank's part of the sum that it is
	// The gradients of the output and of h for all tokens, where this rank holds a part of them. They live on to BackwardWeight
	// unless that runs apart: then they are gathered once more.
	wholeOut, wholeH kernels.Tensor // [B*T,H]
}

// A builder makes the parameters of a model, which it lists in the order of their making.
type builder struct {
	config *Config
	Partition
	parameters []*Parameter
}

// parameter makes a parameter that this rank holds whole.
func (b *builder) parameter(name string, init Init, shape ...int) *Parameter {
	p := b.Partition.parameter(name, init, shape...)
	b.parameters = append(b.parameters, p)
	return p
}

// weight makes the weight matrix [out,in] of a module.
func (b *builder) weight(module string, out, in int) *Parameter {
	return b.parameter(module+".weight", Normal, out, in)
}

// linear makes a linear layer of one module that all tensor ranks have whole, with a bias where it has one.
func (b *builder) linear(module string, out, in int, bias bool, r Reducers) linear {
	l := linear{weight: newUse(r, b.weight(module, out, in))}
	if bias {
		l.bias = newUse(r, b.parameter(module+".bias", Zeros, out))
	}
	return l
}

// A module is one of the projections that a linear consists of, [out,in], of which this rank has the outputs [from, to).
type module struct {
	name          string
	out, from, to int
}

// outputs makes a linear layer of modules of which the tensor ranks have some outputs each (column-parallel in Megatron-LM's
// terms).
func (b *builder) outputs(r Reducers, in int, bias bool, modules ...module) *linear {
	var weights, biases []*Parameter
	for _, m := range modules {
		weights = append(weights, b.weight(m.name, m.out, in).cut(0, m.from, m.to))
	}
	l := &linear{split: splitOutputs, weight: newUse(r, weights...)}
	if bias {
		for _, m := range modules {
			biases = append(biases, b.parameter(m.name+".bias", Zeros, m.out).cut(0, m.from, m.to))
		}
		l.bias = newUse(r, biases...)
	}
	return l
}

// inputs makes a linear layer of which this rank has the inputs [from, to) (row-parallel in Megatron-LM's terms): what it gives
// is a part of the sum over the tensor ranks. The first of them adds the bias.
func (b *builder) inputs(name string, out, in, from, to int, bias bool) linear {
	l := linear{split: splitInputs, weight: newUse(Replicas, b.weight(name, out, in).cut(1, from, to))}
	if bias {
		l.bias, l.othersBias = newUse(Replicas, b.parameter(name+".bias", Zeros, out)), b.TensorRank > 0
	}
	return l
}

// norm makes a norm.
func (b *builder) norm(module string, size int, eps float64, r Reducers) norm {
	return norm{weight: newUse(r, b.parameter(module+".weight", Ones, size)), eps: eps}
}

func newBlock(b *builder, index int) *block {
	c, name := b.config, fmt.Sprintf("model.layers.%d", index)
	l := &block{name: name, hidden: c.HiddenSize}
	if c.Latent != nil {
		l.attention = newLatentAttention(b, name+".self_attn")
	} else {
		l.attention = newSelfAttention(b, name+".self_attn")
	}
	if c.Sparse(index) {
		l.feedForward = newMixture(b, name+".mlp", index)
	} else {
		l.feedForward = newFeedForward(b, name+".mlp", c.IntermediateSize)
	}
	l.inputNorm = b.norm(name+".input_layernorm", c.HiddenSize, c.RMSNormEps, b.perToken())
	l.postNorm = b.norm(name+".post_attention_layernorm", c.HiddenSize, c.RMSNormEps, b.perToken())
	return l
}

// Name returns the module's name.
func (b *block) Name() string { return b.name }

// Uses returns the weights.
func (b *block) Uses() []*Use {
	return append(append(b.attention.uses(), b.feedForward.uses()...), b.inputNorm.weight, b.postNorm.weight)
}

// linears returns the linears that LoRA can adapt.
func (b *block) linears() []*linear { return append(b.attention.linears(), b.feedForward.linears()...) }

// NewRecord places a blockRecord.
func (b *block) NewRecord(k kernels.Operators, size Size, m *Memory) Record {
	t := size.Held()
	r := &blockRecord{recompute: m.Recompute, split: m.split()}
	mark := m.mark()
	r.h = m.residual(m.keep(RecomputeSelective), t, b.hidden)
	r.rstd1, r.rstd2 = m.statistic(m.keep(KeepAll), t), m.statistic(m.keep(KeepAll), t)
	r.normed, r.projected = m.exchanged(size, b.hidden), m.exchanged(size, b.hidden)
	r.wholeOut, r.wholeH = m.gathered(m.Residual, size, b.hidden), m.gathered(m.Residual, size, b.hidden)
	r.dNormed2, r.dNormed1 = m.activation(m.Delayed, t, b.hidden), m.activation(m.Delayed, t, b.hidden)
	r.dh = m.residual(m.Delayed, t, b.hidden)
	r.attention = b.attention.newRecord(k, size, m)
	r.feedForward = b.feedForward.newRecord(k, size, m)
	m.release(mark)
	return r
}

// normInput computes r.normed from r.x.
func (b *block) normInput(c *Context, r *blockRecord) {
	b.inputNorm.forward(c, c.held(r.normed), r.rstd1, r.x)
	c.gather(r.normed)
}

// normAttended computes r.normed from r.h.
func (b *block) normAttended(c *Context, r *blockRecord) {
	b.postNorm.forward(c, c.held(r.normed), r.rstd2, r.h)
	c.gather(r.normed)
}

// addAttended computes r.h, and from it r.normed, from what attention left in r.projected.
func (b *block) addAttended(c *Context, r *blockRecord) {
	c.reduce(r.projected)
	b.postNorm.forwardSum(c, c.held(r.normed), r.rstd2, r.h, r.x, c.held(r.projected))
	c.gather(r.normed)
}

// Forward computes out from in.
func (b *block) Forward(c *Context, record Record, mb *MicroBatch, in, out kernels.Tensor) {
	r := record.(*blockRecord)
	r.x = in
	b.normInput(c, r)
	b.attention.forward(c, r.attention, mb, r.projected, r.normed)
	b.finish(c, r, mb, out)
}

// finish computes out from what attention left in r.projected.
func (b *block) finish(c *Context, r *blockRecord, mb *MicroBatch, out kernels.Tensor) {
	b.addAttended(c, r)
	b.feedForward.forward(c, r.feedForward, mb, r.projected, r.normed)
	c.reduce(r.projected)
	c.Kernels.Add(c.Stream, out, r.h, c.held(r.projected))
}

// Recompute fills what the record does not keep.
func (b *block) Recompute(c *Context, record Record, mb *MicroBatch) {
	r := record.(*blockRecord)
	b.normInput(c, r)
	b.attention.recompute(c, r.attention, mb, r.normed)
	if r.recompute == RecomputeFull {
		b.attention.project(c, r.attention, r.projected)
		b.addAttended(c, r)
	} else {
		b.normAttended(c, r)
	}
	b.feedForward.recompute(c, r.feedForward, mb, r.normed)
}

// BackwardInput computes din from dout, both [S,H].
func (b *block) BackwardInput(c *Context, record Record, mb *MicroBatch, dout, din kernels.Tensor) {
	r := record.(*blockRecord)
	if m, ok := r.feedForward.(*mixtureRecord); ok && m.rounds() > 1 {
		b.normAttended(c, r) // further rounds need it, see dispatch.go
	}
	b.feedForward.backwardInput(c, r.feedForward, mb, c.addend(r.dNormed2, r.projected), c.whole(r.wholeOut, dout))
	c.total(r.dNormed2, r.projected)
	b.postNorm.backwardInput(c, r.dh, r.dNormed2, r.h, r.rstd2, dout)
	b.attention.backwardInput(c, r.attention, mb, c.addend(r.dNormed1, r.projected), c.whole(r.wholeH, r.dh))
	c.total(r.dNormed1, r.projected)
	b.inputNorm.backwardInput(c, din, r.dNormed1, r.x, r.rstd1, r.dh)
}

// BackwardWeight computes the gradients of all weights that are trained.
func (b *block) BackwardWeight(c *Context, record Record, mb *MicroBatch, dout kernels.Tensor) {
	r := record.(*blockRecord)
	wholeOut, wholeH := r.gathered(c, dout)
	b.normInput(c, r)
	b.attention.backwardWeight(c, r.attention, mb, wholeH, r.normed)
	b.normAttended(c, r)
	b.feedForward.backwardWeight(c, r.feedForward, mb, wholeOut, r.normed)
	b.inputNorm.backwardWeight(c, mb, r.dNormed1, r.x, r.rstd1)
	b.postNorm.backwardWeight(c, mb, r.dNormed2, r.h, r.rstd2)
}

// gathered returns the gradients of the output and of h for all tokens, as BackwardInput has left them or once more.
func (r *blockRecord) gathered(c *Context, dout kernels.Tensor) (out, h kernels.Tensor) {
	if !r.wholeOut.IsZero() && !r.split {
		return r.wholeOut, r.wholeH
	}
	return c.whole(r.wholeOut, dout), c.whole(r.wholeH, r.dh)
}
