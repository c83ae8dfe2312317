package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// latentEps is the eps of the norms of latent vectors, whatever rms_norm_eps says: Transformers leaves it at its default.
const latentEps = 1e-6

// latentAttention is multi-head latent attention, see Latent. P, R and V are its PlainDim, RotaryDim and ValueDim, C the width
// of the latent vector of keys and values, Q that of queries.
//
//	q           = [x | RMSNorm(x Wqa)] Wq           N heads of P + R, the latter rotated
//	latent, k^R = x Wkva                            C and R wide; k^R is rotated and all heads' own
//	k^P, v      = RMSNorm(latent) Wkvb              N heads of P + V
//
// Tensor ranks share the heads. Each computes the latent vectors of all tokens, and a part of the sum that their gradients are;
// what follows from those, down to the gradient of x, is linear in them.
type latentAttention struct {
	Latent
	heads int // this rank's
	core  coreAttention
	rope  kernels.RoPEOptions

	queryDown linear // [Q,H], with a latent vector of queries
	queryNorm norm   // [Q]
	query     linear // [N*(P+R), Q or H]
	down      linear // [C+R,H]
	downNorm  norm   // [C]
	up        linear // [N*(P+V),C]
	output    linear // [H,N*V]
}

// latentRecord is what latentAttention keeps of a micro batch.
type latentRecord struct {
	full bool // nothing is kept
	lora loraRecords

	// Kept but for RecomputeFull.
	attended kernels.Tensor // [B*T,N*V]
	core     *coreRecord
	// Kept with KeepAll alone, and what attention reads is not where Ulysses ranks keep it.
	queryDown, queryRstd kernels.Tensor // [B*T,Q], [B*T]
	query                kernels.Tensor // [B*T,N*(P+R)] rotated
	down, downRstd       kernels.Tensor // [B*T,C+R] the last R rotated, [B*T]
	up                   kernels.Tensor // [B*T,N*(P+V)]
	keys                 kernels.Tensor // [B*T,N*(P+R)]

	// For the gradients of weights.
	dQueryNormed, dQueryDown, dQuery, dDownNormed, dDown, dUp kernels.Tensor

	// Within one call.
	queryNormed, downNormed kernels.Tensor // [B*T,Q], [B*T,C]
	dAttended, dKeys        kernels.Tensor
}

func newLatentAttention(b *builder, name string) *latentAttention {
	c, l := b.config, b.config.Latent
	n, h := c.NumAttentionHeads, c.HiddenSize
	first, end := b.cut(n)
	a := &latentAttention{Latent: *l, heads: end - first, rope: c.RoPE.options()}
	a.core = coreAttention{heads: a.heads, kvHeads: a.heads, keyDim: l.PlainDim + l.RotaryDim, valueDim: l.ValueDim, scale: c.AttentionScale()}
	heads := func(name string, width, in int) linear {
		return *b.outputs(Replicas, in, false, module{name, n * width, first * width, end * width})
	}
	if l.QueryRank > 0 {
		a.queryDown = b.linear(name+".q_a_proj", l.QueryRank, h, c.QKVBias, b.summed())
		a.queryNorm = b.norm(name+".q_a_layernorm", l.QueryRank, latentEps, b.summed())
		a.query = heads(name+".q_b_proj", l.PlainDim+l.RotaryDim, l.QueryRank)
	} else {
		a.query = heads(name+".q_proj", l.PlainDim+l.RotaryDim, h)
	}
	a.down = b.linear(name+".kv_a_proj_with_mqa", l.KeyValueRank+l.RotaryDim, h, c.QKVBias, b.summed())
	a.downNorm = b.norm(name+".kv_a_layernorm", l.KeyValueRank, latentEps, b.summed())
	a.up = heads(name+".kv_b_proj", l.PlainDim+l.ValueDim, l.KeyValueRank)
	a.output = b.inputs(name+".o_proj", h, n*l.ValueDim, first*l.ValueDim, end*l.ValueDim, c.OutputBias)
	return a
}

func (a *latentAttention) uses() []*Use {
	var uses []*Use
	if a.QueryRank > 0 {
		uses = append(a.queryDown.uses(), a.queryNorm.weight)
	}
	uses = append(append(uses, a.query.uses()...), a.down.uses()...)
	uses = append(append(uses, a.downNorm.weight), a.up.uses()...)
	return append(uses, a.output.uses()...)
}

func (a *latentAttention) linears() []*linear {
	list := []*linear{&a.query, &a.down, &a.up, &a.output}
	if a.QueryRank > 0 {
		list = append(list, &a.queryDown)
	}
	return list
}

func (a *latentAttention) newRecord(k kernels.Operators, size Size, m *Memory) Record {
	t, key := size.Tokens(), a.heads*(a.PlainDim+a.RotaryDim)
	r := &latentRecord{full: m.Recompute == RecomputeFull}
	at := m.activation
	projections, inputs, attended := m.keep(KeepAll), a.core.inputs(size, m), m.keep(RecomputeSelective)
	if a.QueryRank > 0 {
		r.queryDown, r.queryRstd, r.queryNormed = at(projections, t, a.QueryRank), m.statistic(projections, t), at(m.Scratch, t, a.QueryRank)
		r.dQueryDown, r.dQueryNormed = at(m.Delayed, t, a.QueryRank), at(m.Delayed, t, a.QueryRank)
	}
	r.query, r.dQuery = at(inputs, t, key), at(m.Delayed, t, key)
	r.down, r.downRstd, r.downNormed = at(projections, t, a.KeyValueRank+a.RotaryDim), m.statistic(projections, t), at(m.Scratch, t, a.KeyValueRank)
	r.dDown, r.dDownNormed = at(m.Delayed, t, a.KeyValueRank+a.RotaryDim), at(m.Delayed, t, a.KeyValueRank)
	r.up, r.dUp = at(inputs, t, a.heads*(a.PlainDim+a.ValueDim)), at(m.Delayed, t, a.heads*(a.PlainDim+a.ValueDim))
	r.keys, r.dKeys = at(inputs, t, key), at(m.Scratch, t, key)
	r.attended = at(attended, t, a.heads*a.ValueDim)
	r.core = a.core.newRecord(k, size, m)
	r.lora.place(t, projections, m, &a.queryDown, &a.query, &a.down, &a.up)
	r.lora.place(t, attended, m, &a.output)
	r.dAttended = at(m.Scratch, t, a.heads*a.ValueDim)
	return r
}

// inputs returns q and k [B,T,N,P+R] and v [B,T,N,V] as attention sees them.
func (a *latentAttention) inputs(r *latentRecord, size Size) headTensors {
	_, v := a.halves(r.up, size)
	return headTensors{q: a.keyHeads(r.query, size), k: a.keyHeads(r.keys, size), v: v}
}

// keyHeads views x [B*T,N*(P+R)] as heads.
func (a *latentAttention) keyHeads(x kernels.Tensor, size Size) kernels.Tensor {
	return heads4(x, size, 0, a.heads, a.PlainDim+a.RotaryDim)
}

// rotary and plain view heads [B,T,N,P+R] as their parts that are and are not rotated.
func (a *latentAttention) rotary(x kernels.Tensor) kernels.Tensor {
	return x.Narrow(3, a.PlainDim, a.PlainDim+a.RotaryDim)
}

func (a *latentAttention) plain(x kernels.Tensor) kernels.Tensor { return x.Narrow(3, 0, a.PlainDim) }

// halves views x [B*T,N*(P+V)] as keys and values.
func (a *latentAttention) halves(x kernels.Tensor, size Size) (k, v kernels.Tensor) {
	both := heads4(x, size, 0, a.heads, a.PlainDim+a.ValueDim)
	return both.Narrow(3, 0, a.PlainDim), both.Narrow(3, a.PlainDim, a.PlainDim+a.ValueDim)
}

// latent and shared view x [B*T,C+R] as the latent vector [B*T,C] and the one key of all heads [B,T,1,R].
func (a *latentAttention) latent(x kernels.Tensor) kernels.Tensor {
	return x.Narrow(1, 0, a.KeyValueRank)
}

func (a *latentAttention) shared(x kernels.Tensor, size Size) kernels.Tensor {
	return heads4(x, size, a.KeyValueRank, 1, a.RotaryDim)
}

func (a *latentAttention) forward(c *Context, record Record, mb *MicroBatch, y, x kernels.Tensor) {
	r := record.(*latentRecord)
	r.lora.begin(mb)
	a.attend(c, r, mb, x)
	a.project(c, r, y)
}

func (a *latentAttention) recompute(c *Context, record Record, mb *MicroBatch, x kernels.Tensor) {
	if r := record.(*latentRecord); r.full {
		a.attend(c, r, mb, x)
	} else {
		a.computeInputs(c, r, mb.Positions, x)
	}
}

// attend computes r.attended from x.
func (a *latentAttention) attend(c *Context, r *latentRecord, mb *MicroBatch, x kernels.Tensor) {
	a.core.forward(c, r.core, mb, heads4(r.attended, c.Size, 0, a.heads, a.ValueDim), a.computeInputs(c, r, mb.Positions, x))
}

// computeInputs computes attention's inputs from x.
func (a *latentAttention) computeInputs(c *Context, r *latentRecord, positions, x kernels.Tensor) headTensors {
	from := x
	if a.QueryRank > 0 {
		a.queryDown.forward(c, r.lora, r.queryDown, x)
		a.queryNorm.forward(c, r.queryNormed, r.queryRstd, r.queryDown)
		from = r.queryNormed
	}
	a.query.forward(c, r.lora, r.query, from)
	a.down.forward(c, r.lora, r.down, x)
	a.downNorm.forward(c, r.downNormed, r.downRstd, a.latent(r.down))
	a.up.forward(c, r.lora, r.up, r.downNormed)

	in := a.inputs(r, c.Size)
	rotaryQuery, shared := a.rotary(in.q), a.shared(r.down, c.Size)
	c.Kernels.RoPE(c.Stream, rotaryQuery, rotaryQuery, c.Cos, c.Sin, positions, a.rope)
	c.Kernels.RoPE(c.Stream, shared, shared, c.Cos, c.Sin, positions, a.rope)
	plain, _ := a.halves(r.up, c.Size)
	c.Kernels.Copy(c.Stream, a.plain(in.k), plain)
	c.Kernels.Copy(c.Stream, a.rotary(in.k), shared.Expand(2, a.heads))
	a.core.spread(c, r.core, in)
	return in
}

func (a *latentAttention) project(c *Context, record Record, y kernels.Tensor) {
	r := record.(*latentRecord)
	a.output.forward(c, r.lora, y, r.attended)
}

func (a *latentAttention) backwardInput(c *Context, record Record, mb *MicroBatch, dx, dy kernels.Tensor) {
	r := record.(*latentRecord)
	a.output.backwardInput(c, r.lora, r.dAttended, dy)
	a.backwardAttention(c, r, mb)

	a.up.backwardInput(c, r.lora, r.dDownNormed, r.dUp)
	a.downNorm.backwardInput(c, a.latent(r.dDown), r.dDownNormed, a.latent(r.down), r.downRstd, kernels.Tensor{})
	a.down.backwardInput(c, r.lora, dx, r.dDown)
	if a.QueryRank == 0 {
		a.query.addBackwardInput(c, r.lora, dx, r.dQuery)
		return
	}
	a.query.backwardInput(c, r.lora, r.dQueryNormed, r.dQuery)
	a.queryNorm.backwardInput(c, r.dQueryDown, r.dQueryNormed, r.queryDown, r.queryRstd, kernels.Tensor{})
	a.queryDown.addBackwardInput(c, r.lora, dx, r.dQueryDown)
}

// backwardAttention computes r.dQuery, r.dUp and the shared key's part of r.dDown from r.dAttended.
func (a *latentAttention) backwardAttention(c *Context, r *latentRecord, mb *MicroBatch) {
	dq, dk := a.keyHeads(r.dQuery, c.Size), a.keyHeads(r.dKeys, c.Size)
	dPlain, dv := a.halves(r.dUp, c.Size)
	o, do := heads4(r.attended, c.Size, 0, a.heads, a.ValueDim), heads4(r.dAttended, c.Size, 0, a.heads, a.ValueDim)
	a.core.backward(c, r.core, mb, headTensors{q: dq, k: dk, v: dv}, do, o, a.inputs(r, c.Size))

	inverse := a.rope
	inverse.Inverse = true
	rotaryQuery, shared := a.rotary(dq), a.shared(r.dDown, c.Size)
	c.Kernels.RoPE(c.Stream, rotaryQuery, rotaryQuery, c.Cos, c.Sin, mb.Positions, inverse)
	c.Kernels.SumHeads(c.Stream, shared, a.rotary(dk))
	c.Kernels.RoPE(c.Stream, shared, shared, c.Cos, c.Sin, mb.Positions, inverse)
	c.Kernels.Copy(c.Stream, dPlain, a.plain(dk))
}

func (a *latentAttention) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*latentRecord)
	a.output.backwardWeight(c, mb, r.lora, dy, r.attended)
	a.downNorm.forward(c, r.downNormed, r.downRstd, a.latent(r.down))
	a.up.backwardWeight(c, mb, r.lora, r.dUp, r.downNormed)
	a.downNorm.backwardWeight(c, mb, r.dDownNormed, a.latent(r.down), r.downRstd)
	a.down.backwardWeight(c, mb, r.lora, r.dDown, x)
	if a.QueryRank == 0 {
		a.query.backwardWeight(c, mb, r.lora, r.dQuery, x)
		return
	}
	a.queryNorm.forward(c, r.queryNormed, r.queryRstd, r.queryDown)
	a.query.backwardWeight(c, mb, r.lora, r.dQuery, r.queryNormed)
	a.queryNorm.backwardWeight(c, mb, r.dQueryNormed, r.queryDown, r.queryRstd)
	a.queryDown.backwardWeight(c, mb, r.lora, r.dQueryDown, x)
}

func (a *latentAttention) newCache(arena *kernels.Arena, positions int) cache {
	return cache{
		keys:   arena.Tensor(device.Float32, 1, positions, a.heads, a.PlainDim+a.RotaryDim),
		values: arena.Tensor(device.Float32, 1, positions, a.heads, a.ValueDim),
	}
}

func (a *latentAttention) decode(c *Context, record Record, kv cache, at int, y, x kernels.Tensor) {
	r := record.(*latentRecord)
	kv.attend(c, r.core, heads4(r.attended, c.Size, 0, a.heads, a.ValueDim), a.computeInputs(c, r, kernels.Tensor{}, x), at, a.core.scale)
	a.project(c, r, y)
}
