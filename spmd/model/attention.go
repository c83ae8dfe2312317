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
	scale               float64
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
	attended, stats kernels.Tensor // [B*T,N*D]; see AttentionSizes
	// Kept with KeepAll alone.
	qkv          kernels.Tensor // [B*T,(N+2K)D] rotated, or as projected with QK norm
	qRstd, kRstd kernels.Tensor // [B*T*N], [B*T*K] with QK norm
	qNormed      kernels.Tensor // [B*T,N*D] normalised and rotated, with QK norm
	kNormed      kernels.Tensor // [B*T,K*D]

	// For the gradients of weights.
	dqkv               kernels.Tensor // as projected, before QK norm and RoPE
	dqNormed, dkNormed kernels.Tensor // before RoPE, with QK norm

	dAttended, workspace kernels.Tensor // within one call
}

func newSelfAttention(b *builder, name string) *selfAttention {
	c := b.config
	n, k, d, h := c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim, c.HiddenSize
	first, end := b.cut(n)
	kvFirst, kvEnd := b.keyValueHeads(k)
	a := &selfAttention{heads: end - first, kvHeads: kvEnd - kvFirst, dim: d, scale: c.AttentionScale(), rope: c.RoPE.options(), withQKNorm: c.QKNorm}
	q := module{name + ".q_proj", n * d, first * d, end * d}
	key, v := module{name + ".k_proj", k * d, kvFirst * d, kvEnd * d}, module{name + ".v_proj", k * d, kvFirst * d, kvEnd * d}
	if share := b.HeadSharing(k); share > 1 {
		a.qkv = joined{b.outputs(Replicas, h, c.QKVBias, q), b.outputs(HeadReplicas, h, c.QKVBias, key, v)}
		a.qkv[1].copies(b.TensorRank % share)
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
	projections, attended := m.keep(KeepAll), m.keep(RecomputeSelective)
	r.qkv, r.dqkv = at(projections, t, nd+2*kd), at(m.Delayed, t, nd+2*kd)
	if a.withQKNorm {
		r.qRstd, r.qNormed, r.dqNormed = m.statistic(projections, t*a.heads), at(projections, t, nd), at(m.Delayed, t, nd)
		r.kRstd, r.kNormed, r.dkNormed = m.statistic(projections, t*a.kvHeads), at(projections, t, kd), at(m.Delayed, t, kd)
	}
	statistics, workspace := k.AttentionSizes(a.inputs(r, size))
	r.attended, r.stats = at(attended, t, nd), m.statistic(attended, statistics...)
	r.lora.place(t, projections, m, a.qkv...)
	r.lora.place(t, attended, m, &a.output)
	r.dAttended = at(m.Scratch, t, nd)
	r.workspace = m.Scratch.Tensor(device.Uint8, workspace)
	return r
}

// heads4 views columns [from, to) of x [B*T, ..] as heads: [B,T,heads,D].
func heads4(x kernels.Tensor, size Size, from, heads, dim int) kernels.Tensor {
	return x.Narrow(1, from, from+heads*dim).Split(1, heads, dim).Split(0, size.Batch, size.Sequence)
}

// projections views x [B*T,(N+2K)D] as q [B,T,N,D], k and v [B,T,K,D].
func (a *selfAttention) projections(x kernels.Tensor, size Size) (q, k, v kernels.Tensor) {
	n, kv, d := a.heads, a.kvHeads, a.dim
	return heads4(x, size, 0, n, d), heads4(x, size, n*d, kv, d), heads4(x, size, (n+kv)*d, kv, d)
}

// inputs returns q, k and v as attention sees them, normalised and rotated.
func (a *selfAttention) inputs(r *selfAttentionRecord, size Size) (q, k, v kernels.Tensor) {
	q, k, v = a.projections(r.qkv, size)
	if a.withQKNorm {
		q, k = heads4(r.qNormed, size, 0, a.heads, a.dim), heads4(r.kNormed, size, 0, a.kvHeads, a.dim)
	}
	return q, k, v
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
	q, k, v := a.computeInputs(c, r, mb.Positions, x)
	o := heads4(r.attended, c.Size, 0, a.heads, a.dim)
	c.Kernels.Attention(c.Stream, o, r.stats, q, k, v, attentionOptions(a.scale, mb))
}

// attentionOptions returns the options of a micro batch's attention.
func attentionOptions(scale float64, mb *MicroBatch) kernels.AttentionOptions {
	return kernels.AttentionOptions{Scale: scale, Causal: true, Documents: mb.Documents}
}

// computeInputs computes attention's inputs from x, at the given positions or, where there are none, those of the tables.
func (a *selfAttention) computeInputs(c *Context, r *selfAttentionRecord, positions, x kernels.Tensor) (q, k, v kernels.Tensor) {
	a.qkv.forward(c, r.lora, r.qkv, x)
	q, k, v = a.inputs(r, c.Size)
	if a.withQKNorm {
		qIn, kIn, _ := a.projections(r.qkv, c.Size)
		a.qNorm.forward(c, q, r.qRstd, qIn)
		a.kNorm.forward(c, k, r.kRstd, kIn)
	}
	c.Kernels.RoPE(c.Stream, q, q, c.Cos, c.Sin, positions, a.rope)
	c.Kernels.RoPE(c.Stream, k, k, c.Cos, c.Sin, positions, a.rope)
	return q, k, v
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
	q, k, v := a.inputs(r, c.Size)
	dqIn, dkIn, dv := a.projections(r.dqkv, c.Size)
	dq, dk := dqIn, dkIn
	if a.withQKNorm {
		dq, dk = heads4(r.dqNormed, c.Size, 0, a.heads, a.dim), heads4(r.dkNormed, c.Size, 0, a.kvHeads, a.dim)
	}
	o, do := heads4(r.attended, c.Size, 0, a.heads, a.dim), heads4(r.dAttended, c.Size, 0, a.heads, a.dim)
	c.Kernels.AttentionBackward(c.Stream, dq, dk, dv, do, q, k, v, o, r.stats, r.workspace, attentionOptions(a.scale, mb))
	inverse := a.rope
	inverse.Inverse = true
	c.Kernels.RoPE(c.Stream, dq, dq, c.Cos, c.Sin, mb.Positions, inverse)
	c.Kernels.RoPE(c.Stream, dk, dk, c.Cos, c.Sin, mb.Positions, inverse)
	if a.withQKNorm {
		qIn, kIn, _ := a.projections(r.qkv, c.Size)
		a.qNorm.backwardInput(c, dqIn, dq, qIn, r.qRstd, kernels.Tensor{})
		a.kNorm.backwardInput(c, dkIn, dk, kIn, r.kRstd, kernels.Tensor{})
	}
}

func (a *selfAttention) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*selfAttentionRecord)
	a.qkv.backwardWeight(c, mb, r.lora, r.dqkv, x)
	a.output.backwardWeight(c, mb, r.lora, dy, r.attended)
	if a.withQKNorm {
		qIn, kIn, _ := a.projections(r.qkv, c.Size)
		a.qNorm.backwardWeight(c, mb, heads4(r.dqNormed, c.Size, 0, a.heads, a.dim), qIn, r.qRstd)
		a.kNorm.backwardWeight(c, mb, heads4(r.dkNormed, c.Size, 0, a.kvHeads, a.dim), kIn, r.kRstd)
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
	q, k, v := a.computeInputs(c, r, kernels.Tensor{}, x)
	kv.attend(c, heads4(r.attended, c.Size, 0, a.heads, a.dim), r.stats, q, k, v, at, a.scale)
	a.project(c, r, y)
}
