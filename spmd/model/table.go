package model

import "lockstep/kernels"

// A table is the embedding's, with its uses: that of the embedding, and one of each module of multi-token prediction, which the
// head has. Where the first and the last layer are on two ranks of a pipeline, one of them owns the weights: that with the
// head where they are tied, because the head needs all of them, else that with the embedding. The other borrows, before each
// step, the rows that the step touches, and returns their gradient after it. So no two ranks hold the table, and what they
// exchange grows with the batch and not with the vocabulary.
type table struct {
	uses  []*Use // of all ranks, in the order of use
	here  []*Use // this rank's, which follow one another
	owned bool   // whether this rank has the weights
}

// parameter returns the table's.
func (t *table) parameter() *Parameter { return t.uses[0].Parameters[0] }

// frozen reports whether the table has no gradient.
func (t *table) frozen() bool { return t.uses[0].frozen() }

// share says whether this rank holds the first layer and the last.
func (t *table) share(tied, first, last bool) {
	t.here, t.owned = nil, first
	if tied {
		t.owned = last
	}
	if first {
		t.here = append(t.here, t.uses[0])
	}
	if last {
		t.here = append(t.here, t.uses[1:]...)
	}
	for _, u := range t.here {
		u.borrowed = !t.owned
	}
}

// vocabulary returns which ids of the whole table this rank has.
func (u *Use) vocabulary() kernels.Vocabulary {
	s := u.Parameters[0].Slice
	return kernels.Vocabulary{First: s.From[0], Whole: s.Whole[0]}
}

// tableBuffer places the buffer [B*T,H] of lookUp and addRows, which is none where one rank has the whole table.
func (m *Memory) tableBuffer(u *Use, size Size) kernels.Tensor {
	if u.Parameters[0].Slice.IsWhole() {
		return kernels.Tensor{}
	}
	return m.exchanged(size, u.shape[1])
}

// lookUp gathers, for the tokens that this rank holds, the rows of the table that ids [B*T] Int32 name: out [S,H]. They are the
// given rows [B*T] Int32 of the step's touched ones. Each tensor rank has the rows of some ids and gives zeros for the others.
func (u *Use) lookUp(c *Context, out, buffer, ids, rows kernels.Tensor) {
	part := u.vocabulary()
	if u.borrowed {
		ids, part = rows, kernels.Vocabulary{Whole: u.weight.Shape[0]}
	}
	if c.Tensor == nil {
		c.Kernels.Embedding(c.Stream, out, u.weight, ids)
		return
	}
	c.Kernels.EmbeddingPart(c.Stream, buffer, u.weight, ids, part)
	c.total(out, buffer)
}

// addRows adds the gradient dout [S,H] of what lookUp gave to the touched rows of the table's gradient. Rows [B*T] Int32 that this
// rank does not have are negative.
func (u *Use) addRows(c *Context, mb *MicroBatch, dout, buffer, rows kernels.Tensor) {
	if u.frozen() {
		return
	}
	c.Kernels.EmbeddingBackward(c.Stream, u.rows(mb.Gradients, mb.Touched), c.whole(buffer, dout), rows, mb.Accumulate)
}
