package kernels

import (
	"fmt"

	"lockstep/kernels/device"
)

// CheckEmbeddingPart checks the operands of EmbeddingPart.
func CheckEmbeddingPart(y, weight, ids Tensor, v Vocabulary) error {
	return firstError(CheckEmbedding(y, weight, ids), v.check(weight.Shape[0]))
}

// CheckCrossEntropyPart checks the operands of CrossEntropyPart.
func CheckCrossEntropyPart(stats, logits, labels Tensor, v Vocabulary) error {
	return firstError(
		want("logits", logits, device.Float32, logits.Shape[0], logits.Shape[1]),
		want("stats", stats, device.Float32, logits.Shape[0], CrossEntropyStats),
		want("labels", labels, device.Int32, logits.Shape[0]),
		apart("stats", stats, "logits", logits, false),
		apart("stats", stats, "labels", labels, false),
		v.check(logits.Shape[1]),
	)
}

// CheckCrossEntropyMerge checks the operands of CrossEntropyMerge; dlogits may be none.
func CheckCrossEntropyMerge(loss, dlogits, logits, labels, stats Tensor, v Vocabulary) error {
	return firstError(
		CheckCrossEntropy(loss, dlogits, logits, labels),
		want("stats", stats, device.Float32, stats.Shape[0], logits.Shape[0], CrossEntropyStats),
		apart("loss", loss, "stats", stats, false),
		apart("dlogits", dlogits, "stats", stats, false),
		v.check(logits.Shape[1]),
	)
}

// check returns an error unless n ids from v.First on are within the whole.
func (v Vocabulary) check(n int) error {
	if v.First < 0 || v.First+n > v.Whole {
		return fmt.Errorf("the ids [%d, %d) are outside a vocabulary of %d", v.First, v.First+n, v.Whole)
	}
	return nil
}
