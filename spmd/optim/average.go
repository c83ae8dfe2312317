package optim

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// An Average is the exponential moving average of the weights over the steps of a run, as torch.optim.swa_utils'
// get_ema_multi_avg_fn computes it. Averaged weights are often better than those of the last step (B. Polyak and A. Juditsky,
// "Acceleration of Stochastic Approximation by Averaging", 1992).
type Average struct {
	// Weights are the averaged weights, in the layout of the weights.
	Weights kernels.Tensor
	decay   float64
}

// NewAverage places the average of weights in a.
func NewAverage(weights kernels.Tensor, decay float64, a *kernels.Arena) *Average {
	return &Average{a.Tensor(device.Float32, weights.Len()), decay}
}

// Start enqueues that the average begins with the given weights.
func (a *Average) Start(k kernels.Operators, s device.Stream, weights kernels.Tensor) {
	k.Copy(s, a.Weights, weights)
}

// Update enqueues that the average moves towards the weights of a step.
func (a *Average) Update(k kernels.Operators, s device.Stream, weights kernels.Tensor) {
	k.Lerp(s, a.Weights, weights, 1-a.decay)
}
