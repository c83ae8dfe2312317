package model

import (
	"slices"
)

// A Bucket is a run of neighbouring weights in the flat buffer that ranks which hold the same ones exchange at once: their
// gradients when those are complete, and where ranks share the weights, those before they are used.
type Bucket struct {
	Span
	// Gradients is where the gradients of these weights lie in a gradient buffer.
	Gradients Span
	// Layers are the layers whose weights these are. In the backward pass the gradients are complete with those of the first.
	Layers Span
	Kind   BucketKind
	// Reducers are the ranks that add up these gradients.
	Reducers Reducers
	// Turn is, where Fold has made gradients share memory, in which of the places these are.
	Turn int
}

// Turns is the number of places that the gradients of a region may have.
const Turns = 3

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
		buckets = append(buckets, Bucket{Span: Span{p.offset, p.offset + align(p.Len())}, Layers: Span{0, 1}, Kind: TableBucket, Reducers: Replicas})
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
				buckets[i].To, buckets[i].Gradients.To, buckets[i].Layers.To = b.To, b.Gradients.To, b.Layers.To
			} else {
				buckets = append(buckets, b)
			}
		}
	}
	return buckets
}

// takes reports whether the bucket b of the same or the next layer may be joined to a.
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
		at, n := u.Parameters[0].offset, align(u.elements())
		b := Bucket{Span: Span{at, at + n}, Gradients: Span{u.gradient, u.gradient + n}, Layers: Span{layer, layer + 1}, Reducers: u.reducers}
		if h != nil && u == h.output.weight {
			b.Kind = OutputBucket
		}
		if i := slices.IndexFunc(buckets, func(a Bucket) bool { return a.takes(b, 0) }); i >= 0 {
			buckets[i].To, buckets[i].Gradients.To = b.To, b.Gradients.To
		} else {
			buckets = append(buckets, b)
		}
	}
	return buckets
}

// Fold gives the gradients of all buckets of a region two places in turn, in the order in which they are complete: those of one are
// written while ranks exchange those of the one before. So a gradient buffer has, in place of all gradients, no more than those
// of two buckets of each region. Where forward passes run together with backward passes, the output projection's gradients have a
// third place. It comes before Chunk, and changes buckets.
func (m *Model) Fold(buckets []Bucket, together bool) {
	m.layout.dense = 0
	for r := range NumReducers {
		m.layout.dense += m.foldRegion(buckets, r, m.layout.dense, together)
	}
	for _, u := range m.table.here {
		u.gradient = m.layout.dense
	}
}

// foldRegion folds the buckets of one region into memory from an element of a gradient buffer on, and returns how much that is.
func (m *Model) foldRegion(buckets []Bucket, r Reducers, from int, together bool) int {
	var order []*Bucket
	for i := len(buckets) - 1; i >= 0; i-- {
		switch b := &buckets[i]; {
		case b.Reducers != r || b.Kind == TableBucket:
		case b.Kind == OutputBucket: // the forward pass completes it
			order = slices.Insert(order, 0, b)
		default:
			order = append(order, b)
		}
	}
	var sizes [Turns]int
	for n, b := range order {
		if b.Turn = n % 2; together && b.Kind == OutputBucket {
			b.Turn = 2
		}
		sizes[b.Turn] = max(sizes[b.Turn], b.To-b.From)
	}
	for _, b := range order {
		at := from
		for _, size := range sizes[:b.Turn] {
			at += size
		}
		for _, u := range m.uses {
			if offset := u.Parameters[0].offset; u.trained() && !slices.Contains(m.table.uses, u) && offset >= b.From && offset < b.To {
				u.gradient = at + offset - b.From
			}
		}
		b.Gradients = Span{at, at + b.To - b.From}
	}
	return sizes[0] + sizes[1] + sizes[2]
}
