package data

// A sample holds several documents, one after the other, told apart by the end-of-document token, eod, which belongs to
// the document that it ends. A document that began in an earlier sample begins again with the sample: what came before is
// out of reach, so it is a document of its own.

// NoLabel stands in place of a label that is not predicted.
const NoLabel = -1

// DocumentStarts fills starts with the index, in its row, of the first token of each token's document. ids and starts are
// [b,s] row by row. The indices never decrease along a row.
func DocumentStarts(starts, ids []int32, s int, eod int32) {
	start := 0
	for i, id := range ids {
		if i%s == 0 {
			start = 0
		}
		starts[i] = int32(start)
		if id == eod {
			start = i%s + 1
		}
	}
}

// DocumentPositions fills positions with the position of each token in its document, from 0. ids and positions are [b,s]
// row by row.
func DocumentPositions(positions, ids []int32, s int, eod int32) {
	position := int32(0)
	for i, id := range ids {
		if i%s == 0 {
			position = 0
		}
		positions[i] = position
		position++
		if id == eod {
			position = 0
		}
	}
}

// MaskLabels replaces the labels of inputs that are eod by NoLabel: what follows the end of a document does not follow
// from it.
func MaskLabels(labels, ids []int32, eod int32) {
	for i, id := range ids {
		if id == eod {
			labels[i] = NoLabel
		}
	}
}

// CountInputs returns how many inputs of a step of the given number of samples are token. It reads the whole step, so
// that every rank gets the same number without asking the others.
func (d *Dataset) CountInputs(step, samples int, token int32) (int64, error) {
	n := int64(0)
	err := d.Inputs(step, samples, func(ids []int32) error {
		for _, id := range ids {
			if id == token {
				n++
			}
		}
		return nil
	})
	return n, err
}
