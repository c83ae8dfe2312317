package model

import (
	"slices"
	"sort"

	"lockstep/kernels"
	"lockstep/spmd/shard"
)

// Shards say which part of the trained weights each of several ranks owns that hold the same ones: it updates them, and keeps
// the optimizer's state for them. Each bucket is cut in one part for each of its Reducers, in their order. This rank's parts of
// all buckets, one after the other, are a shard: a buffer of its own.
type Shards struct {
	Buckets []Bucket

	model  *Model
	places [NumReducers]Place
	base   map[*Parameter]shard.Slice // of the parameters before they were cut
	cuts   [][]int                    // by bucket: where the parts begin, and the end of the last
	at     []int                      // by bucket: where this rank's part begins in a shard, and the end of the last
}

// A Place is this rank's position among a number of ranks.
type Place struct{ Rank, Ranks int }

// Shard cuts buckets in parts for the ranks that each has, among which this one has the given places. Parts begin on blocks of
// kernels.SquaredNorm, or, of a parameter that must be whole, where that begins. The ranks' parts are about equal, as far as that
// goes.
func (m *Model) Shard(buckets []Bucket, places [NumReducers]Place, whole func(p *Parameter) bool) *Shards {
	s := &Shards{Buckets: buckets, model: m, places: places, base: map[*Parameter]shard.Slice{}, cuts: make([][]int, len(buckets)), at: make([]int, len(buckets)+1)}
	for _, p := range slices.Concat(m.Parameters, m.Frozen) {
		s.base[p] = p.Slice
	}
	var loads [NumReducers][]int
	for r, p := range places {
		loads[r] = make([]int, p.Ranks)
	}
	for i, b := range buckets {
		loads := loads[b.Reducers]
		s.cuts[i] = m.cut(b, loads, whole)
		for r := range loads {
			loads[r] += s.cuts[i][r+1] - s.cuts[i][r]
		}
		part := s.Part(i)
		s.at[i+1] = s.at[i] + part.To - part.From
	}
	return s
}

// cut returns where the ranks' parts of a bucket begin. loads is how much each has of other buckets: who has less gets more of
// this one.
func (m *Model) cut(b Bucket, loads []int, whole func(p *Parameter) bool) []int {
	parameters := m.within(b.Span)
	total := b.To - b.From
	for _, n := range loads {
		total += n
	}
	missing, all := make([]int, len(loads)), 0
	for r, n := range loads {
		missing[r] = max(0, total/len(loads)-n)
		all += missing[r]
	}
	cuts, sum := []int{b.From}, 0
	for _, n := range missing[:len(missing)-1] {
		sum += n
		at := b.From + int(float64(b.To-b.From)*float64(sum)/float64(max(1, all)))
		cuts = append(cuts, max(cuts[len(cuts)-1], m.border(b.Span, parameters, at, whole)))
	}
	return append(cuts, b.To)
}

// within returns the trained parameters in a span of the flat buffer, in its order.
func (m *Model) within(span Span) (list []*Parameter) {
	for _, p := range m.Parameters {
		if !p.Untrained && p.offset >= span.From && p.offset < span.To {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *Parameter) int { return a.offset - b.offset })
	return list
}

// border returns the border of parts that is the nearest to at.
func (m *Model) border(span Span, parameters []*Parameter, at int, whole func(p *Parameter) bool) int {
	i := sort.Search(len(parameters), func(i int) bool { return parameters[i].offset > at }) - 1
	if i < 0 { // a weight that is frozen comes first
		return span.From
	}
	p, end := parameters[i], span.To
	if i+1 < len(parameters) {
		end = parameters[i+1].offset
	}
	below, above := p.offset, end
	if !whole(p) {
		unit := m.unit(p)
		below += (at - p.offset) / unit * unit
		if next := below + unit; next < p.offset+p.Len() {
			above = next
		}
	}
	if at-below <= above-at {
		return below
	}
	return above
}

// unit returns the number of elements that parts of a parameter are multiples of: a block, of the embedding's table as many rows
// as fill whole blocks.
func (m *Model) unit(p *Parameter) int {
	if p == m.table.parameter() {
		return m.tableUnit() * p.Shape[1]
	}
	return kernels.SquaredNormBlock
}

// Elements returns the size of a shard.
func (s *Shards) Elements() int { return s.at[len(s.at)-1] }

// GradientElements returns the size of a shard of gradients, which ends before a table that has none.
func (s *Shards) GradientElements() int {
	if n := len(s.Buckets); n > 0 && s.Buckets[n-1].Kind == TableBucket {
		return s.at[n-1]
	}
	return s.Elements()
}

// WeightElements returns the size of a shard of weights, which ends with the parameters that no gradient changes, whole.
func (s *Shards) WeightElements() int { return s.Elements() + s.model.layout.weights - s.end() }

// end returns where the buckets end in the flat buffer of weights.
func (s *Shards) end() int {
	if len(s.Buckets) == 0 {
		return 0
	}
	return s.Buckets[len(s.Buckets)-1].To
}

// Counts returns the sizes of the ranks' parts of bucket i, in elements.
func (s *Shards) Counts(i int) []int {
	counts := make([]int, len(s.cuts[i])-1)
	for r := range counts {
		counts[r] = s.cuts[i][r+1] - s.cuts[i][r]
	}
	return counts
}

// Part returns this rank's part of bucket i in the flat buffers, and Place where that lies in a shard.
func (s *Shards) Part(i int) Span {
	rank := s.places[s.Buckets[i].Reducers].Rank
	return Span{s.cuts[i][rank], s.cuts[i][rank+1]}
}

func (s *Shards) Place(i int) Span { return Span{s.at[i], s.at[i+1]} }

// bucketOf returns the number of the bucket that has a trained parameter.
func (s *Shards) bucketOf(p *Parameter) int {
	return slices.IndexFunc(s.Buckets, func(b Bucket) bool { return b.From <= p.offset && p.offset < b.To })
}

// Reducers returns the ranks that add up the gradients of a parameter, or that have it where no gradient changes it.
func (s *Shards) Reducers(p *Parameter) Reducers {
	if i := s.bucketOf(p); i >= 0 {
		return s.Buckets[i].Reducers
	}
	return Replicas
}

// tableRows returns the first row of the embedding's table that each rank owns, and the number of rows at the end. It is nil
// where this rank holds no table that is trained.
func (s *Shards) tableRows() []int {
	p := s.model.table.parameter()
	if !s.model.table.owned || p.frozen {
		return nil
	}
	var rows []int
	for _, at := range s.cuts[s.bucketOf(p)] {
		rows = append(rows, min(max(0, at-p.offset), p.Len())/p.Shape[1])
	}
	return rows
}

// A Piece is a part of a parameter whose gradient is in memory at once. It begins on a block of kernels.SquaredNorm.
type Piece struct {
	Parameter *Parameter
	From, To  int // elements, in row-major order
	// Slice is the piece as a part of the parameter in files.
	Slice shard.Slice
	place int // of the first element in a shard
}

// Of returns the piece's part of a flat buffer of the weights' layout, In that of a shard: [To-From].
func (p Piece) Of(flat kernels.Tensor) kernels.Tensor {
	return flat.Narrow(0, p.Parameter.offset+p.From, p.Parameter.offset+p.To)
}

func (p Piece) In(shard kernels.Tensor) kernels.Tensor {
	return shard.Narrow(0, p.place, p.place+p.To-p.From)
}

// piece returns elements of a parameter, the first of which has the given place in a shard. Elements that only pad the parameter
// in memory have no slice.
func (s *Shards) piece(p *Parameter, from, to, place int) Piece {
	base := s.base[p]
	return Piece{p, from, to, base.Range(min(from, base.Len()), min(to, base.Len())), place}
}

// Owned returns the parts of parameters that this rank owns, in the order of the parameters.
func (s *Shards) Owned() (owned []Piece) {
	for _, p := range s.model.Parameters {
		if !p.Untrained {
			if o := s.owned(p); o.From < o.To {
				owned = append(owned, o)
			}
		}
	}
	return owned
}

// owned returns what this rank owns of a trained parameter.
func (s *Shards) owned(p *Parameter) Piece {
	i := s.bucketOf(p)
	part := s.Part(i)
	from, to := max(part.From, p.offset), min(part.To, p.offset+p.Len())
	if from >= to {
		return s.piece(p, 0, 0, s.at[i])
	}
	return s.piece(p, from-p.offset, to-p.offset, s.at[i]+from-part.From)
}

// Untrained returns the parameters that no gradient changes. All ranks have them, at the end of a shard.
func (s *Shards) Untrained() (list []Piece) {
	for _, p := range s.model.Parameters {
		if p.Untrained {
			list = append(list, s.piece(p, 0, p.Len(), s.Elements()+p.offset-s.end()))
		}
	}
	return list
}

// Pieces returns what this rank owns piece by piece.
func (s *Shards) Pieces() (pieces []Piece) {
	for _, o := range s.Owned() {
		pieces = append(pieces, s.Split(o)...)
	}
	return pieces
}

// Counted returns those of the pieces that this rank counts in the global norm: not those that another tensor rank has too.
func (s *Shards) Counted() []Piece {
	return slices.DeleteFunc(s.Pieces(), func(p Piece) bool {
		return s.Buckets[s.bucketOf(p.Parameter)].Reducers == Replicas && p.Parameter.copy > 0
	})
}

// Split returns the pieces of what this rank owns of a parameter: all at once, but for the table of an embedding that no head is
// tied to.
func (s *Shards) Split(owned Piece) (pieces []Piece) {
	per := owned.Parameter.Len()
	if s.model.isExpanded(owned.Parameter) {
		per = s.model.tablePiece() * owned.Parameter.Shape[1]
	}
	for from, end := owned.From, 0; from < owned.To; from = end { // pieces end where those of the whole parameter do
		end = min((from/per+1)*per, owned.To)
		pieces = append(pieces, s.piece(owned.Parameter, from, end, owned.place+from-owned.From))
	}
	return pieces
}

// Undivided returns the shards of a rank that owns all weights it holds.
func (m *Model) Undivided() *Shards {
	var runs []Span
	for i, held := range m.held {
		if held {
			runs = append(runs, Span{i, i + 1})
		}
	}
	var alone [NumReducers]Place
	for r := range alone {
		alone[r].Ranks = 1
	}
	return m.Shard(m.Buckets(runs, 0), alone, func(*Parameter) bool { return false })
}
