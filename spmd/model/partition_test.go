package model_test

import (
	"fmt"
	"slices"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// partOf returns what one rank holds of a model, with its initial weights by name.
func partOf(t *testing.T, c *model.Config, part model.Partition, dev *cpu.Device, s device.Stream) (m *model.Model, values map[string][]float32) {
	t.Helper()
	m = model.New(c, part)
	storage, err := dev.Alloc(4 * m.WeightElements())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Bind(kernels.NewTensor(storage, 0, device.Float32, m.WeightElements()), kernels.Tensor{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Initialize(dev, s, nil, 5); err != nil {
		t.Fatal(err)
	}
	values = map[string][]float32{}
	for _, p := range m.Parameters {
		v := make([]float32, p.Len())
		if err := dev.Read(s, device.BytesOf(v), p.Weight.Region()); err != nil {
			t.Fatal(err)
		}
		values[p.Name] = v
	}
	return m, values
}

// counted returns the pieces that a tensor rank counts in the global norm.
func counted(m *model.Model, part model.Partition) []model.Piece {
	share := part.HeadSharing(m.Config.NumKeyValueHeads)
	places := [model.NumReducers]model.Place{
		model.TensorReplicas: {Rank: part.TensorRank, Ranks: part.Tensor},
		model.HeadReplicas:   {Rank: part.TensorRank % share, Ranks: share},
		model.Replicas:       {Rank: 0, Ranks: 1},
	}
	buckets := m.Buckets([]model.Span{{From: 0, To: len(m.Layers)}}, 1000)
	return m.Shard(buckets, places, func(*model.Parameter) bool { return false }).Counted()
}

// TestTensorPartition puts the parts of tensor ranks together: every rank has the values that one rank alone begins with, and
// each element is counted by one rank.
func TestTensorPartition(t *testing.T) {
	for _, family := range model.Families() {
		for _, part := range []model.Partition{{Tensor: 2}, {Tensor: 4}, {Tensor: 4, SequenceParallel: true}} { // with 2 key-value heads
			dev, s := open(t)
			c := small(t, family, dev, s).Config
			alone, whole := partOf(t, c, model.Partition{}, dev, s)
			times := map[string][]int{}
			for name, values := range whole {
				times[name] = make([]int, len(values))
			}
			for part.TensorRank = range part.Tensor {
				what := fmt.Sprintf("%s, %+v", family, part)
				m, values := partOf(t, c, part, dev, s)
				if m.NumParameters() != alone.NumParameters() {
					t.Errorf("%s: %d parameters in all, one rank alone has %d", what, m.NumParameters(), alone.NumParameters())
				}
				for _, p := range m.Parameters {
					for r := range p.Slice.Runs() {
						if !slices.Equal(values[p.Name][r.Slice:r.Slice+r.Len], whole[p.Name][r.Whole:r.Whole+r.Len]) {
							t.Fatalf("%s: elements from %d on of %s do not have their values", what, r.Whole, p.Name)
						}
					}
				}
				for _, piece := range counted(m, part) {
					for r := range piece.Parameter.Slice.Range(piece.From, piece.To).Runs() {
						for i := range r.Len {
							times[piece.Parameter.Name][r.Whole+i]++
						}
					}
				}
			}
			for _, p := range alone.Parameters {
				if i := slices.IndexFunc(times[p.Name], func(n int) bool { return n != 1 }); i >= 0 && !p.Untrained {
					t.Errorf("%s on %d ranks: element %d of %s is counted %d times", family, part.Tensor, i, p.Name, times[p.Name][i])
				}
			}
		}
	}
}
