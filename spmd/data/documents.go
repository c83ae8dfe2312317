package data

import "lockstep/kernels"

// A sample holds several documents, one after the other, told apart by the end-of-document token, eod, which belongs to
// the document that it ends. A document that began in an earlier sample begins again with the sample: what came before is
// out of reach, so it is a document of its own.

// NoLabel stands in place of a label that is not predicted.
const NoLabel = -1

// Padding stands in place of the label of a position that holds no token.
const Padding = kernels.PaddingLabel

// documentStarts fills starts with the index of the first token of each token's document in a row of ids.
func documentStarts(starts, ids []int32, eod int32) {
	start := int32(0)
	for i, id := range ids {
		starts[i] = start
		if id == eod {
			start = int32(i) + 1
		}
	}
}

// maskLabels replaces the labels of inputs that are eod by NoLabel: what follows the end of a document does not follow from
// it.
func maskLabels(labels, ids []int32, eod int32) {
	for i, id := range ids {
		if id == eod && labels[i] != Padding {
			labels[i] = NoLabel
		}
	}
}
