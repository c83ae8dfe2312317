package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// selfAttention is attention whose queries, keys and values are projected from the hidden state, several heads of queries
// sharing one of keys and values.
type selfAttention struct {
	heads, kvHeads, dim int // of this rank's
	core                coreAttention
	rope                kernels.RoPEOptions

	qkv        joined // [(N+2K)D, H]: q, k and v as one matrix; as two where tensor ranks share key-value heads
	qNorm      norm   // [D], in families with QK norm
	kNorm      norm   // [D]
	output     linear // [H, N*D]
	withQKNorm bool
}

// selfAttentionRecord is what selfAttention keeps of a micro batch.
type selfAttentionRecord struct {
	full bool // nothing is kept
	lora loraRecords

	// Kept but for RecomputeFull: what attention took to compute.
	attended kernels.Tensor // [B*T,N*D]
	core     *coreRecord
	// Kept with KeepAll alone, and what attention reads is not where Ulysses ranks keep it.
	qkv          kernels.Tensor // [B*T,(N+2K)D] rotated, or as projected with QK norm
	qRstd, kRstd kernels.Tensor // [B*T*N], [B*T*K] with QK norm
	qNormed      kernels.Tensor // [B*T,N*D] normalised and rotated, with QK norm
	kNormed      kernels.Tensor // [B*T,K*D]

	// For the gradients of weights.
	dqkv               kernels.Tensor // as projected, before QK norm and RoPE
	dqNormed, dkNormed kernels.Tensor // before RoPE, with QK norm

	dAttended kernels.Tensor // within one call
}

func newSelfAttention(b *builder, name string) *selfAttention {
	c := b.config
	n, k, d, h := c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim, c.HiddenSize
	first, end := b.cut(n)
	kvFirst, kvEnd := b.keyValueHeads(k)
	a := &selfAttention{heads: end - first, kvHeads: kvEnd - kvFirst, dim: d, rope: c.RoPE.options(), withQKNorm: c.QKNorm}
	a.core = coreAttention{heads: a.heads, kvHeads: a.kvHeads, keyDim: d, valueDim: d, scale: c.AttentionScale()}
	q := module{name + ".q_proj", n * d, first * d, end * d}
	key, v := module{name + ".k_proj", k * d, kvFirst * d, kvEnd * d}, module{name + ".v_proj", k * d, kvFirst * d, kvEnd * d}
	if share := b.HeadSharing(k); share > 1 {
		a.qkv = joined{b.outputs(Replicas, h, c.QKVBias, q), b.outputs(HeadReplicas, h, c.QKVBias, key, v)}
		a.qkv[1].copies(b.TensorRank % share)
		a.qkv[1].before = a.qkv[0]
	} else {
		a.qkv = joined{b.outputs(Replicas, h, c.QKVBias, q, key, v)}
	}
	a.output = b.inputs(name+".o_proj", h, n*d, first*d, end*d, c.OutputBias)
	if c.QKNorm {
		a.qNorm, a.kNorm = b.norm(name+".q_norm", d, c.RMSNormEps, b.summed()), b.norm(name+".k_norm", d, c.RMSNormEps, b.summed())
	}
	return a
}

func (a *selfAttention) uses() []*Use {
	uses := append(a.qkv.uses(), a.output.uses()...)
	if a.withQKNorm {
		uses = append(uses, a.qNorm.weight, a.kNorm.weight)
	}
	return uses
}

func (a *selfAttention) linears() []*linear { return append(slices.Clip(a.qkv), &a.output) }

func (a *selfAttention) newRecord(k kernels.Operators, size Size, m *Memory) Record {
	t, nd, kd := size.Tokens(), a.heads*a.dim, a.kvHeads*a.dim
	r := &selfAttentionRecord{full: m.Recompute == RecomputeFull}
	at := m.activation
	projections, inputs, attended := m.keep(KeepAll), a.core.inputs(size, m), m.keep(RecomputeSelective)
	if a.withQKNorm {
		r.qkv = at(projections, t, nd+2*kd)
		r.qRstd, r.qNormed, r.dqNormed = m.statistic(projections, t*a.heads), at(inputs, t, nd), at(m.Delayed, t, nd)
		r.kRstd, r.kNormed, r.dkNormed = m.statistic(projections, t*a.kvHeads), at(inputs, t, kd), at(m.Delayed, t, kd)
	} else {
		r.qkv = at(inputs, t, nd+2*kd)
	}
	r.dqkv = at(m.Delayed, t, nd+2*kd)
	r.attended = at(attended, t, nd)
	r.core = a.core.newRecord(k, size, m)
	r.lora.place(t, projections, m, a.qkv...)
	r.lora.place(t, attended, m, &a.output)
	r.dAttended = at(m.Scratch, t, nd)
	return r
}

// heads4 views columns [from, to) of x [B*T, ..] as heads: [B,T,heads,D].
func heads4(x kernels.Tensor, size Size, from, heads, dim int) kernels.Tensor {
	return x.Narrow(1, from, from+heads*dim).Split(1, heads, dim).Split(0, size.Batch, size.Sequence)
}

// projections views x [B*T,(N+2K)D] as q [B,T,N,D], k and v [B,T,K,D].
func (a *selfAttention) projections(x kernels.Tensor, size Size) headTensors {
	n, kv, d := a.heads, a.kvHeads, a.dim
	return headTensors{q: heads4(x, size, 0, n, d), k: heads4(x, size, n*d, kv, d), v: heads4(x, size, (n+kv)*d, kv, d)}
}

// normed puts tensors of normalised queries and keys, [B*T,N*D] and [B*T,K*D], in place of those of projections x, with QK norm.
func (a *selfAttention) normed(x headTensors, q, k kernels.Tensor, size Size) headTensors {
	if a.withQKNorm {
		x.q, x.k = heads4(q, size, 0, a.heads, a.dim), heads4(k, size, 0, a.kvHeads, a.dim)
	}
	return x
}

// inputs returns q, k and v as attention sees them, normalised and rotated.
func (a *selfAttention) inputs(r *selfAttentionRecord, size Size) headTensors {
	return a.normed(a.projections(r.qkv, size), r.qNormed, r.kNormed, size)
}

func (a *selfAttention) forward(c *Context, record Record, mb *MicroBatch, y, x kernels.Tensor) {
	r := record.(*selfAttentionRecord)
	r.lora.begin(mb)
	a.attend(c, r, mb, x)
	a.project(c, r, y)
}

func (a *selfAttention) recompute(c *Context, record Record, mb *MicroBatch, x kernels.Tensor) {
	if r := record.(*selfAttentionRecord); r.full {
		a.attend(c, r, mb, x)
	} else {
		a.computeInputs(c, r, mb.Positions, x)
	}
}

// attend computes r.attended from x.
func (a *selfAttention) attend(c *Context, r *selfAttentionRecord, mb *MicroBatch, x kernels.Tensor) {
	a.core.forward(c, r.core, mb, heads4(r.attended, c.Size, 0, a.heads, a.dim), a.computeInputs(c, r, mb.Positions, x))
}

// computeInputs computes attention's inputs from x, at the given positions or, where there are none, those of the tables.
func (a *selfAttention) computeInputs(c *Context, r *selfAttentionRecord, positions, x kernels.Tensor) headTensors {
	a.qkv.forward(c, r.lora, r.qkv, x)
	in := a.inputs(r, c.Size)
	if a.withQKNorm {
		projected := a.projections(r.qkv, c.Size)
		a.qNorm.forward(c, in.q, r.qRstd, projected.q)
		a.kNorm.forward(c, in.k, r.kRstd, projected.k)
	}
	c.Kernels.RoPE(c.Stream, in.q, in.q, c.Cos, c.Sin, positions, a.rope)
	c.Kernels.RoPE(c.Stream, in.k, in.k, c.Cos, c.Sin, positions, a.rope)
	a.core.spread(c, r.core, in)
	return in
}

func (a *selfAttention) project(c *Context, record Record, y kernels.Tensor) {
	r := record.(*selfAttentionRecord)
	a.output.forward(c, r.lora, y, r.attended)
}

func (a *selfAttention) backwardInput(c *Context, record Record, mb *MicroBatch, dx, dy kernels.Tensor) {
	r := record.(*selfAttentionRecord)
	a.output.backwardInput(c, r.lora, r.dAttended, dy)
	a.backwardAttention(c, r, mb)
	a.qkv.backwardInput(c, r.lora, dx, r.dqkv)
}

// backwardAttention computes r.dqkv from r.dAttended: through attention, RoPE and QK norm.
func (a *selfAttention) backwardAttention(c *Context, r *selfAttentionRecord, mb *MicroBatch) {
	projected, dProjected := a.projections(r.qkv, c.Size), a.projections(r.dqkv, c.Size)
	d := a.normed(dProjected, r.dqNormed, r.dkNormed, c.Size)
	o, do := heads4(r.attended, c.Size, 0, a.heads, a.dim), heads4(r.dAttended, c.Size, 0, a.heads, a.dim)
	a.core.backward(c, r.core, mb, d, do, o, a.inputs(r, c.Size))
	inverse := a.rope
	inverse.Inverse = true
	c.Kernels.RoPE(c.Stream, d.q, d.q, c.Cos, c.Sin, mb.Positions, inverse)
	c.Kernels.RoPE(c.Stream, d.k, d.k, c.Cos, c.Sin, mb.Positions, inverse)
	if a.withQKNorm {
		a.qNorm.backwardInput(c, dProjected.q, d.q, projected.q, r.qRstd, kernels.Tensor{})
		a.kNorm.backwardInput(c, dProjected.k, d.k, projected.k, r.kRstd, kernels.Tensor{})
	}
}

func (a *selfAttention) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*selfAttentionRecord)
	a.qkv.backwardWeight(c, mb, r.lora, r.dqkv, x)
	a.output.backwardWeight(c, mb, r.lora, dy, r.attended)
	if a.withQKNorm {
		projected := a.projections(r.qkv, c.Size)
		a.qNorm.backwardWeight(c, mb, heads4(r.dqNormed, c.Size, 0, a.heads, a.dim), projected.q, r.qRstd)
		a.kNorm.backwardWeight(c, mb, heads4(r.dkNormed, c.Size, 0, a.kvHeads, a.dim), projected.k, r.kRstd)
	}
}

func (a *selfAttention) newCache(arena *kernels.Arena, positions int) cache {
	return cache{
		keys:   arena.Tensor(device.Float32, 1, positions, a.kvHeads, a.dim),
		values: arena.Tensor(device.Float32, 1, positions, a.kvHeads, a.dim),
	}
}

func (a *selfAttention) decode(c *Context, record Record, kv cache, at int, y, x kernels.Tensor) {
	r := record.(*selfAttentionRecord)
	kv.attend(c, r.core, heads4(r.attended, c.Size, 0, a.heads, a.dim), a.computeInputs(c, r, kernels.Tensor{}, x), at, a.core.scale)
	a.project(c, r, y)
}
