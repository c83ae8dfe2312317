package optim

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// An Average is the exponential moving average of the weights over the steps of a run, as torch.optim.swa_utils'
// get_ema_multi_avg_fn computes it. Averaged weights are often better than those of the last step (B. Polyak and A. Juditsky,
// "Acceleration of Stochastic Approximation by Averaging", 1992).
//
// A rank averages the weights that it owns.
type Average struct {
	rules    []averageRule
	pieces   []model.Piece // all that is averaged
	averages kernels.Tensor
	decay    float64
}

// An averageRule averages one piece of a parameter. All tensors are [To-From].
type averageRule struct{ average, weights, other kernels.Tensor }

// NewAverage places the average: fixed keeps it, scratch is free between the methods' calls.
func NewAverage(share Share, decay float64, fixed, scratch *kernels.Arena) *Average {
	a := &Average{averages: fixed.Tensor(device.Float32, share.Shards.WeightElements()), decay: decay}
	untrained := share.Shards.Untrained()
	a.pieces = append(share.Shards.Owned(), untrained...)
	for _, p := range append(share.Shards.Pieces(), untrained...) {
		mark := scratch.Mark()
		a.rules = append(a.rules, averageRule{p.In(a.averages), share.Weights(p), scratch.Tensor(device.Float32, p.To-p.From)})
		scratch.Release(mark)
	}
	return a
}

// State lists the averages of all parameters, with a prefix of their names in checkpoints.
func (a *Average) State(prefix string) []StateTensor { return stateOf(a.pieces, prefix, a.averages) }

// Start enqueues that the average begins with the weights.
func (a *Average) Start(k kernels.Operators, s device.Stream) {
	for _, r := range a.rules {
		k.Copy(s, r.average, r.weights)
	}
}

// Update enqueues that the average moves towards the weights of a step.
func (a *Average) Update(k kernels.Operators, s device.Stream) {
	for _, r := range a.rules {
		k.Lerp(s, r.average, r.weights, 1-a.decay)
	}
}

// Swap enqueues that the average and the weights change places.
func (a *Average) Swap(k kernels.Operators, s device.Stream) {
	for _, r := range a.rules {
		k.Copy(s, r.other, r.weights)
		k.Copy(s, r.weights, r.average)
		k.Copy(s, r.average, r.other)
	}
}
