package optim

import (
	"fmt"
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// MuonOptions are the hyperparameters of Muon alone.
type MuonOptions struct {
	// Momentum is the decay rate of the mean of the gradients; Nesterov looks one step ahead.
	Momentum float64
	Nesterov bool
	// Steps is the number of Newton-Schulz iterations.
	Steps int
	// AdjustLR is how the learning rate of a matrix [R,C] follows from its shape, as torch.optim.Muon's adjust_lr_fn: original
	// multiplies it by sqrt(max(1, R/C)), match_rms_adamw by 0.2*sqrt(max(R, C)), spectral_unclamped by sqrt(R/C).
	AdjustLR string
	// AdamWRate is what multiplies the learning rate of the parameters that are left to AdamW.
	AdamWRate float64
}

// adjusted returns the factor of a matrix's learning rate.
func (o *MuonOptions) adjusted(rows, columns int) float64 {
	r, c := float64(rows), float64(columns)
	switch o.AdjustLR {
	case "original":
		return math.Sqrt(max(1, r/c))
	case "match_rms_adamw":
		return 0.2 * math.Sqrt(max(r, c))
	case "spectral_unclamped":
		return math.Sqrt(r / c)
	}
	panic(fmt.Sprintf("optim: Muon adjusts no learning rate by %q", o.AdjustLR)) // the configuration is checked
}

// The coefficients of the iteration's polynomial and the least norm that it divides by: those of Jordan, which are PyTorch's
// defaults.
const newtonSchulzA, newtonSchulzB, newtonSchulzC, newtonSchulzEps = 3.4445, -4.7750, 2.0315, 1e-7

// muon is the optimizer of K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024, as torch.optim.Muon
// computes it, but for the iteration, which is in float32 and not in bfloat16. It updates the matrices of hidden layers, each
// parameter for itself; all others are AdamW's.
type muon struct {
	clipping
	options  MuonOptions
	matrices []muonRule
	rest     []adamWRule
	state    []StateTensor
}

// A muonRule updates one matrix, [R,C].
type muonRule struct {
	piece             model.Piece
	weights, momentum kernels.Tensor // [R,C]
	decay, adjusted   float64

	// Within one update; the memory is that of all matrices.
	update, next kernels.Tensor // [R,C]
	gram, square kernels.Tensor // [n,n] with n the smaller of R and C
	sums         kernels.Tensor // Float64, squared norms
}

func newMuon(m *model.Model, share Share, o Options, fixed, scratch *kernels.Arena) *muon {
	u := &muon{options: o.Muon, clipping: newClipping(share, o, fixed)}
	var first, second []StateTensor
	for _, owned := range share.Shards.Owned() {
		name, slice := owned.Parameter.Name, owned.Slice
		if m.IsHiddenMatrix(owned.Parameter) {
			momentum := fixed.Tensor(device.Float32, owned.Parameter.Shape...)
			u.matrices = append(u.matrices, newMuonRule(owned, share.Weights(owned), momentum, o, scratch))
			u.state = append(u.state, StateTensor{momentumPrefix + name, momentum, slice})
			continue
		}
		n := owned.To - owned.From
		a, b := fixed.Tensor(device.Float32, n), fixed.Tensor(device.Float32, n)
		first, second = append(first, StateTensor{firstMomentPrefix + name, a, slice}), append(second, StateTensor{secondMomentPrefix + name, b, slice})
		for _, p := range share.Shards.Split(owned) {
			from, to := p.From-owned.From, p.To-owned.From
			u.rest = append(u.rest, newAdamWRule(p, share.Weights(p), a.Narrow(0, from, to), b.Narrow(0, from, to), o))
		}
	}
	u.state = append(append(u.state, first...), second...)
	return u
}

func newMuonRule(p model.Piece, weights, momentum kernels.Tensor, o Options, scratch *kernels.Arena) muonRule {
	rows, columns := p.Parameter.Shape[0], p.Parameter.Shape[1]
	n := min(rows, columns)
	mark := scratch.Mark()
	defer scratch.Release(mark)
	return muonRule{
		piece: p, weights: weights.Reshape(rows, columns), momentum: momentum,
		decay: o.decay(p.Parameter), adjusted: o.Muon.adjusted(rows, columns),
		update: scratch.Tensor(device.Float32, rows, columns), next: scratch.Tensor(device.Float32, rows, columns),
		gram: scratch.Tensor(device.Float32, n, n), square: scratch.Tensor(device.Float32, n, n),
		sums: scratch.Tensor(device.Float64, kernels.SquaredNormBlocks(rows*columns)),
	}
}

// Update enqueues the update of all weights.
func (u *muon) Update(k kernels.Operators, s device.Stream, g *model.Gradients, step int, lr float64) {
	for i := range u.matrices {
		r := &u.matrices[i]
		gradient := g.Piece(k, s, r.piece).Reshape(r.weights.Shape[0], r.weights.Shape[1])
		k.MuonMomentum(s, r.update, r.momentum, gradient, u.clip, kernels.MuonOptions{Momentum: u.options.Momentum, Nesterov: u.options.Nesterov})
		orthogonal := r.orthogonalize(k, s, u.options.Steps)
		k.ApplyUpdate(s, r.weights, orthogonal, kernels.Tensor{}, u.clip, 1-lr*r.decay, lr*r.adjusted)
	}
	for i := range u.rest {
		u.rest[i].update(k, s, g, u.clip, step, lr*u.options.AdamWRate)
	}
}

// orthogonalize enqueues the Newton-Schulz iteration, which brings all singular values of the update X close to 1, and returns
// the tensor that has its result. Each step is, with A = X X^T for a wide X,
//
//	X = a X + (b A + c A A) X
//
// and likewise from the right, with A = X^T X, for a tall one.
func (r *muonRule) orthogonalize(k kernels.Operators, s device.Stream, steps int) kernels.Tensor {
	x, y := r.update, r.next
	tall := x.Shape[0] > x.Shape[1]
	k.SquaredNorm(s, r.sums, x)
	k.Normalize(s, x, x, r.sums, newtonSchulzEps)
	for range steps {
		k.MatMul(s, r.gram, x, x, kernels.MatMulOptions{TransA: tall, TransB: !tall})
		k.MatMul(s, r.square, r.gram, r.gram, kernels.MatMulOptions{})
		k.AddScaled(s, r.square, r.square, r.gram, newtonSchulzC, newtonSchulzB)
		k.AddScaled(s, y, x, kernels.Tensor{}, newtonSchulzA, 0)
		left, right := r.square, x
		if tall {
			left, right = right, left
		}
		k.MatMul(s, y, left, right, kernels.MatMulOptions{Accumulate: true})
		x, y = y, x
	}
	return x
}

// State returns the momenta of the matrices, and the moments of all other parameters.
func (u *muon) State() []StateTensor { return u.state }

// Unit returns Matrix: the iteration mixes all rows and columns.
func (u *muon) Unit() Unit { return Matrix }
