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

// lookUp gathers the rows of the table [T,H] that ids [T] Int32 name, which are the given rows [T] Int32 of the step's touched
// ones.
func (u *Use) lookUp(c *Context, out, ids, rows kernels.Tensor) {
	if u.borrowed {
		ids = rows
	}
	c.Kernels.Embedding(c.Stream, out, u.weight, ids)
}
