package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Need is a bucket of weights that a layer uses.
type Need struct {
	Bucket int
	// At is where the bucket begins in the memory for the layer's weights, if that is not the flat buffer.
	At int
}

// Needs returns the buckets that each layer of the model uses, of those that this rank holds.
func (s *Shards) Needs() [][]Need {
	needs := make([][]Need, len(s.model.Layers))
	for layer, l := range s.model.Layers {
		at := 0
		for _, u := range l.Uses() {
			if !slices.Contains(s.model.uses, u) || !u.trained() {
				continue
			}
			b := s.bucketOf(u.Parameters[0])
			if !slices.ContainsFunc(needs[layer], func(n Need) bool { return n.Bucket == b }) {
				needs[layer] = append(needs[layer], Need{b, at})
				at += s.Buckets[b].To - s.Buckets[b].From
			}
		}
	}
	return needs
}

// Turns returns the sizes of the two places that the layers' weights are in in turn, where each rank keeps its shard alone: even
// layers have the first, odd ones the second.
func (s *Shards) Turns() (elements [2]int) {
	for layer, needs := range s.Needs() {
		for _, n := range needs {
			b := s.Buckets[n.Bucket]
			elements[layer%2] = max(elements[layer%2], n.At+b.To-b.From)
		}
	}
	return elements
}

// BindTurns is Bind where this rank keeps its shard of the weights alone [WeightElements], and a layer's weights are in one of two
// places only while they are used. Parameters become what this rank owns of them.
func (m *Model) BindTurns(s *Shards, shard kernels.Tensor, turns [2]kernels.Tensor, frozen kernels.Tensor) error {
	if err := bind(shard, frozen, slices.DeleteFunc(slices.Clone(m.uses), func(u *Use) bool { return !u.frozen() })); err != nil {
		return err
	}
	for _, p := range s.Untrained() {
		p.Parameter.Weight = p.In(shard)
	}
	for _, p := range m.Parameters {
		if !p.Untrained {
			o := s.owned(p)
			p.Weight, p.Slice = o.In(shard), o.Slice
		}
	}
	needs := s.Needs()
	for layer, l := range m.Layers {
		for _, u := range l.Uses() {
			first := u.Parameters[0]
			switch {
			case !slices.Contains(m.uses, u) || u.frozen():
			case first.Untrained:
				u.weight = first.Weight.Reshape(u.shape...)
			default:
				b := s.bucketOf(first)
				i := slices.IndexFunc(needs[layer], func(n Need) bool { return n.Bucket == b })
				at, place := needs[layer][i].At+first.offset-s.Buckets[b].From, turns[layer%2]
				u.weight = kernels.NewTensor(place.Storage, place.Offset+at*device.Float32.Size(), device.Float32, u.shape...)
			}
		}
	}
	return nil
}
