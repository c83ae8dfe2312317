package model

import (
	"slices"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A BalanceLoss is an auxiliary loss that evens out the load of experts. With E experts, K of them for each token, f_e the
// assignments to expert e per token and P_e the mean score of e, both over the same tokens, it is E * sum_e f_e*P_e, and no
// gradient goes through f.
type BalanceLoss uint8

const (
	NoBalanceLoss BalanceLoss = iota
	// BalanceMicroBatch counts over a micro batch and all layers together, as Transformers does.
	BalanceMicroBatch
	// BalanceSequence counts over each sample and each layer apart, and divides f by K: DeepSeek-AI, "DeepSeek-V3 Technical
	// Report", 2024, section 2.1.2. The scores of a token are divided by their sum. Layers add up, samples are averaged.
	BalanceSequence
	// BalanceGlobal takes f from all micro batches of the step so far, on all ranks, divided by K, and P from a micro batch, each
	// layer apart: Z. Qiu et al., "Demons in the Detail: On Implementing Load Balancing Loss for Training Specialized
	// Mixture-of-Expert Models", 2025, with the buffer of section 3 for accumulated gradients. Layers add up.
	BalanceGlobal
)

// Balancing is how a training step evens out the load of experts, and where it leaves what it counts.
type Balancing struct {
	Loss BalanceLoss
	// LossWeight and ZLossWeight multiply the balancing loss and the router's z-loss, the mean over tokens of the square of
	// logsumexp(logits), added up over layers.
	LossWeight, ZLossWeight float64
	// Ranks are those that hold the same layers, which add up what they count for BalanceGlobal.
	Ranks collective.Group
	// MicroBatches is M, the micro batches of the step on all ranks, over which losses are averaged.
	MicroBatches int
	// Load counts the step's assignments on this rank: [layers with experts, E] Float64, and where experts have a capacity, in as
	// many more rows, those that are kept.
	Load kernels.Tensor
	// Rounds is the most rounds of the step in which tokens were sent to the ranks of their experts, 0 where they are on all.
	Rounds int
}

// PlaceLoad places Balancing.Load for the model in a; none where it has no experts.
func (m *Model) PlaceLoad(a *kernels.Arena) kernels.Tensor {
	if m.Config.Experts == nil {
		return kernels.Tensor{}
	}
	rows := m.Config.sparseLayers()
	if m.Config.Experts.CapacityFactor > 0 {
		rows *= 2
	}
	return a.Tensor(device.Float64, rows, m.Config.Experts.Count)
}

// loadOf returns the row [1,E] of a load that counts a mixture's assignments, or those of them that are kept.
func (m *mixture) loadOf(load kernels.Tensor, kept bool) kernels.Tensor {
	row := m.index
	if kept {
		row += m.layers
	}
	return load.Narrow(0, row, row+1)
}

// sparseLayers returns the number of layers with experts.
func (c *Config) sparseLayers() int {
	n := 0
	for layer := range c.NumHiddenLayers + c.predictors() {
		if c.Sparse(layer) {
			n++
		}
	}
	return n
}

// predictors returns the number of modules of multi-token prediction that are built.
func (c *Config) predictors() int {
	if c.PredictionLossWeight > 0 {
		return c.Predictors
	}
	return 0
}

// An ExpertBatch is what the mixtures of a model share in one micro batch.
type ExpertBatch struct {
	// With BalanceMicroBatch: counts and scores [2,E] Float64 over the layers so far, and the gradient [1,E] of the scores' shares
	// that follows once all layers are there. Chunks of layers hand them on: see Boundary.
	sums, gradient     kernels.Tensor
	mySums, myGradient kernels.Tensor // of this chunk, where they are no Boundary's
	// Losses receives the auxiliary losses: [2, layers with experts] Float64, the balancing losses and then the z-losses, to
	// be added up.
	Losses kernels.Tensor
}

// PlaceExpertBatch places an ExpertBatch in a, but for its Losses.
func (m *Model) PlaceExpertBatch(loss BalanceLoss, a *kernels.Arena) ExpertBatch {
	if m.Config.Experts == nil || loss != BalanceMicroBatch {
		return ExpertBatch{}
	}
	e := m.Config.Experts.Count
	return ExpertBatch{mySums: a.Tensor(device.Float64, 2, e), myGradient: a.Tensor(device.Float32, 1, e)}
}

// Predictors returns the number of modules of multi-token prediction.
func (m *Model) Predictors() int { return m.Config.predictors() }

// AuxiliaryLosses returns how many losses a micro batch has besides the first: those of ExpertBatch, and then one for each module
// of multi-token prediction.
func (m *Model) AuxiliaryLosses() int { return 2*m.Config.sparseLayers() + m.Config.predictors() }

// SetAuxiliaryLosses says where a micro batch's auxiliary losses go: [AuxiliaryLosses] Float64.
func (mb *MicroBatch) SetAuxiliaryLosses(losses kernels.Tensor) {
	experts := losses.Len() - len(mb.Ahead)
	mb.Experts.Losses = losses.Narrow(0, 0, experts).Reshape(2, experts/2)
	for i := range mb.Ahead {
		mb.Ahead[i].Loss = losses.Narrow(0, experts+i, experts+i+1)
	}
}

// A balancePlace says where a chunk is relative to the last layer with experts, which knows the gradient of BalanceMicroBatch.
type balancePlace uint8

const (
	afterBalance  balancePlace = iota // all its layers come later, or there is no such layer
	atBalance                         // it has that layer
	beforeBalance                     // all its layers come before
)

func (m *Model) balancePlace(c *Chunk) balancePlace {
	last := -1
	for i, l := range m.Layers {
		for _, b := range blocksOf(l) {
			if _, ok := b.feedForward.(*mixture); ok {
				last = i
			}
		}
	}
	switch {
	case last < c.from:
		return afterBalance
	case last < c.from+len(c.layers):
		return atBalance
	}
	return beforeBalance
}

// carryCounts takes over what the chunks before have counted.
func (p *Passage) carryCounts(x *Context) {
	e := &p.MicroBatch.Experts
	if e.mySums.IsZero() || p.MicroBatch.Gradients.IsZero() {
		return
	}
	if e.sums = p.Out.sums; e.sums.IsZero() {
		e.sums = e.mySums
	}
	if !p.In.sums.IsZero() {
		x.Kernels.Copy(x.Stream, e.sums, p.In.sums)
	}
}

// carryBalance finds the gradient of the balancing loss, which the chunk with the last layer with experts has, and hands it on.
func (p *Passage) carryBalance(x *Context) {
	e := &p.MicroBatch.Experts
	if e.mySums.IsZero() || p.Chunk.balance == afterBalance {
		return
	}
	if e.gradient = e.myGradient; p.Chunk.balance == beforeBalance {
		e.gradient = p.OutGradient.gradient
	}
	if !p.InGradient.gradient.IsZero() {
		x.Kernels.Copy(x.Stream, p.InGradient.gradient, e.gradient)
	}
}

// balanceRecord is what a mixture keeps for BalanceSequence, and in the first row for BalanceGlobal.
type balanceRecord struct {
	counts, mass kernels.Tensor // [B,E] Float64, within one call
	load         kernels.Tensor // [1,E] Float64, within one call
	gradient     kernels.Tensor // [B,E]
}

func (m *mixture) newBalanceRecord(size Size, mem *Memory) balanceRecord {
	return balanceRecord{
		counts:   mem.Scratch.Tensor(device.Float64, size.Batch, m.Count),
		mass:     mem.Scratch.Tensor(device.Float64, size.Batch, m.Count),
		load:     mem.Exchanged.Tensor(device.Float64, 1, m.Count),
		gradient: mem.statistic(mem.Saved, size.Batch, m.Count),
	}
}

// count counts a micro batch's assignments, and computes the gradient of a balancing loss. A pass for its loss alone counts
// nothing. Ranks that share samples add up their counts, on which the gradient depends alone; each has its own tokens' part of
// the loss.
func (m *mixture) count(c *Context, r *mixtureRecord, mb *MicroBatch) {
	b := c.Balancing
	if b == nil || mb.Gradients.IsZero() {
		return
	}
	k, s := c.Kernels, c.Stream
	k.CountAssignments(s, m.loadOf(b.Load, false), r.experts, true)
	if m.CapacityFactor > 0 {
		k.CountAssignments(s, m.loadOf(b.Load, true), r.kept, true)
	}
	weight, experts, top := b.LossWeight/float64(b.MicroBatches), float64(m.Count), float64(m.Route.TopK)
	switch b.Loss {
	case BalanceMicroBatch:
		e := &mb.Experts
		counts, mass := e.sums.Narrow(0, 0, 1), e.sums.Narrow(0, 1, 2)
		k.CountAssignments(s, counts, r.experts, m.index > 0)
		k.SumScores(s, mass, r.scores, r.experts, m.index > 0)
		if m.index == m.layers-1 {
			c.addUp(counts)
			k.BalanceLoss(s, m.lossOf(mb, 0, 0), e.myGradient, counts, counts, mass, experts*top*top, weight)
		}
	case BalanceSequence:
		own := &r.balance
		k.CountAssignments(s, own.counts, r.experts, false)
		c.addUp(own.counts)
		k.SumScores(s, own.mass, r.scores, r.experts, false)
		k.BalanceLoss(s, m.lossOf(mb, 0, m.index), own.gradient, own.counts, own.counts, own.mass, experts*top/float64(c.Size.Batch), weight)
	case BalanceGlobal:
		own := r.balance.first()
		k.CountAssignments(s, own.counts, r.experts, false)
		c.addUp(own.counts)
		k.SumScores(s, own.mass, r.scores, r.experts, false)
		k.Copy(s, own.load, m.loadOf(b.Load, false))
		s.Wait(b.Ranks.AllReduce(own.load.Region(), c.SumFloat64, s.Record()))
		k.BalanceLoss(s, m.lossOf(mb, 0, m.index), own.gradient, own.counts, own.load, own.mass, experts*top, weight)
	}
}

// first returns the record of a whole micro batch as one run of tokens.
func (r balanceRecord) first() balanceRecord {
	r.counts, r.mass, r.gradient = r.counts.Narrow(0, 0, 1), r.mass.Narrow(0, 0, 1), r.gradient.Narrow(0, 0, 1)
	return r
}

// lossOf returns the place [1] of an auxiliary loss: of kind 0, a balancing loss, or 1, a z-loss.
func (m *mixture) lossOf(mb *MicroBatch, kind, layer int) kernels.Tensor {
	return mb.Experts.Losses.Narrow(0, kind, kind+1).Narrow(1, layer, layer+1).Reshape(1)
}

// routeGradient computes r.dLogits from r.dWeights and the auxiliary losses.
func (m *mixture) routeGradient(c *Context, r *mixtureRecord, mb *MicroBatch) {
	var gradient kernels.Tensor
	b := c.Balancing
	if !m.leads {
		b = nil // the sum over tensor ranks is to have the gradients of these losses once
	}
	if b != nil {
		gradient = [...]kernels.Tensor{BalanceMicroBatch: mb.Experts.gradient, BalanceSequence: r.balance.gradient, BalanceGlobal: r.balance.first().gradient}[b.Loss]
	}
	c.Kernels.RouteBackward(c.Stream, r.dLogits, r.dWeights, r.experts, r.scores, gradient, m.Route)
	if b != nil && b.ZLossWeight > 0 {
		c.Kernels.RouterZLoss(c.Stream, m.lossOf(mb, 1, m.index), r.dLogits, r.logits, r.experts,
			b.ZLossWeight/float64(b.MicroBatches*c.Size.Batch*c.Size.Whole()))
	}
}

// addUp adds up the counts of the ranks that share samples: whole numbers, in any order.
func (c *Context) addUp(counts kernels.Tensor) {
	if c.ContextRanks != nil {
		c.Stream.Wait(c.ContextRanks.AllReduce(counts.Region(), c.SumFloat64, c.Stream.Record()))
	}
}

// UpdateBiases moves the biases of this rank's routers that have one, and that are not frozen, by rate, against the step's load on
// all ranks, as PlaceLoad places it: what is kept, as in Megatron-Core. clip is the optimizer's.
func (m *Model) UpdateBiases(k kernels.Operators, s device.Stream, load, clip kernels.Tensor, rate float64) {
	for _, b := range m.blocks() {
		if x, ok := b.feedForward.(*mixture); ok && x.bias != nil && slices.Contains(m.uses, x.bias) {
			k.UpdateRouteBias(s, x.bias.Weight(), x.loadOf(load, x.CapacityFactor > 0).Reshape(x.Count), clip, rate)
		}
	}
}

// blocks returns all transformer layers, those of multi-token prediction last.
func (m *Model) blocks() []*block {
	var blocks []*block
	for _, l := range m.Layers {
		blocks = append(blocks, blocksOf(l)...)
	}
	return blocks
}

// blocksOf returns the transformer layers that a layer is, or has.
func blocksOf(layer Layer) (blocks []*block) {
	switch l := layer.(type) {
	case *block:
		blocks = append(blocks, l)
	case *head:
		for _, p := range l.predictors {
			blocks = append(blocks, p.block)
		}
	}
	return blocks
}
