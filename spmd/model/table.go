package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

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
	if c.spread() {
		dout = c.whole(buffer, dout)
	}
	c.Kernels.EmbeddingBackward(c.Stream, u.rows(mb.Gradients, mb.Touched), dout, rows, mb.AccumulateRows)
}

// UsesTable reports whether this rank looks at the embedding's table or has it, and so needs the touched ids of a step.
func (m *Model) UsesTable() bool { return m.table.owned || len(m.table.here) > 0 }

// BorrowsTable reports whether this rank looks at a table that another one has.
func (m *Model) BorrowsTable() bool { return !m.table.owned && len(m.table.here) > 0 }

// LendsTable reports whether another rank looks at the table that this one has.
func (m *Model) LendsTable() bool { return m.table.owned && m.table.away() > 0 }

// TableLayer returns a layer of this rank's that has the weights of the embedding's table, none where it does not have them.
func (m *Model) TableLayer() (layer int, ok bool) {
	layer, u := m.tableUse()
	return layer, u != nil
}

// tableUse returns a use of the table's weights, and its layer.
func (m *Model) tableUse() (int, *Use) {
	for i, l := range m.Layers {
		for _, u := range l.Uses() {
			if u.Parameters[0] == m.table.parameter() && slices.Contains(m.uses, u) {
				return i, u
			}
		}
	}
	return 0, nil
}

// away returns the number of uses on another rank, firstAway the first of them.
func (t *table) away() int { return len(t.uses) - len(t.here) }

func (t *table) firstAway() int {
	if len(t.here) > 0 && t.here[0] == t.uses[0] {
		return len(t.here)
	}
	return 0
}

// loan is the memory for what the owner of the table and who borrows it exchange.
type loan struct {
	ids  kernels.Tensor // [rows] Int32: the touched ids, on the owner
	lent kernels.Tensor // [rows,H]: their rows, on both
	// returned [rows*uses on the other rank,H] are the gradients of those uses, on the owner.
	returned kernels.Tensor
}

// placeLoan places a loan in steps of at most the given number of touched rows. A borrowed table's weights are the rows lent.
func (t *table) placeLoan(rows int, a *kernels.Arena) (l loan) {
	u := t.uses[0]
	width := u.shape[1]
	switch {
	case t.owned && t.away() > 0:
		l.ids = a.Tensor(device.Int32, rows)
		l.lent = a.Tensor(device.Float32, rows, width)
		if !t.frozen() {
			l.returned = a.Tensor(device.Float32, rows*t.away(), width)
		}
	case !t.owned && len(t.here) > 0:
		l.lent = a.Tensor(device.Float32, rows, width)
		for _, u := range t.here {
			u.weight = l.lent
		}
	}
	return l
}

// Lent returns the rows [touched,H] of the embedding's table that its owner sends before a step, and where the other rank receives
// them.
func (g *Gradients) Lent() kernels.Tensor { return g.loan.lent.Narrow(0, 0, g.Touched.Len()) }

// Lend fills Lent. WriteIDs has been called.
func (g *Gradients) Lend(k kernels.Operators, s device.Stream) {
	_, u := g.model.tableUse()
	k.Embedding(s, g.Lent(), u.weight, g.loan.ids.Narrow(0, 0, g.Touched.Len()))
}

// Returned returns the gradients of the rows that were borrowed, summed over micro batches and replicas: where they are on the rank
// that sends them after a step, and where the owner receives them. It is none where the table is frozen.
func (g *Gradients) Returned() kernels.Tensor {
	t, n := &g.model.table, g.Touched.Len()
	switch {
	case t.frozen():
		return kernels.Tensor{}
	case t.owned:
		return g.loan.returned.Narrow(0, 0, n*t.away())
	}
	from := g.model.layout.dense
	return g.Flat.Narrow(0, from, from+len(t.here)*n*t.here[0].shape[1]).Split(0, len(t.here)*n, t.here[0].shape[1])
}
