package train

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// reducer returns what adds up the gradients in sum over ranks, bucket by bucket as they are complete, nil where that comes after
// the backward pass.
func (t *Trainer) reducer(sum kernels.Tensor) pipeline.Reduce {
	if !t.overlap {
		return nil
	}
	return func(layer int, kind model.BucketKind) {
		for _, b := range t.buckets {
			if b.Kind == kind && b.Layers.From == layer {
				t.reduced = t.beside.AllReduce(sum.Narrow(0, b.From, b.To).Region(), t.sum, t.Stream.Record())
			}
		}
	}
}

// reduceRest adds up, over ranks, the gradients that have not been while the backward pass went on.
func (t *Trainer) reduceRest() device.Event {
	g := t.placed.gradients
	if !t.overlap {
		return t.data.AllReduce(g.Used().Region(), t.sum, t.Stream.Record())
	}
	if rows := g.Rows(); rows.Len() > 0 {
		t.reduced = t.beside.AllReduce(rows.Region(), t.sum, t.Stream.Record())
	}
	return t.reduced
}
