package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// TensorTraffic returns how many bytes a rank sends to those that share its matrices in the training of one micro batch, at most: by
// layer of the model. split says that gradients of inputs and of weights are computed apart.
func (m *Model) TensorTraffic(size Size, dtype device.DType, recompute []Recompute, split bool) []int {
	t := m.Partition.tensor()
	unit := size.Tokens() * m.Config.HiddenSize * dtype.Size() * (t - 1) / t // of an all-gather or a reduce-scatter
	losses := size.Tokens() * kernels.CrossEntropyStats * device.Float32.Size() * (t - 1)
	spread := size.Shards > 1
	sent := make([]int, len(m.Layers))
	for i, l := range m.Layers {
		for range blocksOf(l) {
			sent[i] += unit * blockExchanges(recompute[i], spread, split)
		}
		switch l := l.(type) {
		case *embedding:
			sent[i] += 2 * unit // an all-reduce, or a reduce-scatter and on the way back an all-gather
		case *head:
			sent[i] += (2*unit + losses) * (1 + len(l.predictors))
			sent[i] += 3 * unit * len(l.predictors) // their embeddings, looked up twice
			if !spread {
				sent[i] += unit * len(l.predictors)
			}
		}
	}
	return sent
}

// blockExchanges returns how many all-gathers and reduce-scatters of hidden states a transformer layer does, an all-reduce being one of
// each.
func blockExchanges(r Recompute, spread, split bool) int {
	if !spread {
		again := [...]int{KeepAll: 0, RecomputeSelective: 0, RecomputeFull: 2}[r]
		if split {
			again *= 2
		}
		return 8 + again
	}
	again := [...]int{KeepAll: 0, RecomputeSelective: 2, RecomputeFull: 3}[r]
	if split {
		again = 2*again + 2 // and the gradients that the weights' need are gathered again
	}
	return 10 + again // of which two are inputs that are gathered again for the gradients of weights
}
