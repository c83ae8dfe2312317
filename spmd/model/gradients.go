package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Gradients are the gradients of a step once they are summed, as an optimizer takes them: piece by piece. Those of the
// embedding's table are rows at the end of Flat. Where the output head is tied to the table they are added to the head's
// gradient; else a piece of the table's gradient is written out when it is asked for, so that the whole is never in memory.
type Gradients struct {
	// Flat is a gradient buffer: [GradientElements] Float32.
	Flat kernels.Tensor
	// Touched are the ids of its rows.
	Touched *Touched

	model    *Model
	own      Span           // of the table's rows: those whose gradients this rank has once they are summed
	table    Piece          // these rows
	cuts     []int          // the first row of the table that each rank has, and the end of the last; nil where that is another stage's
	shard    kernels.Tensor // [GradientElements] of this rank's shard, where it keeps no other gradients, else none
	ids      kernels.Tensor // [rows] Int32: the touched ids, each counted from the first of its piece of the table
	expanded kernels.Tensor // one piece of the table's gradient, none where the head is tied to it
	host     []int32        // what ids receives
	loan     loan
}

// PlaceGradients places what a buffer of gradients needs beside it, for steps of at most rows different ids: fixed keeps it all
// the time, scratch is free between steps' passes and the next piece. Once gradients are summed, this rank has its part of the
// shards: in flat, or in a buffer of these alone [shards.GradientElements] where there is one.
func (m *Model) PlaceGradients(flat, shard kernels.Tensor, shards *Shards, rows int, fixed, scratch *kernels.Arena) *Gradients {
	g := &Gradients{Flat: flat, model: m, own: Span{0, m.Vocabulary()}, shard: shard, host: make([]int32, rows),
		Touched: NewTouched(m.table.uses[0].vocabulary(), m.Vocabulary(), rows)}
	if g.cuts = shards.tableRows(); g.cuts != nil {
		rank := shards.places[Replicas].Rank
		g.own, g.table = Span{g.cuts[rank], g.cuts[rank+1]}, shards.owned(m.table.parameter())
	}
	if m.UsesTable() {
		g.ids = fixed.Tensor(device.Int32, rows)
	}
	if m.table.owned && m.isExpanded(m.table.parameter()) {
		mark := scratch.Mark()
		g.expanded = scratch.Tensor(device.Float32, m.tablePiece()*m.Config.HiddenSize)
		scratch.Release(mark)
	}
	g.loan = m.table.placeLoan(rows, fixed)
	return g
}

// WriteIDs enqueues the writing of the touched ids, for use after a step's backward passes, and by Lend.
func (g *Gradients) WriteIDs(d device.Device, s device.Stream) {
	n, per := g.Touched.Len(), int32(g.model.tablePiece())
	if !g.loan.ids.IsZero() {
		d.Write(s, g.loan.ids.Narrow(0, 0, n).Region(), device.BytesOf(g.Touched.ids))
	}
	base := int32(0) // the first row of what Merge adds to
	if g.model.Config.TieWordEmbeddings {
		base = int32(g.own.From)
	}
	for row, id := range g.Touched.ids {
		g.host[row] = max(0, id-base) % per
	}
	d.Write(s, g.ids.Narrow(0, 0, n).Region(), device.BytesOf(g.host[:n]))
}

// Rows returns the part of Flat that is touched rows.
func (g *Gradients) Rows() kernels.Tensor {
	return g.Flat.Narrow(0, g.model.GradientElements(0), g.model.GradientElements(g.Touched.Len()))
}

// Of returns a region of Flat, which ranks exchange, the last with the touched rows.
func (g *Gradients) Of(r Region) kernels.Tensor {
	if r.Reducers == Replicas {
		r.To = g.model.GradientElements(g.Touched.Len())
	}
	return g.Flat.Narrow(0, r.From, r.To)
}

// CountRows fills counts with the bytes of touched rows that each rank of the shards owns, and returns for how many uses of the table
// there are as many: none where the rank that has the table is another one.
func (g *Gradients) CountRows(counts []int) (uses int) {
	if g.cuts == nil {
		return 0
	}
	for r := range counts {
		first, end := g.Touched.within(g.cuts[r], g.cuts[r+1])
		counts[r] = (end - first) * g.model.Config.HiddenSize * device.Float32.Size()
	}
	return len(g.model.table.here)
}

// Merge enqueues the addition of the rows of further uses of the table to those of the embedding, in the order of use, and of
// all to the gradient of a tied head. It comes after all sums over micro batches and ranks, and after Returned has been filled: this
// order does not depend on the layout of ranks.
func (g *Gradients) Merge(k kernels.Operators, s device.Stream) {
	m := g.model
	first, end := g.Touched.within(g.own.From, g.own.To)
	if m.table.frozen() || !m.table.owned || first == end {
		return
	}
	rows := g.tableRows(0).Narrow(0, first, end)
	for i := range m.table.uses[1:] {
		k.Add(s, rows, rows, g.tableRows(i+1).Narrow(0, first, end))
	}
	if m.Config.TieWordEmbeddings {
		table := g.Piece(k, s, g.table).Split(0, g.own.To-g.own.From, m.Config.HiddenSize)
		k.EmbeddingBackward(s, table, rows, g.ids.Narrow(0, first, end), true)
	}
}

// tableRows returns the rows of the gradient of a use of the table, on the rank that owns it.
func (g *Gradients) tableRows(use int) kernels.Tensor {
	t, n := &g.model.table, g.Touched.Len()
	if u := t.uses[use]; slices.Contains(t.here, u) {
		return u.rows(g.Flat, n)
	}
	return g.Returned().Split(0, t.away(), n).Narrow(0, use-t.firstAway(), use-t.firstAway()+1).Reshape(n, g.model.Config.HiddenSize)
}

// Piece returns the gradient of a piece, [To-From], and enqueues its writing where it has none of its own in memory: then
// the next piece takes its place. Merge has been called.
func (g *Gradients) Piece(k kernels.Operators, s device.Stream, p Piece) kernels.Tensor {
	m := g.model
	switch {
	case m.isExpanded(p.Parameter):
	case g.shard.IsZero():
		return p.Of(g.Flat)
	default:
		return p.In(g.shard)
	}
	width := m.Config.HiddenSize
	first, end := g.Touched.within(p.From/width, p.To/width)
	rows := g.tableRows(0).Narrow(0, first, end)
	border := p.From / width / m.tablePiece() * m.tablePiece() // from where ids count
	piece := g.expanded.Narrow(0, 0, p.To-border*width)
	k.EmbeddingBackward(s, piece.Split(0, p.To/width-border, width), rows, g.ids.Narrow(0, first, end), false)
	return piece.Narrow(0, p.From-border*width, p.To-border*width)
}

// isExpanded reports whether p is a table whose gradient is its touched rows alone.
func (m *Model) isExpanded(p *Parameter) bool {
	return !m.Config.TieWordEmbeddings && p == m.table.parameter() && !p.frozen
}

// pieceElements bounds a piece of the table's gradient, as far as blocks of the norm allow: 16 MiB, like the head's logits.
const pieceElements = 4 << 20

// tablePiece returns how many rows of the table a piece has: all where the head is tied to it.
func (m *Model) tablePiece() int {
	vocabulary, width := m.Vocabulary(), m.Config.HiddenSize
	if m.Config.TieWordEmbeddings {
		return vocabulary
	}
	unit := m.tableUnit()
	return min(vocabulary, max(1, pieceElements/width/unit)*unit)
}

// tableUnit returns how many rows of the table fill whole blocks of the norm.
func (m *Model) tableUnit() int {
	unit := kernels.SquaredNormBlock
	for unit > 1 && unit/2*m.Config.HiddenSize%kernels.SquaredNormBlock == 0 {
		unit /= 2
	}
	return unit
}
