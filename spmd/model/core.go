package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// coreAttention is the part of attention between the projections: softmax(scale * q k^T + mask) v. It is causal, and keeps to
// documents where a micro batch has them.
//
// Where ranks share samples (see Split), the others' keys and values must be seen here. Two ways are combined. Over the Ulysses
// ranks, an all-to-all gives each rank some of the heads, with all tokens that these ranks have together; another one takes the
// result back, see ulysses.go. Over the ring ranks, keys and values go from rank to rank, see ring.go.
type coreAttention struct {
	heads, kvHeads, keyDim, valueDim int
	scale                            float64
}

// coreRecord is what coreAttention keeps of a micro batch.
type coreRecord struct {
	stats     kernels.Tensor // see AttentionSizes
	workspace kernels.Tensor // within one call
	ring      *ringRecord    // nil without ring ranks
	ulysses   *ulyssesRecord // nil without Ulysses ranks
}

// headTensors are queries, keys and values, or their gradients: [B,T,N,D], [B,T,K,D] and [B,T,K,Dv].
type headTensors struct{ q, k, v kernels.Tensor }

// inputs returns where the queries, keys and values go that the projections have computed. Ulysses ranks keep those that they
// get for them.
func (a *coreAttention) inputs(size Size, m *Memory) *kernels.Arena {
	if size.Split.ulysses() > 1 {
		return m.Scratch
	}
	return m.keep(KeepAll)
}

// newRecord places a coreRecord.
func (a *coreAttention) newRecord(k kernels.Operators, size Size, m *Memory) *coreRecord {
	r := &coreRecord{}
	tokens, _ := size.pair()
	here := a.perUlysses(size.Split)
	if size.Split.ulysses() > 1 {
		r.ulysses = a.newUlyssesRecord(here, size, m)
	}
	if size.Split.ring() > 1 {
		r.ring = here.newRingRecord(size, m)
	}
	shape := func(heads, dim int) kernels.Tensor {
		return kernels.NewTensor(nil, 0, m.DType, size.Batch, tokens, heads, dim)
	}
	statistics, workspace := k.AttentionSizes(shape(here.heads, a.keyDim), shape(here.kvHeads, a.keyDim), shape(here.kvHeads, a.valueDim))
	r.stats = m.statistic(m.keep(RecomputeSelective), statistics...)
	r.workspace = m.Scratch.Tensor(device.Uint8, workspace)
	return r
}

// perUlysses returns the attention of one of the Ulysses ranks, which has its share of the heads.
func (a *coreAttention) perUlysses(s Split) coreAttention {
	here := *a
	here.heads, here.kvHeads = a.heads/s.ulysses(), max(a.kvHeads/s.ulysses(), 1)
	return here
}

// spread exchanges what attention reads, where other ranks have a part in it. It comes after the queries, keys and values have
// been computed, also when they are computed again.
func (a *coreAttention) spread(c *Context, r *coreRecord, x headTensors) {
	if r.ulysses != nil {
		r.ulysses.spread(c, x)
	}
}

// forward computes o [B,T,N,Dv].
func (a *coreAttention) forward(c *Context, r *coreRecord, mb *MicroBatch, o kernels.Tensor, x headTensors) {
	attended := o
	if u := r.ulysses; u != nil {
		x, attended = u.inputs, u.attended
	}
	if r.ring != nil {
		a.ringForward(c, r, mb, attended, x)
	} else {
		c.Kernels.Attention(c.Stream, attended, r.stats, x.q, x.k, x.v, a.options(c, mb, 0))
	}
	if r.ulysses != nil {
		r.ulysses.collect(c, o)
	}
}

// backward computes the gradients of x from that of o.
func (a *coreAttention) backward(c *Context, r *coreRecord, mb *MicroBatch, dx headTensors, do, o kernels.Tensor, x headTensors) {
	gradients := dx
	if u := r.ulysses; u != nil {
		u.spreadGradient(c, do)
		x, o, do, gradients = u.inputs, u.attended, u.dAttended, u.dInputs
	}
	if r.ring != nil {
		a.ringBackward(c, r, mb, gradients, do, o, x)
	} else {
		c.Kernels.AttentionBackward(c.Stream, gradients.q, gradients.k, gradients.v, do, x.q, x.k, x.v, o, r.stats, r.workspace, a.options(c, mb, 0))
	}
	if r.ulysses != nil {
		r.ulysses.collectGradients(c, dx)
	}
}

// options returns the options of the attention to the keys of a step of the ring, of which there is one without ring ranks.
func (a *coreAttention) options(c *Context, mb *MicroBatch, step int) kernels.AttentionOptions {
	o := kernels.AttentionOptions{Scale: a.scale, Causal: step == 0, Accumulate: step > 0}
	if !mb.Documents.IsZero() {
		from, to := c.Size.queries(step)
		o.Documents = mb.Documents.Narrow(0, step, step+1).Reshape(mb.Documents.Shape[1], mb.Documents.Shape[2]).Narrow(1, from, to)
	}
	return o
}
