package model

import (
	"slices"

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
)

// Balancing is how a training step evens out the load of experts, and where it leaves what it counts.
type Balancing struct {
	Loss BalanceLoss
	// LossWeight and ZLossWeight multiply the balancing loss and the router's z-loss, the mean over tokens of the square of
	// logsumexp(logits), added up over layers.
	LossWeight, ZLossWeight float64
	// MicroBatches is M, the micro batches of the step on all ranks, over which losses are averaged.
	MicroBatches int
	// Load counts the step's assignments on this rank: [layers with experts, E] Float64.
	Load kernels.Tensor
	// Rounds is the most rounds of the step in which tokens were sent to the ranks of their experts, 0 where they are on all.
	Rounds int
}

// PlaceLoad places Balancing.Load for the model in a; none where it has no experts.
func (m *Model) PlaceLoad(a *kernels.Arena) kernels.Tensor {
	if m.Config.Experts == nil {
		return kernels.Tensor{}
	}
	return a.Tensor(device.Float64, m.Config.sparseLayers(), m.Config.Experts.Count)
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
	counts, mass kernels.Tensor // [1,E] Float64 over the layers so far, with BalanceMicroBatch
	gradient     kernels.Tensor // [1,E] of the scores' shares
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
	return ExpertBatch{counts: a.Tensor(device.Float64, 1, e), mass: a.Tensor(device.Float64, 1, e), gradient: a.Tensor(device.Float32, 1, e)}
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

// balanceRecord is what a mixture keeps for BalanceSequence.
type balanceRecord struct {
	counts, mass kernels.Tensor // [B,E] Float64, within one call
	gradient     kernels.Tensor // [B,E]
}

func (m *mixture) newBalanceRecord(size Size, mem *Memory) balanceRecord {
	return balanceRecord{
		counts:   mem.Scratch.Tensor(device.Float64, size.Batch, m.Count),
		mass:     mem.Scratch.Tensor(device.Float64, size.Batch, m.Count),
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
	k.CountAssignments(s, b.Load.Narrow(0, m.index, m.index+1), r.experts, true)
	weight, length := b.LossWeight/float64(b.MicroBatches), float64(c.Size.Whole())
	switch b.Loss {
	case BalanceMicroBatch:
		e := &mb.Experts
		k.CountAssignments(s, e.counts, r.experts, m.index > 0)
		k.SumScores(s, e.mass, r.scores, m.index > 0)
		if n := float64(m.layers*c.Size.Batch) * length; m.index == m.layers-1 {
			c.addUp(e.counts)
			k.BalanceLoss(s, m.lossOf(mb, 0, 0), e.gradient, e.counts, e.mass, float64(m.Count)/(n*n), weight)
		}
	case BalanceSequence:
		k.CountAssignments(s, r.balance.counts, r.experts, false)
		c.addUp(r.balance.counts)
		k.SumScores(s, r.balance.mass, r.scores, false)
		k.BalanceLoss(s, m.lossOf(mb, 0, m.index), r.balance.gradient, r.balance.counts, r.balance.mass,
			float64(m.Count)/(float64(m.Route.TopK)*length*length*float64(c.Size.Batch)), weight)
	}
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
		gradient = [...]kernels.Tensor{BalanceMicroBatch: mb.Experts.gradient, BalanceSequence: r.balance.gradient}[b.Loss]
	}
	c.Kernels.RouteBackward(c.Stream, r.dLogits, r.dWeights, r.experts, r.scores, gradient, m.Route)
	if b != nil && b.ZLossWeight > 0 {
		c.Kernels.RouterZLoss(c.Stream, m.lossOf(mb, 1, m.index), r.dLogits, r.logits,
			b.ZLossWeight/float64(b.MicroBatches*c.Size.Batch*c.Size.Whole()))
	}
}

// addUp adds up the counts of the ranks that share samples: whole numbers, in any order.
func (c *Context) addUp(counts kernels.Tensor) {
	if c.ContextRanks != nil {
		c.Stream.Wait(c.ContextRanks.AllReduce(counts.Region(), c.SumFloat64, c.Stream.Record()))
	}
}

// UpdateBiases moves the biases of this rank's routers that have one, and that are not frozen, by rate, against the step's load [layers with experts, E]
// Float64 on all ranks. clip is the optimizer's.
func (m *Model) UpdateBiases(k kernels.Operators, s device.Stream, load, clip kernels.Tensor, rate float64) {
	for _, b := range m.blocks() {
		if x, ok := b.feedForward.(*mixture); ok && x.bias != nil && slices.Contains(m.uses, x.bias) {
			k.UpdateRouteBias(s, x.bias.Weight(), load.Narrow(0, x.index, x.index+1).Reshape(x.Count), clip, rate)
		}
	}
}

// blocks returns all transformer layers, those of multi-token prediction last.
func (m *Model) blocks() []*block {
	var blocks []*block
	for _, layer := range m.Layers {
		switch l := layer.(type) {
		case *block:
			blocks = append(blocks, l)
		case *head:
			for _, p := range l.predictors {
				blocks = append(blocks, p.block)
			}
		}
	}
	return blocks
}
