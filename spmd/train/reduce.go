package train

import (
	"slices"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// A reducing is a group of ranks that add up their gradients in a region of the buffer.
type reducing struct {
	group   collective.Group // for a step that waits for it
	beside  collective.Group // the same, for what goes on beside the computation
	reduced device.Event     // the last reduction
}

// add starts to add up gradients in g, and notes when that is done.
func (r *reducing) add(g collective.Group, gradients kernels.Tensor, sum collective.Reduction, after device.Event) {
	r.reduced = g.AllReduce(gradients.Region(), sum, after)
}

// reducers returns the ranks that add up their gradients in a region of the buffer, this one included.
func (l *Layout) reducers(r model.Reducers) []int {
	switch r {
	case model.TensorReplicas:
		return l.Mesh.TensorReplicas(l.Mesh.Size(mesh.Tensor))
	case model.ExpertReplicas:
		return l.Mesh.ExpertReplicas()
	case model.HeadReplicas:
		return l.Mesh.TensorReplicas(l.Model.Partition.HeadSharing(l.Config.Architecture.NumKeyValueHeads))
	}
	return l.Mesh.Replicas()
}

// places returns this rank's positions among the reducers.
func (l *Layout) places() (places [model.NumReducers]model.Place) {
	for r := range places {
		ranks := l.reducers(model.Reducers(r))
		places[r] = model.Place{Rank: slices.Index(ranks, l.Mesh.Rank), Ranks: len(ranks)}
	}
	return places
}

// reducer returns what adds up the gradients in sum over ranks, bucket by bucket as they are complete, nil where that comes after
// the backward pass.
func (t *Trainer) reducer(sum kernels.Tensor) pipeline.Reduce {
	if !t.overlap {
		return nil
	}
	return func(layer int, kind model.BucketKind, complete device.Event) {
		for _, b := range t.buckets {
			if b.Kind == kind && b.Layers.From == layer {
				r := &t.reducing[b.Reducers]
				r.add(r.beside, sum.Narrow(0, b.From, b.To), t.sum, complete)
			}
		}
	}
}

// reduceRest adds up, over ranks, the gradients that have not been while the backward pass went on.
func (t *Trainer) reduceRest() {
	g := t.placed.gradients
	if !t.overlap {
		for _, region := range t.Model.Regions() {
			r := &t.reducing[region.Reducers]
			r.add(r.group, g.Of(region), t.sum, t.Stream.Record())
		}
		return
	}
	if r := &t.reducing[model.Replicas]; g.Rows().Len() > 0 {
		r.add(r.beside, g.Rows(), t.sum, t.Stream.Record())
	}
}
