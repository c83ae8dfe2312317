package optim

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// AdafactorOptions are the hyperparameters of Adafactor alone.
type AdafactorOptions struct {
	// Beta2Decay is the exponent of the step in 1 - beta2, at most 0.
	Beta2Decay float64
	// Eps is the least root of a second moment, MinScale what the root mean square of a parameter counts at least.
	Eps, MinScale float64
	// Threshold is the root mean square beyond which an update is scaled down to it, at least 1.
	Threshold float64
}

// adafactor is the optimizer of N. Shazeer and M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018,
// as torch.optim.Adafactor computes it: of a matrix's second moment it keeps the means over rows and columns, and a step's size
// is relative to that of the weights.
type adafactor struct {
	clipping
	options Options
	rules   []adafactorRule
	state   []StateTensor
}

// An adafactorRule updates one parameter, which is a matrix [R,C], or a vector as one of [R,1].
type adafactorRule struct {
	pieces      []adafactorPiece
	elements    int
	row, column kernels.Tensor // [R], [C]; no columns for a vector
	decay       float64

	// Within one update; the memory is that of all parameters.
	rows, columns    kernels.Tensor // [R], [C] sums of squares
	weights, updates kernels.Tensor // Float64, squared norms
	mean, size       kernels.Tensor // [1] Float64
}

// An adafactorPiece is a piece of a parameter. The views are of its rows, from the first to the last.
type adafactorPiece struct {
	model.Piece
	weight           kernels.Tensor // [rows,C]
	row, rows        kernels.Tensor // [rows]
	weights, updates kernels.Tensor // [blocks]
}

func newAdafactor(share Share, o Options, fixed, scratch *kernels.Arena) *adafactor {
	f := &adafactor{clipping: newClipping(share, o, fixed), options: o}
	var states [3][]StateTensor
	mark := scratch.Mark()
	scratch.Reserve() // a gradient's piece may be written to scratch memory while an update is under way
	for _, owned := range share.Shards.Owned() {
		p, r := owned.Parameter, newAdafactorRule(share, owned, o, fixed, scratch)
		f.rules = append(f.rules, r)
		if r.column.IsZero() {
			states[0] = append(states[0], StateTensor{variancePrefix + p.Name, r.row, owned.Slice})
		} else {
			states[1] = append(states[1], StateTensor{rowPrefix + p.Name, r.row, owned.Slice.Along(0)})
			states[2] = append(states[2], StateTensor{ColumnPrefix + p.Name, r.column, owned.Slice.Along(1)})
		}
	}
	scratch.Release(mark)
	for _, s := range states {
		f.state = append(f.state, s...)
	}
	return f
}

func newAdafactorRule(share Share, whole model.Piece, o Options, fixed, scratch *kernels.Arena) adafactorRule {
	p := whole.Parameter
	mark := scratch.Mark()
	defer scratch.Release(mark)
	blocks := kernels.SquaredNormBlocks(p.Len())
	r := adafactorRule{
		elements: p.Len(), decay: o.decay(p),
		row: fixed.Tensor(device.Float32, p.Shape[0]), rows: scratch.Tensor(device.Float32, p.Shape[0]),
		weights: scratch.Tensor(device.Float64, blocks), updates: scratch.Tensor(device.Float64, blocks),
		mean: scratch.Tensor(device.Float64, 1), size: scratch.Tensor(device.Float64, 1),
	}
	if len(p.Shape) > 1 {
		r.column, r.columns = fixed.Tensor(device.Float32, p.Shape[1]), scratch.Tensor(device.Float32, p.Shape[1])
	}
	width := p.Len() / p.Shape[0]
	for _, piece := range share.Shards.Split(whole) {
		first, end := piece.From/width, piece.To/width
		block, blockEnd := piece.From/kernels.SquaredNormBlock, kernels.SquaredNormBlocks(piece.To)
		r.pieces = append(r.pieces, adafactorPiece{
			Piece: piece, weight: share.Weights(piece).Reshape(end-first, width),
			row: r.row.Narrow(0, first, end), rows: r.rows.Narrow(0, first, end),
			weights: r.weights.Narrow(0, block, blockEnd), updates: r.updates.Narrow(0, block, blockEnd),
		})
	}
	return r
}

// Update enqueues the update of all weights.
func (f *adafactor) Update(k kernels.Operators, s device.Stream, g *model.Gradients, step int, lr float64) {
	for i := range f.rules {
		f.update(k, s, g, &f.rules[i], step, lr)
	}
}

// update enqueues the update of one parameter. A gradient in one piece stays in memory and becomes the update; one in several,
// of which one is in memory at a time, is written again for each pass.
func (f *adafactor) update(k kernels.Operators, s device.Stream, g *model.Gradients, r *adafactorRule, step int, lr float64) {
	o, whole := &f.options.Adafactor, len(r.pieces) == 1
	var x kernels.Tensor
	for i := range r.pieces {
		p := &r.pieces[i]
		x = p.gradient(k, s, g)
		k.SumSquares(s, p.rows, r.columns, x, i > 0)
		k.SquaredNorm(s, p.weights, p.weight)
	}
	k.AdafactorMoments(s, r.row, r.column, r.mean, r.rows, r.columns, f.clip, math.Pow(float64(step), o.Beta2Decay), o.Eps)
	for i := range r.pieces {
		p := &r.pieces[i]
		if !whole {
			x = p.gradient(k, s, g)
		}
		f.scale(k, s, x, r, p)
		k.SquaredNorm(s, p.updates, x)
	}
	k.AdafactorSize(s, r.size, r.weights, r.updates, r.elements,
		kernels.AdafactorOptions{LR: lr, Step: step, MinScale: o.MinScale, Threshold: o.Threshold})
	for i := range r.pieces {
		p := &r.pieces[i]
		if !whole {
			x = p.gradient(k, s, g)
			f.scale(k, s, x, r, p)
		}
		k.ApplyUpdate(s, p.weight, x, r.size, f.clip, 1-lr*r.decay, 1)
	}
}

// scale enqueues the scaling of a gradient's piece x, which becomes the update in place.
func (f *adafactor) scale(k kernels.Operators, s device.Stream, x kernels.Tensor, r *adafactorRule, p *adafactorPiece) {
	k.AdafactorScale(s, x, x, p.row, r.column, r.mean, f.clip, f.options.Adafactor.Eps)
}

// gradient returns the gradient of the piece, [rows,C].
func (p *adafactorPiece) gradient(k kernels.Operators, s device.Stream, g *model.Gradients) kernels.Tensor {
	return g.Piece(k, s, p.Piece).Reshape(p.weight.Shape[0], p.weight.Shape[1])
}

// State returns the second moments of all parameters.
func (f *adafactor) State() []StateTensor { return f.state }

// Unit returns Matrix: a step's size depends on the whole parameter.
func (f *adafactor) Unit() Unit { return Matrix }
