package model

import "lockstep/kernels/device"

// ContextTraffic returns how many bytes a rank sends to those that share its samples in the training of one micro batch: by layer
// of the model. In a ring of R ranks the keys and values of a rank's tokens, a block, leave it R-1 times in the forward pass and as
// often in the backward pass, there with R blocks of gradients. Of U Ulysses ranks each sends (U-1)/U of its queries, keys, values and
// attended values, and of their gradients. What is computed again is sent again: with RecomputeSelective what attention reads,
// with RecomputeFull all of the forward pass.
func (m *Model) ContextTraffic(size Size, dtype device.DType, recompute []Recompute) []int {
	sent := make([]int, len(m.Layers))
	for i, l := range m.Layers {
		for _, b := range blocksOf(l) {
			sent[i] += coreOf(b).traffic(size, recompute[i]) * dtype.Size()
		}
	}
	return sent
}

// coreOf returns what a block's attention is about.
func coreOf(b *block) *coreAttention {
	if a, ok := b.attention.(*latentAttention); ok {
		return &a.core
	}
	return &b.attention.(*selfAttention).core
}

// traffic returns how many elements a rank sends of a micro batch.
func (a *coreAttention) traffic(size Size, again Recompute) int {
	ring, ulysses, here := size.Split.ring(), size.Split.ulysses(), a.perUlysses(size.Split)
	tokens, _ := size.pair()
	block := size.Batch * tokens * here.kvHeads * (a.keyDim + a.valueDim)
	ringForward, ringBackward := (ring-1)*block, 0
	if ring > 1 {
		ringBackward = ringForward + ring*block
	}
	others := size.Batch * size.Sequence * (ulysses - 1) // rows that leave
	inputs := others * (here.heads*a.keyDim + here.kvHeads*(a.keyDim+a.valueDim))
	attended := others * here.heads * a.valueDim
	sent := 2*inputs + 2*attended + ringForward + ringBackward
	switch again {
	case RecomputeSelective:
		sent += inputs
	case RecomputeFull:
		sent += inputs + attended + ringForward
	}
	return sent
}

// ExpertTraffic returns how many bytes a rank sends to those that share the experts in the training of one micro batch, where their load
// is even: by layer of the model. Of E ranks each sends (E-1)/E of its assignments, as rows of hidden size with a weight, gets the results
// back, and as much again for the gradients. What is computed again needs the rows once more. The counts that plan the exchange
// go to all.
func (m *Model) ExpertTraffic(size Size, dtype device.DType, recompute []Recompute) []int {
	sent := make([]int, len(m.Layers))
	for i, l := range m.Layers {
		for _, b := range blocksOf(l) {
			x, ok := b.feedForward.(*mixture)
			if !ok || x.ranks == 1 {
				continue
			}
			from, to := x.tokens.cut(size.Tokens())
			row, rows := x.hidden*dtype.Size(), (to-from)*x.Route.TopK*(x.ranks-1)/x.ranks
			sent[i] += rows*(4*row+2*weightBytes) + (x.ranks-1)*(x.Count+1)*device.Int32.Size()
			if recompute[i] != KeepAll {
				sent[i] += rows * (row + weightBytes)
			}
		}
	}
	return sent
}
