package data

import (
	"slices"
	"testing"
)

// TestDocuments has rows of six tokens whose document ends with 9: in the middle, twice in a row, at the row's first and
// last token, and nowhere.
func TestDocuments(t *testing.T) {
	const s, eod = 6, 9
	ids := []int32{
		1, 2, 9, 3, 4, 5,
		1, 9, 9, 2, 9, 3,
		9, 1, 2, 3, 4, 9,
		1, 2, 3, 4, 5, 6,
	}
	starts := make([]int32, len(ids))
	for r := 0; r < len(ids); r += s {
		documentStarts(starts[r:r+s], ids[r:r+s], eod)
	}
	if want := []int32{
		0, 0, 0, 3, 3, 3,
		0, 0, 2, 3, 3, 5,
		0, 1, 1, 1, 1, 1,
		0, 0, 0, 0, 0, 0,
	}; !slices.Equal(starts, want) {
		t.Errorf("documents start at %v, want %v", starts, want)
	}
	labels := append(slices.Clone(ids[1:]), 7)
	maskLabels(labels, ids, eod)
	if want := []int32{
		2, 9, NoLabel, 4, 5, 1,
		9, NoLabel, NoLabel, 9, NoLabel, 9,
		NoLabel, 2, 3, 4, 9, NoLabel,
		2, 3, 4, 5, 6, 7,
	}; !slices.Equal(labels, want) {
		t.Errorf("labels are %v, want %v", labels, want)
	}
}

// repeating is a source of the numbers 0 to 6, again and again.
type repeating struct{ counting }

func (r *repeating) ReadTokens(dst []int32, at int64) error {
	if err := r.counting.ReadTokens(dst, at); err != nil {
		return err
	}
	for i := range dst {
		dst[i] %= 7
	}
	return nil
}

// TestLabels compares the count with that over the step's batches, in shuffled epochs whose ends fall into a step.
func TestLabels(t *testing.T) {
	const s, rows, micros, token = 5, 2, 3, 4
	d, err := New([]Source{&repeating{counting{tokens: 13*s + 1}}}, Options{Parts: onePart("x"), SequenceLength: s, Shuffle: true, Seed: 3, EOD: token, EODMaskLoss: true})
	if err != nil {
		t.Fatal(err)
	}
	ids, labels, starts, positions := make([]int32, rows*s), make([]int32, rows*s), make([]int32, rows*s), make([]int32, rows*s)
	seen := map[int64]bool{}
	for step := range 9 {
		want := int64(0)
		for micro := range micros {
			if err := d.Batch(step, micro, micros, Rows{ids, labels, starts, positions}); err != nil {
				t.Fatal(err)
			}
			for i, id := range ids {
				if id != token {
					want++
				}
				if (labels[i] == NoLabel) != (id == token) {
					t.Errorf("input %d has label %d", id, labels[i])
				}
				if i%s > 0 && (ids[i-1] == token) != (starts[i] == int32(i%s)) || positions[i] != int32(i%s)-starts[i] {
					t.Errorf("token %d after %d: its document starts at %d, its position is %d", i%s, ids[max(i-1, 0)], starts[i], positions[i])
				}
			}
		}
		got, err := d.Labels(step, rows*micros)
		if err != nil || got != want {
			t.Errorf("step %d: %d, %v; want %d", step, got, err, want)
		}
		seen[want] = true
	}
	if len(seen) < 2 {
		t.Errorf("all steps have the same count: %v", seen)
	}
	if _, err := d.Labels(-1, 6); err == nil {
		t.Error("no error for step -1")
	}
}
