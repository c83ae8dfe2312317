package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Gather is a run of weights of which each of several ranks keeps a part alone, and which they bring together for the layers that
// use it: a bucket, or frozen weights of one layer.
type Gather struct {
	Reducers Reducers
	// Bytes is the size of all of it, Counts the sizes of the ranks' parts in bytes, Part the bytes of this rank's.
	Bytes  int
	Counts []int
	Part   Span
	// Frozen says that this rank's part is in its shard of the frozen weights, From where it begins there, or in the shard of the
	// others, in bytes.
	Frozen bool
	From   int

	frozen Span // bytes of the buffer of frozen weights
}

// Gathers returns what is to be brought together: the buckets, in their order, and then the frozen weights.
func (s *Shards) Gathers() (list []Gather) {
	const size = 4 // of Float32
	for i, b := range s.Buckets {
		g := Gather{Reducers: b.Reducers, Bytes: size * (b.To - b.From), Counts: s.Counts(i), From: size * s.at[i]}
		for r := range g.Counts {
			g.Counts[r] *= size
		}
		part := s.Part(i)
		g.Part = Span{size * (part.From - b.From), size * (part.To - b.From)}
		list = append(list, g)
	}
	at := 0
	for _, g := range s.model.frozenRuns() {
		place := s.places[g.Reducers]
		cut := func(rank int) int { return g.Bytes / frozenAlign * rank / place.Ranks * frozenAlign }
		for r := range place.Ranks {
			g.Counts = append(g.Counts, cut(r+1)-cut(r))
		}
		g.Part, g.From = Span{cut(place.Rank), cut(place.Rank + 1)}, at
		at += g.Part.To - g.Part.From
		list = append(list, g)
	}
	return list
}

// frozenAlign is the alignment of uses in the buffer of frozen weights, in bytes: that of the narrowest type.
const frozenAlign = 2 * bufferAlign

// frozenRuns returns the frozen weights of each layer that this rank holds, as runs of the buffer. A tied table is the head's.
func (m *Model) frozenRuns() (runs []Gather) {
	for layer := len(m.Layers) - 1; layer >= 0; layer-- {
		first := len(runs)
		for _, u := range m.Layers[layer].Uses() {
			if !slices.Contains(m.uses, u) || !u.frozen() || slices.ContainsFunc(runs, func(g Gather) bool { return g.frozen.From <= u.place && u.place < g.frozen.To }) {
				continue
			}
			n := align(u.elements()) * u.dtype.Size()
			if i := len(runs) - 1; i >= first && runs[i].Reducers == u.reducers && runs[i].frozen.To == u.place {
				runs[i].frozen.To += n
				runs[i].Bytes += n
			} else {
				runs = append(runs, Gather{Reducers: u.reducers, Bytes: n, Frozen: true, frozen: Span{u.place, u.place + n}})
			}
		}
	}
	return runs
}

// FrozenBytes returns the size of this rank's shard of the frozen weights.
func (s *Shards) FrozenBytes() (bytes int) {
	for _, g := range s.Gathers()[len(s.Buckets):] {
		bytes += g.Part.To - g.Part.From
	}
	return bytes
}

// A Need is a Gather of weights that a layer uses, by its number.
type Need struct {
	Gather int
	// At is where it begins, in bytes, in the memory for the layer's weights, if that is not the flat buffer.
	At int
}

// Needs returns what each layer of the model uses, of those that this rank holds.
func (s *Shards) Needs() [][]Need {
	gathers, needs := s.Gathers(), make([][]Need, len(s.model.Layers))
	for layer, l := range s.model.Layers {
		at := 0
		for _, u := range l.Uses() {
			if !slices.Contains(s.model.uses, u) || u.Parameters[0].Untrained && !u.frozen() {
				continue
			}
			i := s.gatherOf(gathers, u)
			if !slices.ContainsFunc(needs[layer], func(n Need) bool { return n.Gather == i }) {
				needs[layer] = append(needs[layer], Need{i, at})
				at += gathers[i].Bytes
			}
		}
	}
	return needs
}

// gatherOf returns the number of the Gather that has a use's weights.
func (s *Shards) gatherOf(gathers []Gather, u *Use) int {
	if !u.frozen() {
		return s.bucketOf(u.Parameters[0])
	}
	return slices.IndexFunc(gathers, func(g Gather) bool { return g.Frozen && g.frozen.From <= u.place && u.place < g.frozen.To })
}

// Turns returns the sizes in bytes of the two places that the layers' weights are in in turn, where each rank keeps its shard alone:
// even layers have the first, odd ones the second.
func (s *Shards) Turns() (bytes [2]int) {
	gathers := s.Gathers()
	for layer, needs := range s.Needs() {
		for _, n := range needs {
			bytes[layer%2] = max(bytes[layer%2], n.At+gathers[n.Gather].Bytes)
		}
	}
	return bytes
}

// BindTurns is Bind where this rank keeps its shards of the weights alone [WeightElements] and of the frozen ones [FrozenBytes], and a
// layer's weights are in one of two places [Turns] only while they are used. Parameters become what this rank has of them.
func (m *Model) BindTurns(s *Shards, weights, frozen kernels.Tensor, turns [2]kernels.Tensor) {
	for _, p := range m.Parameters {
		if !p.Untrained {
			o := s.owned(p)
			p.Weight, p.Slice = o.In(weights), o.Slice
		}
	}
	for _, p := range s.Untrained() {
		p.Parameter.Weight = p.In(weights)
	}
	for _, u := range m.uses { // those that are frozen in a use that is not
		for _, p := range u.Parameters {
			if p.frozen && !u.frozen() {
				o := s.owned(p)
				p.Weight, p.Slice = o.In(weights), o.Slice
			}
		}
	}
	gathers, needs := s.Gathers(), s.Needs()
	for layer, l := range m.Layers {
		for _, u := range l.Uses() {
			if !slices.Contains(m.uses, u) {
				continue
			}
			first := u.Parameters[0]
			if first.Untrained && !u.frozen() {
				u.weight = first.Weight.Reshape(u.shape...)
				continue
			}
			number := s.gatherOf(gathers, u)
			i := slices.IndexFunc(needs[layer], func(n Need) bool { return n.Gather == number })
			g, at := gathers[number], needs[layer][i].At
			if g.Frozen {
				at += u.place - g.frozen.From
				s.bindFrozen(u, g, frozen)
			} else {
				at += (first.offset - s.Buckets[number].From) * device.Float32.Size()
			}
			place := turns[layer%2]
			u.weight = kernels.NewTensor(place.Storage, place.Offset+at, u.dtype, u.shape...)
		}
	}
}

// bindFrozen makes the parameters of a frozen use what this rank has of them in its shard.
func (s *Shards) bindFrozen(u *Use, g Gather, frozen kernels.Tensor) {
	at, size := u.place-g.frozen.From, u.dtype.Size() // in g
	for _, p := range u.Parameters {
		end := at + p.Len()*size
		from := min(max(g.Part.From, at), end)
		to := max(from, min(g.Part.To, end))
		base := s.base[p]
		p.Slice = base.Range(min((from-at)/size, base.Len()), min((to-at)/size, base.Len()))
		p.Weight = kernels.NewTensor(frozen.Storage, frozen.Offset+g.From+from-g.Part.From, u.dtype, (to-from)/size)
		at = end
	}
}
