// Package optim updates the weights: the optimizers with their state, the clipping of the global gradient norm, the average
// of the weights, and the learning-rate schedules.
package optim

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
	"lockstep/spmd/shard"
)

// An Optimizer holds the state that one rule for all weights, or several for some each, keep of a run. Its methods enqueue
// work and return at once.
type Optimizer interface {
	// SumSquares adds up the squares of the gradients that this rank counts. It returns their exact sum [ExactSumLen] Float64,
	// which the ranks then replace by the sum of all of theirs.
	SumSquares(k kernels.Operators, s device.Stream, g *model.Gradients) kernels.Tensor
	// Clip computes, from the exact sum of all ranks, the global norm and the factor that Update multiplies gradients with.
	Clip(k kernels.Operators, s device.Stream)
	// Norm returns the tensor in which Clip leaves {norm, factor, finite}: [3] Float64.
	Norm() kernels.Tensor
	// Update changes all weights. step counts from 1; lr is the learning rate of the step. Where the norm is not finite, the
	// weights and the state stay as they are. The gradients are used up.
	Update(k kernels.Operators, s device.Stream, g *model.Gradients, step int, lr float64)
	// State lists the tensors that a checkpoint holds, all of them in an order that depends on the model alone.
	State() []StateTensor
	// Unit is the smallest part of a parameter that can be updated without looking at the rest of it.
	Unit() Unit
}

// A StateTensor is a tensor of an optimizer's state under its name in checkpoints: one of StatePrefixes and the Hugging Face
// name of the parameter that it belongs to.
type StateTensor struct {
	Name  string
	Value kernels.Tensor // Float32, dense; the slice's elements come first
	// Slice says which part of the whole tensor, with the shape that checkpoints have, this rank holds.
	Slice shard.Slice
}

// stateOf lists pieces of parameters in a shard of an optimizer's state.
func stateOf(pieces []model.Piece, prefix string, shard kernels.Tensor) (list []StateTensor) {
	for _, p := range pieces {
		list = append(list, StateTensor{prefix + p.Parameter.Name, p.In(shard), p.Slice})
	}
	return list
}

// The prefixes of the names of states.
const (
	firstMomentPrefix  = "exp_avg/"         // AdamW's mean of the gradients
	secondMomentPrefix = "exp_avg_sq/"      // and of their squares
	momentumPrefix     = "momentum_buffer/" // Muon's mean of the gradients
	rowPrefix          = "row_var/"         // Adafactor's mean squares of the rows of a gradient, [R]
	variancePrefix     = "variance/"        // Adafactor's mean squares of a vector's gradient
)

// ColumnPrefix is the prefix of Adafactor's mean squares of the columns of a gradient, [C].
const ColumnPrefix = "col_var/"

// StatePrefixes returns the prefixes of all optimizers' states; they are PyTorch's names.
func StatePrefixes() []string {
	return []string{firstMomentPrefix, secondMomentPrefix, momentumPrefix, rowPrefix, ColumnPrefix, variancePrefix}
}

// A Unit is what ranks that share an optimizer's state may not cut.
type Unit uint8

// Each element for itself (AdamW), or whole parameters (Muon, Adafactor), which are matrices and vectors.
const (
	Element Unit = iota
	Matrix
)

// String returns the unit's name.
func (u Unit) String() string { return [...]string{"element", "matrix"}[u] }

// Options are an optimizer's hyperparameters.
type Options struct {
	// Type is adamw, muon or adafactor.
	Type string
	// WeightDecay applies to parameters of two or more dimensions.
	WeightDecay float64
	// ClipGradNorm bounds the global L2 norm of the gradients; 0 means no bound.
	ClipGradNorm float64
	// AdamW's, also for those parameters that Muon leaves to it.
	Beta1, Beta2, Eps float64
	Muon              MuonOptions
	Adafactor         AdafactorOptions
}

// whole reports whether p is updated as a whole only.
func (o *Options) whole(m *model.Model, p *model.Parameter) bool {
	return o.Type == "adafactor" || o.Type == "muon" && m.IsHiddenMatrix(p)
}

// Whole returns which parameters ranks that share the optimizer's state may not cut.
func (o *Options) Whole(m *model.Model) func(p *model.Parameter) bool {
	return func(p *model.Parameter) bool { return o.whole(m, p) }
}

// A Share is a rank's part of the work.
type Share struct {
	// Shards say what the rank owns: it updates these weights, and has their gradients and the state for them.
	Shards *model.Shards
	// Weights returns where the weights of a piece are.
	Weights func(p model.Piece) kernels.Tensor
	// Counted are the pieces of gradients that this rank counts in the global norm: each is counted by one of the ranks that
	// have it.
	Counted []model.Piece
}

// New places the state of an optimizer: fixed gives zeroed memory and keeps it, scratch is free between Updates.
func New(m *model.Model, share Share, o Options, fixed, scratch *kernels.Arena) Optimizer {
	switch o.Type {
	case "muon":
		return newMuon(m, share, o, fixed, scratch)
	case "adafactor":
		return newAdafactor(share, o, fixed, scratch)
	}
	return newAdamW(share, o, fixed)
}

// decay returns the factor of decoupled weight decay, which is that of parameters of two or more dimensions.
func (o *Options) decay(p *model.Parameter) float64 {
	if len(p.Shape) >= 2 {
		return o.WeightDecay
	}
	return 0
}

// A clipping is the part that all optimizers share.
type clipping struct {
	counted []model.Piece
	maxNorm float64
	sums    kernels.Tensor // [blocks of what is counted] Float64: squared norms
	total   kernels.Tensor // [ExactSumLen] Float64: their exact sum
	clip    kernels.Tensor // [3] Float64: norm, factor, finite
}

func newClipping(share Share, o Options, a *kernels.Arena) clipping {
	blocks := 0
	for _, p := range share.Counted {
		blocks += kernels.SquaredNormBlocks(p.To - p.From)
	}
	return clipping{share.Counted, o.ClipGradNorm, a.Tensor(device.Float64, blocks), a.Tensor(device.Float64, kernels.ExactSumLen), a.Tensor(device.Float64, 3)}
}

// SumSquares enqueues the sum of the squares of the gradients that are counted: a float64 sum over each of the fixed blocks of a
// parameter, and an exact sum of those. So it does not depend on which rank has which block, nor on their order.
func (c *clipping) SumSquares(k kernels.Operators, s device.Stream, g *model.Gradients) kernels.Tensor {
	at := 0
	for _, p := range c.counted {
		n := kernels.SquaredNormBlocks(p.To - p.From)
		k.SquaredNorm(s, c.sums.Narrow(0, at, at+n), g.Piece(k, s, p))
		at += n
	}
	k.Zero(s, c.total)
	if at > 0 {
		k.AddExact(s, c.total, c.sums)
	}
	return c.total
}

// Clip enqueues the computation of the norm from the exact sum.
func (c *clipping) Clip(k kernels.Operators, s device.Stream) {
	k.ClipFactor(s, c.clip, c.total, c.maxNorm)
}

// Norm returns the tensor in which Clip leaves {norm, factor, finite}.
func (c *clipping) Norm() kernels.Tensor { return c.clip }
