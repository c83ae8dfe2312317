package model

import (
	"lockstep/collective"
	"lockstep/kernels"
)

// Ring attention: Liu, Zaharia, Abbeel, "Ring Attention with Blockwise Transformers for Near-Infinite Context", 2023. Each ring
// rank keeps its queries. Keys and values go round: in each step a rank works on those it has and meanwhile sends them to the
// rank behind it, and receives those of the rank before it. In the backward pass they go round again, and their gradients after
// them, one step later, to each of which a rank adds its own part; after a whole round they are back with their owner.

// ringRecord is what ring attention needs of a micro batch, all within one call. A block is the keys and values of one rank,
// one after the other, or their gradients.
type ringRecord struct {
	ranks     int
	blocks    [2]headTensors // without queries: one that the rank works on and sends, one that it receives
	gradients [2]headTensors // likewise, of the blocks that the rank has worked on
	own       headTensors    // what the rank adds to them
	// pass and passGradients send the block of the same index and receive the other one.
	pass, passGradients [2][]collective.Transfer
}

func (a *coreAttention) newRingRecord(size Size, m *Memory) *ringRecord {
	r := &ringRecord{ranks: size.Split.ring()}
	tokens, _ := size.pair()
	block := func() (kernels.Tensor, headTensors) {
		x := m.activation(m.Scratch, size.Batch*tokens*a.kvHeads*(a.keyDim+a.valueDim))
		keys := size.Batch * tokens * a.kvHeads * a.keyDim
		return x, headTensors{
			k: x.Narrow(0, 0, keys).Reshape(size.Batch, tokens, a.kvHeads, a.keyDim),
			v: x.Narrow(0, keys, x.Len()).Reshape(size.Batch, tokens, a.kvHeads, a.valueDim),
		}
	}
	behind, before := (size.Split.RingRank+1)%r.ranks, (size.Split.RingRank+r.ranks-1)%r.ranks
	pair := func(views *[2]headTensors, pass *[2][]collective.Transfer) {
		var whole [2]kernels.Tensor
		for i := range whole {
			whole[i], views[i] = block()
		}
		for i := range pass {
			pass[i] = []collective.Transfer{{Peer: behind, Buf: whole[i].Region()}, {Peer: before, Buf: whole[1-i].Region(), Receive: true}}
		}
	}
	pair(&r.blocks, &r.pass)
	pair(&r.gradients, &r.passGradients)
	_, r.own = block()
	return r
}

// queriesOf and keysOf return what takes part in a step: of x [B,T,..] those queries, or keys and values.
func queriesOf(c *Context, step int, x kernels.Tensor) kernels.Tensor {
	from, to := c.Size.queries(step)
	return x.Narrow(1, from, to)
}

func keysOf(c *Context, step int, x headTensors) (k, v kernels.Tensor) {
	from, to := c.Size.keys(step)
	return x.k.Narrow(1, from, to), x.v.Narrow(1, from, to)
}

// statsOf returns the statistics of the queries of a step.
func statsOf(c *Context, step int, stats kernels.Tensor) kernels.Tensor {
	from, to := c.Size.queries(step)
	return stats.Narrow(2, from, to)
}

// ringForward computes o.
func (a *coreAttention) ringForward(c *Context, r *coreRecord, mb *MicroBatch, o kernels.Tensor, x headTensors) {
	r.ring.visit(c, x, func(step int, block headTensors) {
		k, v := keysOf(c, step, block)
		c.Kernels.Attention(c.Stream, queriesOf(c, step, o), statsOf(c, step, r.stats), queriesOf(c, step, x.q), k, v, a.options(c, mb, step))
	})
}

// visit sends the keys and values of x round, and calls attend for those of each step once they are there.
func (r *ringRecord) visit(c *Context, x headTensors, attend func(step int, block headTensors)) {
	c.Kernels.Copy(c.Stream, r.blocks[0].k, x.k)
	c.Kernels.Copy(c.Stream, r.blocks[0].v, x.v)
	for step := range r.ranks {
		at := step % 2
		passed := c.Stream.Record() // the step before, which has worked on the other block, is done
		if step < r.ranks-1 {
			passed = c.Ring.Exchange(r.pass[at], passed)
		}
		attend(step, r.blocks[at])
		c.Stream.Wait(passed)
	}
}

// ringBackward computes dx. The gradients of a block begin with those of its owner, all queries and keys, so that nothing is to be
// cleared; what other ranks add may be for a part of the keys.
func (a *coreAttention) ringBackward(c *Context, r *coreRecord, mb *MicroBatch, dx headTensors, do, o kernels.Tensor, x headTensors) {
	ring := r.ring
	passed := c.Stream.Record()
	ring.visit(c, x, func(step int, block headTensors) {
		k, v := keysOf(c, step, block)
		own := ring.own
		if step == 0 {
			own = ring.gradients[0]
		}
		dk, dv := keysOf(c, step, own)
		c.Kernels.AttentionBackward(c.Stream, queriesOf(c, step, dx.q), dk, dv, queriesOf(c, step, do), queriesOf(c, step, x.q), k, v,
			queriesOf(c, step, o), statsOf(c, step, r.stats), r.workspace, a.options(c, mb, step))
		if step > 0 {
			c.Stream.Wait(passed)
			sumK, sumV := keysOf(c, step, ring.gradients[step%2])
			c.Kernels.Add(c.Stream, sumK, sumK, dk)
			c.Kernels.Add(c.Stream, sumV, sumV, dv)
		}
		passed = c.Ring.Exchange(ring.passGradients[step%2], c.Stream.Record())
	})
	c.Stream.Wait(passed)
	home := ring.gradients[ring.ranks%2]
	c.Kernels.Copy(c.Stream, dx.k, home.k)
	c.Kernels.Copy(c.Stream, dx.v, home.v)
}
