package model

import (
	"fmt"
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// block is one transformer layer:
//
//	h   = x + Attention(RMSNorm(x))
//	out = h + SwiGLU(RMSNorm(h))
type block struct {
	name                string
	heads, kvHeads, dim int
	hidden              int
	intermediate        int
	scale               float64

	inputNorm  norm   // [H]
	qkv        linear // [(N+2K)D, H]: q, k and v as one matrix
	qNorm      norm   // [D], in families with QK norm
	kNorm      norm   // [D]
	output     linear // [H, N*D]
	postNorm   norm   // [H]
	gateUp     linear // [2I, H]: gate and up as one matrix
	down       linear // [H, I]
	withQKNorm bool
}

// blockRecord is what a block keeps of a micro batch.
type blockRecord struct {
	recompute Recompute

	// From the forward pass: always kept.
	x kernels.Tensor // [B*T,H] the input
	// Kept but for RecomputeFull: what attention took to compute.
	attended, stats kernels.Tensor // [B*T,N*D]; see AttentionSizes
	h               kernels.Tensor // [B*T,H] after attention
	// Kept with KeepAll alone: projections, the most memory, from norms of x and h.
	rstd1        kernels.Tensor // [B*T]
	qkv          kernels.Tensor // [B*T,(N+2K)D] rotated, or as projected with QK norm
	qRstd, kRstd kernels.Tensor // [B*T*N], [B*T*K] with QK norm
	qNormed      kernels.Tensor // [B*T,N*D] normalised and rotated, with QK norm
	kNormed      kernels.Tensor // [B*T,K*D]
	rstd2        kernels.Tensor // [B*T]
	gateUp       kernels.Tensor // [B*T,2I]

	// From BackwardInput for BackwardWeight: gradients of the tensors of the same name.
	dGateUp, dNormed2, dh, dNormed1 kernels.Tensor
	dqkv                            kernels.Tensor // as projected, before QK norm and RoPE
	dqNormed, dkNormed              kernels.Tensor // before RoPE, with QK norm

	// Within one call. BackwardWeight computes the normed inputs and the activation again, to the same bits: that costs one
	// pass over memory each, keeping them for every layer would cost a third of the record.
	normed               kernels.Tensor // [B*T,H] of the input, then of h
	activated            kernels.Tensor // [B*T,I]; in BackwardInput its gradient
	projected            kernels.Tensor // [B*T,H]
	dAttended, workspace kernels.Tensor
}

func newBlock(c *Config, index int, p func(name string, init Init, shape ...int) *Parameter) *block {
	name := fmt.Sprintf("model.layers.%d", index)
	n, k, d, h, i := c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim, c.HiddenSize, c.IntermediateSize
	weight := func(module string, shape ...int) *Parameter { return p(name+"."+module+".weight", Normal, shape...) }
	bias := func(module string, size int) *Parameter { return p(name+"."+module+".bias", Zeros, size) }
	scale := func(module string, size int) norm {
		return norm{weight: newUse(p(name+"."+module+".weight", Ones, size)), eps: c.RMSNormEps}
	}
	b := &block{name: name, heads: n, kvHeads: k, dim: d, hidden: h, intermediate: i, scale: 1 / math.Sqrt(float64(d)), withQKNorm: c.QKNorm}
	b.qkv.weight = newUse(weight("self_attn.q_proj", n*d, h), weight("self_attn.k_proj", k*d, h), weight("self_attn.v_proj", k*d, h))
	if c.QKVBias {
		b.qkv.bias = newUse(bias("self_attn.q_proj", n*d), bias("self_attn.k_proj", k*d), bias("self_attn.v_proj", k*d))
	}
	b.output.weight = newUse(weight("self_attn.o_proj", h, n*d))
	if c.OutputBias {
		b.output.bias = newUse(bias("self_attn.o_proj", h))
	}
	if c.QKNorm {
		b.qNorm, b.kNorm = scale("self_attn.q_norm", d), scale("self_attn.k_norm", d)
	}
	b.gateUp.weight = newUse(weight("mlp.gate_proj", i, h), weight("mlp.up_proj", i, h))
	b.down.weight = newUse(weight("mlp.down_proj", h, i))
	b.inputNorm, b.postNorm = scale("input_layernorm", h), scale("post_attention_layernorm", h)
	return b
}

// Name returns the module's name.
func (b *block) Name() string { return b.name }

// Uses returns the weights.
func (b *block) Uses() []*Use {
	uses := append(b.qkv.uses(), b.output.uses()...)
	if b.withQKNorm {
		uses = append(uses, b.qNorm.weight, b.kNorm.weight)
	}
	uses = append(append(uses, b.gateUp.uses()...), b.down.uses()...)
	return append(uses, b.inputNorm.weight, b.postNorm.weight)
}

// NewRecord places a blockRecord.
func (b *block) NewRecord(k kernels.Operators, size Size, m *Memory) Record {
	t, nd, kd := size.Tokens(), b.heads*b.dim, b.kvHeads*b.dim
	r := &blockRecord{recompute: m.Recompute}
	at := func(a *kernels.Arena, shape ...int) kernels.Tensor { return a.Tensor(device.Float32, shape...) }
	mark := m.Scratch.Mark()
	attention, projections := m.Saved, m.Saved
	if m.Recompute != KeepAll {
		projections = m.Scratch
	}
	if m.Recompute == RecomputeFull {
		attention = m.Scratch
	}
	r.rstd1, r.qkv = at(projections, t), at(projections, t, nd+2*kd)
	if b.withQKNorm {
		r.qRstd, r.qNormed = at(projections, t*b.heads), at(projections, t, nd)
		r.kRstd, r.kNormed = at(projections, t*b.kvHeads), at(projections, t, kd)
	}
	q, key, value := b.attentionInputs(r, size)
	statistics, workspace := k.AttentionSizes(q, key, value)
	r.attended, r.stats, r.h = at(attention, t, nd), at(attention, statistics...), at(attention, t, b.hidden)
	r.rstd2, r.gateUp = at(projections, t), at(projections, t, 2*b.intermediate)

	r.normed, r.activated = at(m.Scratch, t, b.hidden), at(m.Scratch, t, b.intermediate)
	both := m.Scratch.Mark()
	r.projected = at(m.Scratch, t, b.hidden)
	m.Scratch.Release(both)
	r.dGateUp, r.dNormed2, r.dh = at(m.Delayed, t, 2*b.intermediate), at(m.Delayed, t, b.hidden), at(m.Delayed, t, b.hidden)
	r.dqkv, r.dNormed1 = at(m.Delayed, t, nd+2*kd), at(m.Delayed, t, b.hidden)
	if b.withQKNorm {
		r.dqNormed, r.dkNormed = at(m.Delayed, t, nd), at(m.Delayed, t, kd)
	}
	r.dAttended = at(m.Scratch, t, nd)
	r.workspace = m.Scratch.Tensor(device.Uint8, workspace)
	m.Scratch.Release(mark)
	return r
}

// heads4 views columns [from, to) of x [B*T, ..] as heads: [B,T,heads,D].
func heads4(x kernels.Tensor, size Size, from, heads, dim int) kernels.Tensor {
	return x.Narrow(1, from, from+heads*dim).Split(1, heads, dim).Split(0, size.Batch, size.Sequence)
}

// projections views x [B*T,(N+2K)D] as q [B,T,N,D], k and v [B,T,K,D].
func (b *block) projections(x kernels.Tensor, size Size) (q, k, v kernels.Tensor) {
	n, kv, d := b.heads, b.kvHeads, b.dim
	return heads4(x, size, 0, n, d), heads4(x, size, n*d, kv, d), heads4(x, size, (n+kv)*d, kv, d)
}

// attentionInputs returns q, k and v as attention sees them, normalised and rotated.
func (b *block) attentionInputs(r *blockRecord, size Size) (q, k, v kernels.Tensor) {
	q, k, v = b.projections(r.qkv, size)
	if b.withQKNorm {
		q, k = heads4(r.qNormed, size, 0, b.heads, b.dim), heads4(r.kNormed, size, 0, b.kvHeads, b.dim)
	}
	return q, k, v
}

// Forward computes out from in.
func (b *block) Forward(c *Context, record Record, mb *MicroBatch, in, out kernels.Tensor) {
	r := record.(*blockRecord)
	r.x = in
	b.attend(c, r, mb)
	b.finish(c, r, out)
}

// Recompute fills what the record does not keep.
func (b *block) Recompute(c *Context, record Record, mb *MicroBatch) {
	r := record.(*blockRecord)
	if r.recompute == RecomputeFull {
		b.attend(c, r, mb)
		b.addAttention(c, r)
	} else {
		b.project(c, r, mb.Positions)
		b.postNorm.forward(c, r.normed, r.rstd2, r.h)
	}
	b.gateUp.forward(c, r.gateUp, r.normed)
}

// attend computes r.attended from r.x.
func (b *block) attend(c *Context, r *blockRecord, mb *MicroBatch) {
	q, k, v := b.project(c, r, mb.Positions)
	o := heads4(r.attended, c.Size, 0, b.heads, b.dim)
	c.Kernels.Attention(c.Stream, o, r.stats, q, k, v, b.attention(mb))
}

// attention returns the options of a micro batch's attention.
func (b *block) attention(mb *MicroBatch) kernels.AttentionOptions {
	return kernels.AttentionOptions{Scale: b.scale, Causal: true, Documents: mb.Documents}
}

// project computes attention's inputs from r.x, at the given positions or, where there are none, those of the tables.
func (b *block) project(c *Context, r *blockRecord, positions kernels.Tensor) (q, k, v kernels.Tensor) {
	b.inputNorm.forward(c, r.normed, r.rstd1, r.x)
	b.qkv.forward(c, r.qkv, r.normed)
	q, k, v = b.attentionInputs(r, c.Size)
	if b.withQKNorm {
		qIn, kIn, _ := b.projections(r.qkv, c.Size)
		b.qNorm.forward(c, q, r.qRstd, qIn)
		b.kNorm.forward(c, k, r.kRstd, kIn)
	}
	c.Kernels.RoPE(c.Stream, q, q, c.Cos, c.Sin, positions, false)
	c.Kernels.RoPE(c.Stream, k, k, c.Cos, c.Sin, positions, false)
	return q, k, v
}

// finish computes out from what attention left in r.attended.
func (b *block) finish(c *Context, r *blockRecord, out kernels.Tensor) {
	b.addAttention(c, r)
	b.gateUp.forward(c, r.gateUp, r.normed)
	c.Kernels.SwiGLU(c.Stream, r.activated, r.gateUp)
	b.down.forward(c, r.projected, r.activated)
	c.Kernels.Add(c.Stream, out, r.h, r.projected)
}

// addAttention computes r.h and its norm from r.x and r.attended.
func (b *block) addAttention(c *Context, r *blockRecord) {
	b.output.forward(c, r.projected, r.attended)
	b.postNorm.forwardSum(c, r.normed, r.rstd2, r.h, r.x, r.projected)
}

// BackwardInput computes din from dout, both [B*T,H].
func (b *block) BackwardInput(c *Context, record Record, mb *MicroBatch, dout, din kernels.Tensor) {
	r := record.(*blockRecord)
	b.down.backwardInput(c, r.activated, dout)
	c.Kernels.SwiGLUBackward(c.Stream, r.dGateUp, r.activated, r.gateUp)
	b.gateUp.backwardInput(c, r.dNormed2, r.dGateUp)
	b.postNorm.backwardInput(c, r.dh, r.dNormed2, r.h, r.rstd2, dout)

	b.output.backwardInput(c, r.dAttended, r.dh)
	b.backwardAttention(c, r, mb)
	b.qkv.backwardInput(c, r.dNormed1, r.dqkv)
	b.inputNorm.backwardInput(c, din, r.dNormed1, r.x, r.rstd1, r.dh)
}

// backwardAttention computes r.dqkv from r.dAttended: through attention, RoPE and QK norm.
func (b *block) backwardAttention(c *Context, r *blockRecord, mb *MicroBatch) {
	q, k, v := b.attentionInputs(r, c.Size)
	dqIn, dkIn, dv := b.projections(r.dqkv, c.Size)
	dq, dk := dqIn, dkIn
	if b.withQKNorm {
		dq, dk = heads4(r.dqNormed, c.Size, 0, b.heads, b.dim), heads4(r.dkNormed, c.Size, 0, b.kvHeads, b.dim)
	}
	o, do := heads4(r.attended, c.Size, 0, b.heads, b.dim), heads4(r.dAttended, c.Size, 0, b.heads, b.dim)
	c.Kernels.AttentionBackward(c.Stream, dq, dk, dv, do, q, k, v, o, r.stats, r.workspace, b.attention(mb))
	c.Kernels.RoPE(c.Stream, dq, dq, c.Cos, c.Sin, mb.Positions, true)
	c.Kernels.RoPE(c.Stream, dk, dk, c.Cos, c.Sin, mb.Positions, true)
	if b.withQKNorm {
		qIn, kIn, _ := b.projections(r.qkv, c.Size)
		b.qNorm.backwardInput(c, dqIn, dq, qIn, r.qRstd, kernels.Tensor{})
		b.kNorm.backwardInput(c, dkIn, dk, kIn, r.kRstd, kernels.Tensor{})
	}
}

// BackwardWeight computes the gradients of all weights.
func (b *block) BackwardWeight(c *Context, record Record, mb *MicroBatch, dout kernels.Tensor) {
	r := record.(*blockRecord)
	b.inputNorm.forward(c, r.normed, r.rstd1, r.x)
	b.qkv.backwardWeight(c, mb, r.dqkv, r.normed)
	b.output.backwardWeight(c, mb, r.dh, r.attended)
	if b.withQKNorm {
		qIn, kIn, _ := b.projections(r.qkv, c.Size)
		b.qNorm.backwardWeight(c, mb, heads4(r.dqNormed, c.Size, 0, b.heads, b.dim), qIn, r.qRstd)
		b.kNorm.backwardWeight(c, mb, heads4(r.dkNormed, c.Size, 0, b.kvHeads, b.dim), kIn, r.kRstd)
	}
	b.postNorm.forward(c, r.normed, r.rstd2, r.h)
	b.gateUp.backwardWeight(c, mb, r.dGateUp, r.normed)
	c.Kernels.SwiGLU(c.Stream, r.activated, r.gateUp)
	b.down.backwardWeight(c, mb, dout, r.activated)
	b.inputNorm.backwardWeight(c, mb, r.dNormed1, r.x, r.rstd1)
	b.postNorm.backwardWeight(c, mb, r.dNormed2, r.h, r.rstd2)
}
