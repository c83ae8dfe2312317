package model

import (
	"math"

	"lockstep/kernels"
	"lockstep/spmd/random"
)

// LoRA are the low-rank adapters of Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, as PEFT has them: to
// the product with a frozen matrix W [out,in] they add scale * dropout(x) A^T B^T, with A [rank,in] and B [out,rank].
type LoRA struct {
	Rank  int
	Alpha float64
	// RSLoRA makes the scale alpha/sqrt(rank) (Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with
	// LoRA", 2023) instead of alpha/rank.
	RSLoRA bool
	// Dropout is the probability with which an element of x is dropped in training. Projections of one input, such as q, k and
	// v, see the same elements.
	Dropout float64
	// Seed is the run's; it decides what is dropped.
	Seed uint64
	// Targets are patterns for the last parts of the names of the adapted modules, as many as each has itself, such as "q_proj",
	// "*_proj" or "experts.*.up_proj".
	Targets []string
}

// Scale returns what the adapters' products are multiplied with.
func (o *LoRA) Scale() float64 {
	if o.RSLoRA {
		return o.Alpha / math.Sqrt(float64(o.Rank))
	}
	return o.Alpha / float64(o.Rank)
}

// lora holds the adapters of one linear, which may be several projections as one matrix: k of them are adapted.
type lora struct {
	rank        int
	scale, rate float64
	seed        uint64
	random      random.Source // gives each sample's stream of random numbers
	down        *Use          // [k*rank, in]: A of each
	up          []loraUp
}

// loraUp is B of one projection, [out,rank], and the columns of y that it adds to.
type loraUp struct {
	weight   *Use
	from, to int
}

// loraRecord is what the adapters of a linear keep of a micro batch.
type loraRecord struct {
	low  kernels.Tensor // [rows, k*rank]: scale * dropout(x) A^T
	dLow kernels.Tensor // [rows, k*rank]: scale * dy B, from backwardInput for backwardWeight
	// dropped is dropout(x), or what will be the gradient of x once the same elements are dropped, within one call.
	dropped kernels.Tensor // [rows,in]

	training bool  // whether there is dropout
	sample   int64 // the number of the first sample in the run
}

func (l *lora) uses() []*Use {
	uses := []*Use{l.down}
	for _, u := range l.up {
		uses = append(uses, u.weight)
	}
	return uses
}

// loraRecords are those of the linears of one part of a layer. There is none for a linear without adapters.
type loraRecords map[*linear]*loraRecord

// place adds the records of linears for a number of rows: kept holds what the forward pass computes.
func (r *loraRecords) place(rows int, kept *kernels.Arena, m *Memory, linears ...*linear) {
	for _, l := range linears {
		if l.lora == nil {
			continue
		}
		width := l.lora.down.shape[0]
		one := &loraRecord{low: m.activation(kept, rows, width), dLow: m.activation(m.Delayed, rows, width)}
		if l.lora.rate > 0 {
			one.dropped = m.activation(m.Scratch, rows, l.lora.down.shape[1])
		}
		if *r == nil {
			*r = loraRecords{}
		}
		(*r)[l] = one
	}
}

// begin notes which samples the records are for.
func (r loraRecords) begin(mb *MicroBatch) {
	for _, one := range r {
		one.training, one.sample = !mb.Gradients.IsZero(), mb.Sample
	}
}

// forward adds scale * dropout(x) A^T B^T to y.
func (l *lora) forward(c *Context, r *loraRecord, y, x kernels.Tensor) {
	x = l.input(c, r, x)
	c.Kernels.MatMul(c.Stream, r.low, x, l.down.Weight(), inTypeOf(x, kernels.MatMulOptions{TransB: true}))
	c.Kernels.Dropout(c.Stream, r.low, r.low, kernels.DropoutOptions{Scale: l.scale})
	for i, u := range l.up {
		c.Kernels.MatMul(c.Stream, y.Narrow(1, u.from, u.to), l.columns(r.low, i), u.weight.Weight(), inTypeOf(x, kernels.MatMulOptions{TransB: true, Accumulate: true}))
	}
}

// columns returns the columns of x [rows, k*rank] that belong to the i-th adapter.
func (l *lora) columns(x kernels.Tensor, i int) kernels.Tensor {
	return x.Narrow(1, i*l.rank, (i+1)*l.rank)
}

// input returns dropout(x).
func (l *lora) input(c *Context, r *loraRecord, x kernels.Tensor) kernels.Tensor {
	if l.rate == 0 || !r.training {
		return x
	}
	l.drop(c, r, r.dropped, x)
	return r.dropped
}

// drop computes y = dropout(x), sample by sample: what is dropped of a sample depends neither on its micro batch nor on which
// ranks have its tokens.
func (l *lora) drop(c *Context, r *loraRecord, y, x kernels.Tensor) {
	in := l.down.Parameters[0].Slice
	for b := range c.Size.Batch {
		for _, run := range c.Size.runs() {
			from, to := b*c.Size.Sequence+run.from, b*c.Size.Sequence+run.to
			c.Kernels.Dropout(c.Stream, y.Narrow(0, from, to), x.Narrow(0, from, to), kernels.DropoutOptions{
				Scale: 1 / (1 - l.rate), Rate: l.rate, Key: l.seed, Stream: l.random.Uint64(uint64(r.sample) + uint64(b)),
				First: run.position*in.Whole[1] + in.From[1], Columns: in.Whole[1]})
		}
	}
}

// backwardInput adds the adapters' part of the gradient of x to dx.
func (l *lora) backwardInput(c *Context, r *loraRecord, dx, dy kernels.Tensor) {
	for i, u := range l.up {
		c.Kernels.MatMul(c.Stream, l.columns(r.dLow, i), dy.Narrow(1, u.from, u.to), u.weight.Weight(), inTypeOf(dx, kernels.MatMulOptions{}))
	}
	c.Kernels.Dropout(c.Stream, r.dLow, r.dLow, kernels.DropoutOptions{Scale: l.scale})
	if l.rate == 0 {
		c.Kernels.MatMul(c.Stream, dx, r.dLow, l.down.Weight(), inTypeOf(dx, kernels.MatMulOptions{Accumulate: true}))
		return
	}
	c.Kernels.MatMul(c.Stream, r.dropped, r.dLow, l.down.Weight(), inTypeOf(dx, kernels.MatMulOptions{}))
	l.drop(c, r, r.dropped, r.dropped)
	c.Kernels.Add(c.Stream, dx, dx, r.dropped)
}

// backwardWeight computes dA = dlow^T dropout(x) and dB = dy^T low of each adapter.
func (l *lora) backwardWeight(c *Context, mb *MicroBatch, r *loraRecord, dy, x kernels.Tensor) {
	o := inTypeOf(x, kernels.MatMulOptions{TransA: true, Accumulate: mb.Accumulate})
	c.Kernels.MatMul(c.Stream, l.down.Gradient(mb.Gradients), r.dLow, l.input(c, r, x), o)
	for i, u := range l.up {
		c.Kernels.MatMul(c.Stream, u.weight.Gradient(mb.Gradients), dy.Narrow(1, u.from, u.to), l.columns(r.low, i), o)
	}
}
