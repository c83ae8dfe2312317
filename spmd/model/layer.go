package model

import (
	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Layer is one step of the model. It holds its weights' places and nothing else; everything that belongs to a micro batch
// is in the Record and in the arguments.
type Layer interface {
	// Name is the Hugging Face name of the module, such as "model.layers.3".
	Name() string
	// Uses lists the weights in the order of their gradients.
	Uses() []*Use
	// NewRecord places what one micro batch of the given size needs.
	NewRecord(k kernels.Operators, size Size, m *Memory) Record
	// Forward computes out from in, both [B*T,H] of the tokens that this rank holds. The first layer reads the micro batch's ids
	// in place of in, the last
	// leaves the loss in place of out.
	Forward(c *Context, r Record, mb *MicroBatch, in, out kernels.Tensor)
	// Recompute computes again what the record does not keep, by the operators that Forward computed it with and so to the
	// same bits. It runs before BackwardInput, and where a schedule runs BackwardWeight apart, before that too; never where
	// NewRecord was told to keep everything. It counts nothing that Forward has counted.
	Recompute(c *Context, r Record, mb *MicroBatch)
	// BackwardInput computes din from dout; the first layer leaves din alone, the last reads no dout. It saves in the
	// record what BackwardWeight needs.
	BackwardInput(c *Context, r Record, mb *MicroBatch, dout, din kernels.Tensor)
	// BackwardWeight adds the gradients of the weights to the micro batch's gradient buffer. dout is what BackwardInput
	// got.
	BackwardWeight(c *Context, r Record, mb *MicroBatch, dout kernels.Tensor)
}

// A Recompute says what a layer computes again in the backward pass instead of keeping it. Layers that have nothing to gain
// take all for KeepAll.
type Recompute uint8

// KeepAll keeps what the forward pass computes, but for what costs no more than a look at memory: norms and activations.
// RecomputeSelective keeps what is small for what it takes to compute, RecomputeFull nothing but the layer's input.
const (
	KeepAll Recompute = iota
	RecomputeSelective
	RecomputeFull
)

// A Record is what a layer keeps of one micro batch. Each layer has a type of its own.
type Record any

// A Size is the shape of a micro batch as one rank has it: T tokens of each of B samples.
type Size struct {
	Batch, Sequence int
	// Split says which tokens of a sample the rank has.
	Split Split
	// Shards is the number of tensor ranks that hold the tokens between them outside of the parts of layers, each the same
	// number of them; 0 and 1 mean that each rank holds all.
	Shards int
}

// Tokens returns B*T.
func (s Size) Tokens() int { return s.Batch * s.Sequence }

// Held returns how many of the tokens this rank holds.
func (s Size) Held() int { return s.Tokens() / max(1, s.Shards) }

// Memory says where the parts of a record go.
type Memory struct {
	// Recompute says what the layer keeps in Saved.
	Recompute Recompute
	// DType is the type of activations and of their gradients, Float32 or BFloat16. Statistics, what routers compute, logits and
	// losses are Float32 whatever it says.
	DType device.DType
	// Residual is the type of the sum that runs through all layers, which each part adds to, and of its gradient.
	Residual device.DType
	// Saved holds what lives from a micro batch's forward pass to the end of its backward pass.
	Saved *kernels.Arena
	// Delayed holds what lives from BackwardInput to BackwardWeight. It is Scratch where the two follow each other.
	Delayed *kernels.Arena
	// Scratch holds what lives within one call; layers share it. What Recompute fills lives on to the call that follows.
	Scratch *kernels.Arena
	// Exchanged is like Scratch, in memory that other ranks reach, for what layers exchange with them. It is Scratch itself
	// where they exchange nothing.
	Exchanged *kernels.Arena
	// DispatchFactor is for how many rows a rank has memory that receives them from the ranks that share experts with it, by
	// their number at an even load; at least 1.
	DispatchFactor float64
}

// marks are the places of an Arena.Mark in both scratch arenas.
type marks struct{ scratch, exchanged int }

func (m *Memory) mark() marks { return marks{m.Scratch.Mark(), m.Exchanged.Mark()} }

// release gives back all scratch memory that was placed since a mark.
func (m *Memory) release(to marks) {
	m.Scratch.Release(to.scratch)
	m.Exchanged.Release(to.exchanged)
}

// split reports whether a schedule runs BackwardWeight apart from BackwardInput.
func (m *Memory) split() bool { return m.Delayed != m.Scratch }

// activation places an activation, or the gradient of one, in a.
func (m *Memory) activation(a *kernels.Arena, shape ...int) kernels.Tensor {
	return a.Tensor(m.DType, shape...)
}

// residual places the sum that runs through all layers, or its gradient, in a.
func (m *Memory) residual(a *kernels.Arena, shape ...int) kernels.Tensor {
	return a.Tensor(m.Residual, shape...)
}

// statistic places a tensor of Float32 in a, whatever activations are.
func (m *Memory) statistic(a *kernels.Arena, shape ...int) kernels.Tensor {
	return a.Tensor(device.Float32, shape...)
}

// keep returns where goes what is kept with r and with all that keep more: to Saved, or to Scratch where it is computed
// again.
func (m *Memory) keep(r Recompute) *kernels.Arena {
	if m.Recompute <= r {
		return m.Saved
	}
	return m.Scratch
}

// A MicroBatch is what one forward and backward pass works on.
type MicroBatch struct {
	IDs    kernels.Tensor // [B*T] Int32
	Labels kernels.Tensor // [B*T] Int32, negative where there is no loss, kernels.PaddingLabel where there is no token
	// Positions are the tokens' positions [B,T] Int32 where they start again in each document, else none: then they count
	// from 0 in each sample.
	Positions kernels.Tensor
	// Documents are the first keys of the queries' documents, Int32, see kernels.AttentionOptions, where a token attends only
	// to its own document, else none: for each step of the ring, one without ring ranks, [B,T], T being the tokens of all
	// Ulysses ranks. See Size.CutDocuments.
	Documents kernels.Tensor
	// Rows are the ids' rows [B*T] Int32 among the Touched rows of the step. The forward pass does not need them.
	Rows    kernels.Tensor
	Touched int
	// Sample is the number of the first sample in the run, which dropout takes its random numbers from.
	Sample int64
	// Loss receives the sum of the tokens' losses: [1] Float64.
	Loss kernels.Tensor
	// LossScale multiplies the loss's gradient: one over the label tokens of the whole step.
	LossScale float64
	// Gradients is the flat buffer that the weights' gradients go to, none when only the loss is wanted.
	Gradients kernels.Tensor
	// Accumulate adds to Gradients instead of overwriting, AccumulateRows to the touched rows in it.
	Accumulate, AccumulateRows bool
	// Experts is what the layers with experts share.
	Experts ExpertBatch
	// Ahead has what each module of multi-token prediction reads and predicts.
	Ahead []Ahead
}

// Ahead is what a module of multi-token prediction takes of a micro batch: for each token the one that is a fixed number of
// tokens further in its sample, and what follows that.
type Ahead struct {
	IDs, Rows kernels.Tensor // [B*T] Int32, as those of a MicroBatch
	Labels    kernels.Tensor // [B*T] Int32, negative where the sample or the document ends before
	// Loss receives the sum of the tokens' losses: [1] Float64.
	Loss kernels.Tensor
}

// A Context is where layers run: the operators, the stream, the size of the micro batches, and tables that depend on the
// position alone.
type Context struct {
	Kernels  kernels.Device
	Stream   device.Stream
	Size     Size
	Cos, Sin kernels.Tensor // [T,D], see RoPE.Tables
	// Tensor are the ranks that share the layers' matrices, nil where this rank has them whole. Sum adds up activations.
	Tensor collective.Group
	Sum    collective.Reduction

	pause func() // lets the pass of another context go on, see Together
	// Expert are the ranks over which the experts are spread, nil where each has all.
	Expert collective.Group
	// Ring and Ulysses connect the ranks that share samples, see Split, and ContextRanks all of them; nil where there is one.
	Ring, Ulysses, ContextRanks collective.Group
	// SumFloat64 adds up float64 of several ranks.
	SumFloat64 collective.Reduction
	// Padded says that some labels may be kernels.PaddingLabel.
	Padded bool
	// Balancing is that of a training step, nil where nothing is trained or the model has no experts.
	Balancing *Balancing
	// Progress is told where the passes are, nil where nobody wants to know.
	Progress Progress
}

// norm is RMSNorm with a learned scale.
type norm struct {
	weight *Use
	eps    float64
}

func (n norm) forward(c *Context, y, rstd, x kernels.Tensor) {
	c.Kernels.RMSNorm(c.Stream, y, rstd, x, n.weight.Weight(), n.eps)
}

// forwardSum normalises sum = a + b.
func (n norm) forwardSum(c *Context, y, rstd, sum, a, b kernels.Tensor) {
	c.Kernels.AddRMSNorm(c.Stream, y, rstd, sum, a, b, n.weight.Weight(), n.eps)
}

// backwardInput computes dx from dy, and adds the residual gradient if there is one.
func (n norm) backwardInput(c *Context, dx, dy, x, rstd, residual kernels.Tensor) {
	c.Kernels.RMSNormBackwardInput(c.Stream, dx, dy, x, rstd, n.weight.Weight(), residual)
}

func (n norm) backwardWeight(c *Context, mb *MicroBatch, dy, x, rstd kernels.Tensor) {
	if n.weight.frozen() {
		return
	}
	c.Kernels.RMSNormBackwardWeight(c.Stream, n.weight.Gradient(mb.Gradients), dy, x, rstd, mb.Accumulate)
}
