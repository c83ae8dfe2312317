package generate

import (
	"cmp"
	"math"
	"slices"
)

// sample draws a token with the uniform number u from [0, 1).
func sample(logits []float32, o Options, u float64) int32 {
	if o.Vocabulary > 0 && o.Vocabulary < len(logits) {
		logits = logits[:o.Vocabulary]
	}
	if o.Temperature <= 0 {
		return likeliest(logits)
	}
	ids, weights, total := candidates(logits, o)
	at := u * total
	for i, weight := range weights {
		if at -= weight; at < 0 {
			return ids[i]
		}
	}
	return ids[len(ids)-1]
}

// likeliest returns the token with the largest logit, of equal ones the smallest id.
func likeliest(logits []float32) int32 {
	best := 0
	for i, x := range logits {
		if x > logits[best] {
			best = i
		}
	}
	return int32(best)
}

// candidates returns the tokens that may be drawn, the likeliest first, with their probabilities up to a factor, and the sum of
// these. As in Transformers, the temperature comes first, then top-k, then top-p on what top-k has left.
func candidates(logits []float32, o Options) (ids []int32, weights []float64, total float64) {
	ids = make([]int32, len(logits))
	for i := range ids {
		ids[i] = int32(i)
	}
	// Ties go to the smaller id, so that the order is one and the same everywhere.
	slices.SortFunc(ids, func(a, b int32) int {
		return cmp.Or(cmp.Compare(logits[b], logits[a]), cmp.Compare(a, b))
	})
	if k := o.TopK; k > 0 && k < len(ids) {
		for k < len(ids) && logits[ids[k]] == logits[ids[k-1]] { // all that are as likely as the last
			k++
		}
		ids = ids[:k]
	}
	weights = make([]float64, len(ids))
	for i, id := range ids {
		weights[i] = math.Exp(float64(logits[id]-logits[ids[0]]) / o.Temperature)
		total += weights[i]
	}
	if o.TopP > 0 && o.TopP < 1 {
		n, kept := 0, 0.0
		for n < len(ids) && (n == 0 || kept < o.TopP*total) {
			kept += weights[n]
			n++
		}
		ids, weights, total = ids[:n], weights[:n], kept
	}
	return ids, weights, total
}
