package model

import "lockstep/kernels"

// Ulysses: Jacobs et al., "DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long Sequence Transformer
// Models", 2023. Each of U ranks has some tokens and all heads; an all-to-all of queries, keys and values gives it the tokens of
// all U and a U-th of the heads, and one of the attended values takes them back. Where there are fewer heads of keys and values
// than ranks, ranks that share one get a copy each, and their gradients are added up.

// ulyssesRecord is what the exchange keeps of a micro batch. A row has what one rank gets of a token: [its heads of q | of k | of
// v]. T is this rank's tokens; blocks of T rows are for or from one rank, or, as those of all ranks, the tokens in order. There is
// an all-to-all for each sample, so that what arrives lies as attention reads it.
type ulyssesRecord struct {
	whole, here coreAttention
	ranks       int
	tokens      int // T

	// Kept as the projections of the layer and its attended values are: the tokens of all ranks, [B,U*T,row] and [B,U*T,N/U*Dv].
	rows, out kernels.Tensor
	inputs    headTensors    // of rows
	attended  kernels.Tensor // out as heads

	// Within one call, in memory that the others reach.
	packed, packedOut kernels.Tensor // like rows and out: a block for, or from, each rank
	dRows, dOut       kernels.Tensor // the gradients of rows and out, and before that rows as they arrive and out as it leaves
	dInputs           headTensors
	dAttended         kernels.Tensor
}

func (a *coreAttention) newUlyssesRecord(here coreAttention, size Size, m *Memory) *ulyssesRecord {
	r := &ulyssesRecord{whole: *a, here: here, ranks: size.Split.ulysses(), tokens: size.Sequence}
	row, out := here.heads*here.keyDim+here.kvHeads*(here.keyDim+here.valueDim), here.heads*here.valueDim
	at := func(arena *kernels.Arena, width int) kernels.Tensor {
		return m.activation(arena, size.Batch, r.ranks*r.tokens, width)
	}
	r.rows, r.out = at(m.keep(KeepAll), row), at(m.keep(RecomputeSelective), out)
	r.packed, r.packedOut = at(m.Exchanged, row), at(m.Exchanged, out)
	r.dRows, r.dOut = at(m.Exchanged, row), at(m.Exchanged, out)
	r.inputs, r.dInputs = r.here.columns(r.rows), r.here.columns(r.dRows)
	r.attended, r.dAttended = r.out.Split(2, here.heads, here.valueDim), r.dOut.Split(2, here.heads, here.valueDim)
	return r
}

// columns views rows [B,T,row] as the heads that they are made of.
func (a *coreAttention) columns(rows kernels.Tensor) headTensors {
	k := a.heads * a.keyDim
	v := k + a.kvHeads*a.keyDim
	return headTensors{
		q: rows.Narrow(2, 0, k).Split(2, a.heads, a.keyDim),
		k: rows.Narrow(2, k, v).Split(2, a.kvHeads, a.keyDim),
		v: rows.Narrow(2, v, v+a.kvHeads*a.valueDim).Split(2, a.kvHeads, a.valueDim),
	}
}

// block returns the rows of x that are for or from one rank.
func (r *ulyssesRecord) block(x kernels.Tensor, rank int) kernels.Tensor {
	return x.Narrow(1, rank*r.tokens, (rank+1)*r.tokens)
}

// queryHeads and keyHeads return the heads of x, [B,T,heads,D], that one rank has.
func (r *ulyssesRecord) queryHeads(x kernels.Tensor, rank int) kernels.Tensor {
	return x.Narrow(2, rank*r.here.heads, (rank+1)*r.here.heads)
}

func (r *ulyssesRecord) keyHeads(x kernels.Tensor, rank int) kernels.Tensor {
	from := rank * r.whole.kvHeads / r.ranks
	return x.Narrow(2, from, from+r.here.kvHeads)
}

// exchange makes block i of to on this rank that block of from, on rank i, which is for this one.
func (r *ulyssesRecord) exchange(c *Context, to, from kernels.Tensor) {
	for b := range from.Shape[0] {
		c.Stream.Wait(c.Ulysses.AllToAll(to.Narrow(0, b, b+1).Region(), from.Narrow(0, b, b+1).Region(), c.Stream.Record()))
	}
}

// spread fills rows from this rank's tokens.
func (r *ulyssesRecord) spread(c *Context, x headTensors) {
	for rank := range r.ranks {
		to := r.here.columns(r.block(r.packed, rank))
		c.Kernels.Copy(c.Stream, to.q, r.queryHeads(x.q, rank))
		c.Kernels.Copy(c.Stream, to.k, r.keyHeads(x.k, rank))
		c.Kernels.Copy(c.Stream, to.v, r.keyHeads(x.v, rank))
	}
	r.exchange(c, r.dRows, r.packed)
	c.Kernels.Copy(c.Stream, r.rows, r.dRows)
}

// collect computes o, all heads of this rank's tokens, from out.
func (r *ulyssesRecord) collect(c *Context, o kernels.Tensor) {
	c.Kernels.Copy(c.Stream, r.dOut, r.out)
	r.exchange(c, r.packedOut, r.dOut)
	for rank := range r.ranks {
		c.Kernels.Copy(c.Stream, r.queryHeads(o, rank), r.block(r.packedOut, rank).Split(2, r.here.heads, r.here.valueDim))
	}
}

// spreadGradient fills dOut from the gradient of o.
func (r *ulyssesRecord) spreadGradient(c *Context, do kernels.Tensor) {
	for rank := range r.ranks {
		c.Kernels.Copy(c.Stream, r.block(r.packedOut, rank).Split(2, r.here.heads, r.here.valueDim), r.queryHeads(do, rank))
	}
	r.exchange(c, r.dOut, r.packedOut)
}

// collectGradients computes dx, all heads of this rank's tokens, from dRows.
func (r *ulyssesRecord) collectGradients(c *Context, dx headTensors) {
	r.exchange(c, r.packed, r.dRows)
	for rank := range r.ranks {
		from := r.here.columns(r.block(r.packed, rank))
		c.Kernels.Copy(c.Stream, r.queryHeads(dx.q, rank), from.q)
		if r.whole.kvHeads >= r.ranks {
			c.Kernels.Copy(c.Stream, r.keyHeads(dx.k, rank), from.k)
			c.Kernels.Copy(c.Stream, r.keyHeads(dx.v, rank), from.v)
		}
	}
	if sharing := r.ranks / r.whole.kvHeads; sharing > 1 {
		for head := range r.whole.kvHeads {
			r.sumCopies(c, dx, head, sharing)
		}
	}
}

// sumCopies adds up the gradients of one head of keys and values, from the ranks that share it.
func (r *ulyssesRecord) sumCopies(c *Context, dx headTensors, head, sharing int) {
	from := r.packed.Narrow(1, head*sharing*r.tokens, (head+1)*sharing*r.tokens).Split(1, sharing, r.tokens).Transpose(1, 2) // [B,T,sharing,row]
	k := r.here.heads * r.here.keyDim
	v := k + r.here.keyDim
	c.Kernels.SumHeads(c.Stream, dx.k.Narrow(2, head, head+1), from.Narrow(3, k, v))
	c.Kernels.SumHeads(c.Stream, dx.v.Narrow(2, head, head+1), from.Narrow(3, v, v+r.here.valueDim))
}
