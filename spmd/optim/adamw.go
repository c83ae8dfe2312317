package optim

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// adamW is the optimizer of Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, as torch.optim.AdamW
// computes it. Its state is float32 and lies in two flat buffers of the weights' layout.
type adamW struct {
	clipping
	rules []adamWRule
	state []StateTensor
}

// An adamWRule updates one piece of a parameter. All tensors are [To-From].
type adamWRule struct {
	piece                  model.Piece
	weights, first, second kernels.Tensor
	options                kernels.AdamWOptions // but for the learning rate and the step
}

func newAdamW(share Share, o Options, a *kernels.Arena) *adamW {
	elements := share.Shards.Elements()
	first, second := a.Tensor(device.Float32, elements), a.Tensor(device.Float32, elements)
	w := &adamW{clipping: newClipping(share, o, a)}
	for _, p := range share.Shards.Pieces() {
		w.rules = append(w.rules, newAdamWRule(p, share.Weights(p), p.In(first), p.In(second), o))
	}
	w.state = append(stateOf(share.Shards.Owned(), firstMomentPrefix, first), stateOf(share.Shards.Owned(), secondMomentPrefix, second)...)
	return w
}

func newAdamWRule(p model.Piece, weights, first, second kernels.Tensor, o Options) adamWRule {
	return adamWRule{p, weights, first, second,
		kernels.AdamWOptions{Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.decay(p.Parameter)}}
}

// update enqueues the piece's update.
func (r *adamWRule) update(k kernels.Operators, s device.Stream, g *model.Gradients, clip kernels.Tensor, step int, lr float64) {
	o := r.options
	o.Step, o.LR = step, lr
	k.AdamW(s, r.weights, r.first, r.second, g.Piece(k, s, r.piece), clip, o)
}

// Update enqueues the update of all weights.
func (w *adamW) Update(k kernels.Operators, s device.Stream, g *model.Gradients, step int, lr float64) {
	for i := range w.rules {
		w.rules[i].update(k, s, g, w.clip, step, lr)
	}
}

// State returns both moments of all parameters.
func (w *adamW) State() []StateTensor { return w.state }

// Unit returns Element.
func (w *adamW) Unit() Unit { return Element }
