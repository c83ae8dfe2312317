package model

import (
	"slices"
	"sort"

	"lockstep/kernels"
)

// A Bucket is a run of neighbouring weights, in the flat buffer of weights and in that of gradients, that ranks which hold the
// same ones exchange at once: their gradients when those are complete, and where ranks share the weights, those before they
// are used.
type Bucket struct {
	Span
	// Layers are the layers whose weights these are. In the backward pass the gradients are complete with those of the first.
	Layers Span
	Kind   BucketKind
	// Reducers are the ranks that add up these gradients.
	Reducers Reducers
}

// A BucketKind says when a bucket's gradients are complete.
type BucketKind uint8

// The weights of layers, whose gradients the backward pass completes; the output projection, whose gradient the forward pass
// completes; and a table that no head is tied to, which has no gradient but touched rows.
const (
	LayersBucket BucketKind = iota
	OutputBucket
	TableBucket
)

// Buckets cuts the trained weights that this rank holds into buckets, in the order of the flat buffer. A bucket takes, of one
// region, whole layers of one of the runs, as many as fit in most elements, but one at least.
func (m *Model) Buckets(runs []Span, most int) (buckets []Bucket) {
	for r := range NumReducers {
		for _, run := range runs {
			buckets = append(buckets, m.regionBuckets(r, run, most)...)
		}
	}
	if p := m.table.parameter(); m.table.owned && m.isExpanded(p) {
		at := p.offset
		buckets = append(buckets, Bucket{Span{at, at + align(p.Len())}, Span{0, 1}, TableBucket, Replicas})
	}
	return buckets
}

// regionBuckets returns the buckets of one region that are of a run of layers.
func (m *Model) regionBuckets(r Reducers, run Span, most int) (buckets []Bucket) {
	for layer := run.From; layer < run.To; layer++ {
		for _, b := range m.layerBuckets(layer) {
			if b.Reducers != r {
				continue
			}
			if i := len(buckets) - 1; i >= 0 && buckets[i].takes(b, most) {
				buckets[i].To, buckets[i].Layers.To = b.To, b.Layers.To
			} else {
				buckets = append(buckets, b)
			}
		}
	}
	return buckets
}

// takes reports whether the bucket b of the next layer may be joined to a.
func (a *Bucket) takes(b Bucket, most int) bool {
	return a.Kind == b.Kind && a.Reducers == b.Reducers && a.To == b.From && (a.Layers.To == b.Layers.To || b.To-a.From <= most)
}

// layerBuckets returns the buckets of one layer alone.
func (m *Model) layerBuckets(layer int) (buckets []Bucket) {
	h, _ := m.Layers[layer].(*head)
	for _, u := range m.Layers[layer].Uses() {
		if !u.trained() || slices.Contains(m.table.uses, u) {
			continue
		}
		b := Bucket{Span{u.gradient, u.gradient + align(u.elements())}, Span{layer, layer + 1}, LayersBucket, u.reducers}
		if h != nil && u == h.output.weight {
			b.Kind = OutputBucket
		}
		if i := slices.IndexFunc(buckets, func(a Bucket) bool { return a.takes(b, 0) }); i >= 0 {
			buckets[i].To = b.To
		} else {
			buckets = append(buckets, b)
		}
	}
	return buckets
}

// Shards say which part of the trained weights each of several ranks owns that hold the same ones: it updates them, and keeps
// the optimizer's state for them. Each bucket is cut in one part for each of its Reducers, in their order. This rank's parts of
// all buckets, one after the other, are a shard: a buffer of its own.
type Shards struct {
	Buckets []Bucket

	model  *Model
	places [NumReducers]Place
	cuts   [][]int // by bucket: where the parts begin, and the end of the last
	at     []int   // by bucket: where this rank's part begins in a shard, and the end of the last
}

// A Place is this rank's position among a number of ranks.
type Place struct{ Rank, Ranks int }

// Shard cuts buckets in parts for the ranks that each has, among which this one has the given places. Parts begin on blocks of kernels.SquaredNorm, or, of a parameter that
// must be whole, where that begins. The ranks' parts are about equal, as far as that goes.
func (m *Model) Shard(buckets []Bucket, places [NumReducers]Place, whole func(p *Parameter) bool) *Shards {
	s := &Shards{Buckets: buckets, model: m, places: places, cuts: make([][]int, len(buckets)), at: make([]int, len(buckets)+1)}
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

// Counts appends the sizes of the ranks' parts of bucket i to counts, in elements.
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

// TableRows returns the rows of the embedding's table that each rank owns, as the first of each, and their number. It is nil where
// this rank holds no table that is trained.
func (s *Shards) TableRows() []int {
	p := s.model.table.parameter()
	if !s.model.table.owned || p.frozen {
		return nil
	}
	i := slices.IndexFunc(s.Buckets, func(b Bucket) bool { return b.From <= p.offset && p.offset < b.To })
	var rows []int
	for _, at := range s.cuts[i] {
		rows = append(rows, min(max(0, at-p.offset), p.Len())/p.Shape[1])
	}
	return rows
}

// Pieces returns the pieces of all parameters that this rank owns, in the order of the buckets.
func (s *Shards) Pieces() []Piece { return s.pieces(func(Bucket, *Parameter) bool { return true }) }

// Counted returns those of the pieces that this rank counts in the global norm: not those that another tensor rank has too.
func (s *Shards) Counted() []Piece {
	return s.pieces(func(b Bucket, p *Parameter) bool { return b.Reducers != Replicas || p.copy == 0 })
}

func (s *Shards) pieces(of func(b Bucket, p *Parameter) bool) (pieces []Piece) {
	for i, b := range s.Buckets {
		part := s.Part(i)
		for _, p := range s.model.within(b.Span) {
			if !of(b, p) {
				continue
			}
			from, to := max(part.From, p.offset), min(part.To, p.offset+p.Len())
			per := p.Len()
			if s.model.isExpanded(p) {
				per = s.model.tablePiece() * p.Shape[1]
			}
			for end := from; from < to; from = end { // pieces end where those of the whole parameter do
				end = min(p.offset+((from-p.offset)/per+1)*per, to)
				pieces = append(pieces, Piece{p, from - p.offset, end - p.offset, s.at[i] + from - part.From})
			}
		}
	}
	return pieces
}
