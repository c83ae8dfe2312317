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

func newAdamW(m *model.Model, weights kernels.Tensor, o Options, a *kernels.Arena) *adamW {
	first, second := a.Tensor(device.Float32, m.WeightElements()), a.Tensor(device.Float32, m.WeightElements())
	w := &adamW{clipping: newClipping(m, o, a)}
	for _, p := range w.pieces {
		w.rules = append(w.rules, newAdamWRule(p, p.Of(weights), p.Of(first), p.Of(second), o))
	}
	for _, moment := range []struct {
		prefix string
		values kernels.Tensor
	}{{firstMomentPrefix, first}, {secondMomentPrefix, second}} {
		for _, p := range trained(m) {
			w.state = append(w.state, StateTensor{moment.prefix + p.Name, m.Slice(moment.values, p), p.Slice})
		}
	}
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

// trained returns the parameters that have gradients.
func trained(m *model.Model) (list []*model.Parameter) {
	for _, p := range m.Parameters {
		if !p.Untrained {
			list = append(list, p)
		}
	}
	return list
}
