// Package optim updates the weights: AdamW with its state, the clipping of the global gradient norm, and the learning-rate
// schedules.
package optim

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// Options are the optimizer's hyperparameters.
type Options struct {
	Beta1, Beta2, Eps float64
	// WeightDecay applies to parameters of two or more dimensions.
	WeightDecay float64
	// ClipGradNorm bounds the global L2 norm of the gradients; 0 means no bound.
	ClipGradNorm float64
}

// AdamW is the optimizer of Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, as torch.optim.AdamW
// computes it. Its state is float32 and lies in two flat buffers of the weights' layout.
type AdamW struct {
	pieces  []model.Piece
	weights kernels.Tensor // [WeightElements]
	options Options
	// FirstMoment and SecondMoment are exp_avg and exp_avg_sq of PyTorch: [WeightElements] Float32.
	FirstMoment, SecondMoment kernels.Tensor

	sums kernels.Tensor // [blocks of all parameters] Float64: squared norms
	clip kernels.Tensor // [3] Float64: norm, factor, finite
}

// NewAdamW places the state of an optimizer of the given weights [WeightElements] in a, which gives zeroed memory.
func NewAdamW(m *model.Model, weights kernels.Tensor, o Options, a *kernels.Arena) *AdamW {
	pieces, blocks := m.Pieces(), 0
	for _, p := range pieces {
		blocks += kernels.SquaredNormBlocks(p.To - p.From)
	}
	return &AdamW{
		pieces: pieces, weights: weights, options: o,
		FirstMoment:  a.Tensor(device.Float32, m.WeightElements()),
		SecondMoment: a.Tensor(device.Float32, m.WeightElements()),
		sums:         a.Tensor(device.Float64, blocks),
		clip:         a.Tensor(device.Float64, 3),
	}
}

// Clip enqueues the computation of the gradients' global norm and of the factor that Update multiplies them with. The norm
// is a float64 sum over fixed blocks of each parameter in a fixed order, whatever the layout of ranks.
func (o *AdamW) Clip(k kernels.Operators, s device.Stream, g *model.Gradients) {
	at := 0
	for _, p := range o.pieces {
		n := kernels.SquaredNormBlocks(p.To - p.From)
		k.SquaredNorm(s, o.sums.Narrow(0, at, at+n), g.Piece(k, s, p))
		at += n
	}
	k.ClipFactor(s, o.clip, o.sums, o.options.ClipGradNorm)
}

// Update enqueues the update of all weights. step counts from 1. Where the norm is not finite nothing changes.
func (o *AdamW) Update(k kernels.Operators, s device.Stream, g *model.Gradients, step int, lr float64) {
	for _, p := range o.pieces {
		decay := 0.0
		if len(p.Parameter.Shape) >= 2 {
			decay = o.options.WeightDecay
		}
		k.AdamW(s, p.Of(o.weights), p.Of(o.FirstMoment), p.Of(o.SecondMoment), g.Piece(k, s, p), o.clip,
			kernels.AdamWOptions{LR: lr, Beta1: o.options.Beta1, Beta2: o.options.Beta2, Eps: o.options.Eps, WeightDecay: decay, Step: step})
	}
}

// Norm returns the tensor in which Clip leaves {norm, factor, finite}: [3] Float64.
func (o *AdamW) Norm() kernels.Tensor { return o.clip }
