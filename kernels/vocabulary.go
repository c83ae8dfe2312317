package kernels

import "lockstep/kernels/device"

// VocabularyOperators work on a part of a vocabulary that ranks share, its ids [First, First+n): n rows of the embedding's
// table, n columns of logits. (M. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
// Parallelism", 2019, section 3.)
type VocabularyOperators interface {
	// EmbeddingPart gathers rows of a part of the table: y [rows, C], weight [n,C] Float32 or BFloat16, ids [rows] Int32 below
	// Whole. An id of another part, or a negative one, gives zeros, so that the sum over the parts is the Embedding.
	EmbeddingPart(s device.Stream, y, weight, ids Tensor, v Vocabulary)
	// CrossEntropyPart computes what a part of the logits [rows, n] contributes to each row's loss: stats [rows,
	// CrossEntropyStats] are the largest logit, the sum of the exponentials of all less the largest, and the logit of the
	// label, 0 where that is of another part. labels [rows] Int32 below Whole.
	CrossEntropyPart(s device.Stream, stats, logits, labels Tensor, v Vocabulary)
	// CrossEntropyMerge computes, from the stats of all P parts in their order [P, rows, CrossEntropyStats], each row's loss
	// [rows] as CrossEntropy does, and this part's gradient dlogits [rows, n] from its logits. A negative label has loss 0
	// and gradient 0. dlogits may be logits, or none.
	CrossEntropyMerge(s device.Stream, loss, dlogits, logits, labels, stats Tensor, v Vocabulary, scale float64)
}

// A Vocabulary says which part of one an operand has: it begins with the id First, of Whole.
type Vocabulary struct{ First, Whole int }

// CrossEntropyStats is how many numbers CrossEntropyPart computes for each row.
const CrossEntropyStats = 3
