package data

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// counting is a source whose token k is k.
type counting struct {
	tokens int64
	closed bool
}

func (c *counting) Tokens() int64                { return c.tokens }
func (c *counting) Fingerprint() (string, error) { return fmt.Sprint("counting:", c.tokens), nil }
func (c *counting) Summary() string              { return fmt.Sprint("the first ", c.tokens, " numbers") }
func (c *counting) Identity() string             { return c.Summary() }
func (c *counting) Documents() int64             { return c.tokens / 10 }
func (c *counting) Close() error                 { c.closed = true; return nil }

// Document makes documents of ten tokens.
func (c *counting) Document(i int64) (at, length int64) { return 10 * i, 10 }

func (c *counting) ReadTokens(dst []int32, at int64) error {
	if err := checkRange(dst, at, c.tokens); err != nil {
		return err
	}
	for i := range dst {
		dst[i] = int32(at) + int32(i)
	}
	return nil
}

// onePart is a data set that is not blended.
func onePart(paths ...string) []Part { return []Part{{Paths: paths}} }

func mustNew(t *testing.T, tokens int64, o Options) *Dataset {
	t.Helper()
	o.Parts = onePart("numbers")
	d, err := New([]Source{&counting{tokens: tokens}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// firsts returns the first token of each of count samples, having checked that the others follow it.
func firsts(t *testing.T, d *Dataset, count int) []int32 {
	t.Helper()
	got := make([]int32, count)
	for i := range got {
		if err := d.sample(int64(i)); err != nil {
			t.Fatal(err)
		}
		row := append(slices.Clone(d.row.ids), d.row.labels[d.length-1])
		for j := range row {
			if row[j] != row[0]+int32(j) {
				t.Fatalf("sample %d is %v", i, row)
			}
		}
		got[i] = row[0]
	}
	return got
}

func TestSamplesInOrder(t *testing.T) {
	for _, test := range []struct {
		tokens  int64
		s       int
		samples int64
		firsts  []int32
	}{
		{13, 4, 3, []int32{0, 4, 8, 0, 4, 8, 0}},
		{12, 4, 2, []int32{0, 4, 0, 4, 0}}, // the last sample lacks its last label
		{5, 4, 1, []int32{0, 0}},
		{2, 1, 1, []int32{0, 0}},
	} {
		d := mustNew(t, test.tokens, Options{SequenceLength: test.s})
		if d.Samples() != test.samples {
			t.Errorf("%d tokens, s = %d: %d samples, want %d", test.tokens, test.s, d.Samples(), test.samples)
		}
		if got := firsts(t, d, len(test.firsts)); !slices.Equal(got, test.firsts) {
			t.Errorf("%d tokens, s = %d: samples begin at %v, want %v", test.tokens, test.s, got, test.firsts)
		}
	}
}

func TestShuffledEpochsAreComplete(t *testing.T) {
	const n = 37
	d := mustNew(t, n*8+1, Options{SequenceLength: 8, Shuffle: true, Seed: 42})
	all := firsts(t, d, 3*n)
	var epochs [3][]int32
	for e := range epochs {
		epochs[e] = all[e*n : (e+1)*n]
		sorted := slices.Sorted(slices.Values(epochs[e]))
		for j, first := range sorted {
			if first != int32(j*8) {
				t.Fatalf("epoch %d does not hold each sample once: %v", e, sorted)
			}
		}
		if slices.IsSorted(epochs[e]) {
			t.Errorf("epoch %d is in file order", e)
		}
	}
	if slices.Equal(epochs[0], epochs[1]) || slices.Equal(epochs[1], epochs[2]) {
		t.Error("two epochs have the same order")
	}
	// Going back to an earlier epoch finds it unchanged.
	if again := firsts(t, d, n); !slices.Equal(again, epochs[0]) {
		t.Error("the first epoch has another order when it is asked for again")
	}
	other := mustNew(t, n*8+1, Options{SequenceLength: 8, Shuffle: true, Seed: 43})
	if slices.Equal(firsts(t, other, n), epochs[0]) {
		t.Error("two seeds have the same order")
	}
}

// The same samples must reach the step in the same order whatever the size of its micro batches.
func TestBatch(t *testing.T) {
	const s, global = 4, 6
	d := mustNew(t, 10*s+1, Options{SequenceLength: s, Shuffle: true, Seed: 1})
	want := firsts(t, d, 5*global)
	for _, rows := range []int{1, 2, 3, 6} {
		ids, labels := make([]int32, rows*s), make([]int32, rows*s)
		for step := range 5 {
			for micro := range global / rows {
				if err := d.Batch(step, micro, global/rows, Rows{IDs: ids, Labels: labels}); err != nil {
					t.Fatal(err)
				}
				for r := range rows {
					first := want[step*global+micro*rows+r]
					for c := range s {
						if id, label := ids[r*s+c], labels[r*s+c]; id != first+int32(c) || label != id+1 {
							t.Fatalf("%d rows, step %d, micro batch %d: ids %v labels %v, row %d should begin with %d",
								rows, step, micro, ids, labels, r, first)
						}
					}
				}
			}
		}
	}
}

func TestBatchErrors(t *testing.T) {
	d := mustNew(t, 41, Options{SequenceLength: 4})
	buffer := make([]int32, 8)
	for _, test := range []struct {
		step, micro, of int
		ids, labels     []int32
	}{
		{0, 0, 1, buffer[:7], buffer[:7]}, {0, 0, 1, buffer, buffer[:4]}, {0, 0, 1, nil, nil},
		{0, 1, 1, buffer, buffer}, {-1, 0, 1, buffer, buffer}, {0, -1, 1, buffer, buffer},
	} {
		if d.Batch(test.step, test.micro, test.of, Rows{IDs: test.ids, Labels: test.labels}) == nil {
			t.Errorf("no error for micro batch %d of %d in step %d into %d and %d tokens",
				test.micro, test.of, test.step, len(test.ids), len(test.labels))
		}
	}
	if d.sample(-1) == nil {
		t.Error("sample takes a negative number")
	}
}

func TestValidationSplit(t *testing.T) {
	const tokens = 1003
	training := mustNew(t, tokens, Options{SequenceLength: 10, ValidationSplit: 0.05})
	held := mustNew(t, tokens, Options{SequenceLength: 10, ValidationSplit: 0.05, HeldOut: true})
	// round(0.05*1003) = 50 tokens are held out.
	trained, kept := training.parts[0].tokens, held.parts[0].tokens
	if trained != 953 || training.Samples() != 95 || kept != 50 || held.Samples() != 4 {
		t.Fatalf("training has %d tokens in %d samples, validation %d in %d", trained, training.Samples(), kept, held.Samples())
	}
	if got := firsts(t, training, 95); got[94] != 940 { // its last label is token 950, before the cut
		t.Errorf("the last training sample begins at %d", got[94])
	}
	if got := firsts(t, held, 4); got[0] != 953 {
		t.Errorf("the first validation sample begins at %d", got[0])
	}
	whole := mustNew(t, tokens, Options{SequenceLength: 10})
	prints := make(map[string]bool)
	for _, d := range []*Dataset{training, held, whole} {
		f, err := d.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		prints[f] = true
	}
	if len(prints) != 3 {
		t.Errorf("three sets of tokens have the fingerprints %v", prints)
	}
}

func TestNewErrors(t *testing.T) {
	for want, o := range map[string]Options{
		"sequence length 0":     {},
		"validation split 1":    {SequenceLength: 4, ValidationSplit: 1},
		"validation split -0.5": {SequenceLength: 4, ValidationSplit: -0.5},
	} {
		o.Parts = onePart("numbers")
		if _, err := New([]Source{&counting{tokens: 100}}, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	for _, o := range []Options{{SequenceLength: 100}, {SequenceLength: 5, ValidationSplit: 0.05, HeldOut: true}} {
		o.Parts = onePart("numbers")
		if _, err := New([]Source{&counting{tokens: 100}}, o); !errors.Is(err, ErrTooFewTokens) {
			t.Errorf("%+v: error %v, want ErrTooFewTokens", o, err)
		}
	}
	for want, o := range map[string]Options{
		"no data paths":                  {Format: "text", SequenceLength: 4},
		`data format "xml" is not known`: {Format: "xml", Parts: onePart("x"), SequenceLength: 4},
	} {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestSummary(t *testing.T) {
	d := mustNew(t, 12_345_678, Options{SequenceLength: 4, Shuffle: true, ValidationSplit: 0.1, HeldOut: true})
	if got, want := d.Summary(0), "the first 12345678 numbers, 1,234,568 of them used; 308,641 samples of 4 tokens, shuffled"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := mustNew(t, 6, Options{SequenceLength: 5}).Summary(0), "the first 6 numbers; 1 sample of 5 tokens"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	d := mustNew(t, 401, Options{SequenceLength: 4, Shuffle: true, Seed: 5})
	want := firsts(t, d, 250)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			ids, labels := make([]int32, 4), make([]int32, 4)
			for i := range want {
				k := (i*7 + g*31) % len(want) // jumps between the epochs
				if err := d.Batch(k, 0, 1, Rows{IDs: ids, Labels: labels}); err != nil || ids[0] != want[k] {
					t.Errorf("sample %d begins with %d (%v), want %d", k, ids[0], err, want[k])
					return
				}
			}
		})
	}
	wg.Wait()
	if err := d.Close(); err != nil || !d.parts[0].source.(*counting).closed {
		t.Errorf("Close: %v, and the source is open", err)
	}
}
