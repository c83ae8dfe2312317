package model

import "lockstep/spmd/shard"

// A Partition says which part of the layers' weights this rank holds: TensorRank's of Tensor parts of each matrix, and the
// experts of ExpertRank, one of Expert ranks. The zero Partition is all of them, like sizes of 1.
//
// Tensor ranks share matrices as Megatron-LM does (M. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language
// Models Using Model Parallelism", 2019): of the first matrix of a part of a layer each has some outputs, whole heads of
// attention, and of the last one the inputs that these make. What the last one gives are then parts of a sum over the ranks, as
// are the gradients of what the first one reads. All else is on all ranks.
type Partition struct {
	Tensor, TensorRank int
	Expert, ExpertRank int
	// SequenceParallel says that outside of the parts of layers each tensor rank has some of the tokens (V. Korthikanti et al.,
	// "Reducing Activation Recomputation in Large Transformer Models", 2022, section 4.2.2).
	SequenceParallel bool
}

// A Reducers says which ranks add up their gradients of a weight.
type Reducers uint8

const (
	// TensorReplicas have the weight whole, and of its gradient a part of a sum: all ranks that hold the same layers.
	TensorReplicas Reducers = iota
	// HeadReplicas have the same key-value head, because there are fewer of those than tensor ranks: neighbours among the
	// tensor ranks, and all that work on other tokens.
	HeadReplicas
	// ExpertReplicas have the same experts, where those are spread over ranks.
	ExpertReplicas
	// Replicas hold the same and work on other tokens. Tensor ranks that have a weight whole compute the same gradient.
	Replicas

	NumReducers
)

// A Region is a stretch of a gradient buffer, and of the weights, whose gradients the same ranks add up.
type Region struct {
	Reducers Reducers
	Span
}

// tensor returns the number of tensor ranks.
func (p Partition) tensor() int { return max(1, p.Tensor) }

// cut returns this rank's part [from, to) of n things that the tensor ranks share. The parts' sizes differ by one at most.
func (p Partition) cut(n int) (from, to int) {
	return n * p.TensorRank / p.tensor(), n * (p.TensorRank + 1) / p.tensor()
}

// HeadSharing returns how many neighbouring tensor ranks have the same of n key-value heads: several where there are fewer heads
// than ranks.
func (p Partition) HeadSharing(n int) int { return max(1, p.tensor()/n) }

// keyValueHeads returns this rank's part [from, to) of n key-value heads.
func (p Partition) keyValueHeads(n int) (from, to int) {
	if share := p.HeadSharing(n); share > 1 {
		return p.TensorRank / share, p.TensorRank/share + 1
	}
	return p.cut(n)
}

// summed returns the reducers of a weight that all tensor ranks have whole where each computes a part of its gradient.
func (p Partition) summed() Reducers {
	if p.tensor() > 1 {
		return TensorReplicas
	}
	return Replicas
}

// perToken returns the reducers of a weight that works on single tokens outside of the parts of layers.
func (p Partition) perToken() Reducers {
	if p.SequenceParallel {
		return p.summed()
	}
	return Replicas
}

// parameter returns a parameter that all tensor ranks have whole.
func (p Partition) parameter(name string, init Init, shape ...int) *Parameter {
	return &Parameter{Name: name, Shape: shape, Slice: shard.All(shape...), Init: init, copy: p.TensorRank}
}

// cut leaves this rank the indices [from, to) of a dimension, which no other tensor rank has.
func (p *Parameter) cut(dim, from, to int) *Parameter {
	p.Slice = p.Slice.Cut(dim, from, to)
	p.Shape, p.copy = p.Slice.Shape, 0
	return p
}
