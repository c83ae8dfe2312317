package model

import (
	"fmt"
	"slices"

	"lockstep/kernels"
)

// Touched is the set of token ids in a training step: those of all its micro batches, on all ranks. Only these rows of the
// embedding's table have a gradient. So it is kept, added up over micro batches and ranks, and sent as these rows alone, in
// the order of their ids; each element is the sum that it would be in a gradient of the whole table, in the same order.
//
// Every rank makes the set from the data, which it can read, so that all have the same rows without an exchange before
// the step; that costs a look at each id of the step.
//
// A rank that has a part of the table keeps the ids of that part, counted from its first.
type Touched struct {
	first, whole int     // the first id of this rank's part, and the size of the whole vocabulary
	ids          []int32 // of this rank's part, ascending once they are sorted
	rows         []int32 // by id of the part: its position in ids, absent where it has none
}

// absent is the row of an id that is not in the set, and of one that is not in this rank's part.
const absent = -1

// NewTouched returns an empty set for n ids of a vocabulary, and steps of at most the given number of different ids.
func NewTouched(v kernels.Vocabulary, n, most int) *Touched {
	t := &Touched{first: v.First, whole: v.Whole, ids: make([]int32, 0, most), rows: make([]int32, n)}
	for id := range t.rows {
		t.rows[id] = absent
	}
	return t
}

// Clear empties the set.
func (t *Touched) Clear() {
	for _, id := range t.ids {
		t.rows[id] = absent
	}
	t.ids = t.ids[:0]
}

// Add puts ids into the set. Sort comes after the last ones.
func (t *Touched) Add(ids []int32) error {
	for _, id := range ids {
		if int(id) < 0 || int(id) >= t.whole {
			return fmt.Errorf("model: token %d is outside the vocabulary of %d", id, t.whole)
		}
		if i := int(id) - t.first; i >= 0 && i < len(t.rows) && t.rows[i] == absent {
			t.rows[i] = 0
			t.ids = append(t.ids, int32(i))
		}
	}
	return nil
}

// Sort gives the ids their rows, in ascending order.
func (t *Touched) Sort() {
	slices.Sort(t.ids)
	for row, id := range t.ids {
		t.rows[id] = int32(row)
	}
}

// Len returns the number of ids.
func (t *Touched) Len() int { return len(t.ids) }

// Rows fills rows with those of ids, which must be in the set unless they are outside of this rank's part: then it gives -1.
func (t *Touched) Rows(rows, ids []int32) error {
	for i, id := range ids {
		rows[i] = absent
		if at := int(id) - t.first; at >= 0 && at < len(t.rows) {
			rows[i] = t.rows[at]
		} else if int(id) >= 0 && int(id) < t.whole {
			continue
		}
		if rows[i] == absent {
			return fmt.Errorf("model: token %d is not among the step's tokens", id)
		}
	}
	return nil
}

// within returns which rows are of the ids [from, to) of this rank's part.
func (t *Touched) within(from, to int) (first, end int) {
	first, _ = slices.BinarySearch(t.ids, int32(from))
	end, _ = slices.BinarySearch(t.ids, int32(to))
	return first, end
}
