package data

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// lengths is a source of documents of the given lengths; token k is k, but for those that are masked.
type lengths struct {
	counting
	documents []int64
	masked    map[int32]bool
}

func newLengths(documents ...int64) *lengths {
	l := &lengths{documents: documents}
	for _, n := range documents {
		l.tokens += n
	}
	return l
}

func (l *lengths) Documents() int64 { return int64(len(l.documents)) }

func (l *lengths) Document(i int64) (at, length int64) {
	for _, n := range l.documents[:i] {
		at += n
	}
	return at, l.documents[i]
}

func (l *lengths) ReadTokens(dst []int32, at int64) error {
	err := l.counting.ReadTokens(dst, at)
	for i, id := range dst {
		if l.masked[id] {
			dst[i] = ^id
		}
	}
	return err
}

// rowsOf returns all samples of an epoch.
func rowsOf(t *testing.T, d *Dataset) []Rows {
	t.Helper()
	s := int(d.length)
	rows := make([]Rows, d.Samples())
	for i := range rows {
		rows[i] = Rows{make([]int32, s), make([]int32, s), make([]int32, s), make([]int32, s)}
		if err := d.Batch(i, 0, 1, rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

func TestPackedSample(t *testing.T) {
	// Documents of 4, 3, 1, 9 and 2 tokens: 0-3, 4-6, 7, 8-16, 17-18.
	source := newLengths(4, 3, 1, 9, 2)
	source.masked = map[int32]bool{2: true, 17: true, 18: true}
	for _, c := range []struct {
		packing, overlong string
		ids, labels       [][]int32
		starts            []int32 // of the first sample
		summary           string
	}{
		{"best-fit", "truncate",
			[][]int32{{0, 1, 2, 4, 5, 17}, {8, 9, 10, 11, 12, 13}},
			[][]int32{{1, -1, 3, 5, 6, -1}, {9, 10, 11, 12, 13, 14}},
			[]int32{0, 0, 0, 3, 3, 5}, "2 samples of 6 tokens, packed from 4 documents, 1 truncated, 1 without a token to predict"},
		{"best-fit", "split",
			[][]int32{{0, 1, 2, 4, 5, 17}, {8, 9, 10, 11, 12, 13}, {14, 15, 0, 0, 0, 0}},
			[][]int32{{1, -1, 3, 5, 6, -1}, {9, 10, 11, 12, 13, 14}, {15, 16, -2, -2, -2, -2}},
			[]int32{0, 0, 0, 3, 3, 5}, "3 samples of 6 tokens, packed from 5 documents, 1 split, 1 without a token to predict"},
		{"none", "truncate",
			[][]int32{{0, 1, 2, 0, 0, 0}, {4, 5, 0, 0, 0, 0}, {8, 9, 10, 11, 12, 13}, {17, 0, 0, 0, 0, 0}},
			[][]int32{{1, -1, 3, -2, -2, -2}, {5, 6, -2, -2, -2, -2}, {9, 10, 11, 12, 13, 14}, {-1, -2, -2, -2, -2, -2}},
			[]int32{0, 0, 0, 3, 4, 5}, "4 samples of 6 tokens, packed from 4 documents, 1 truncated, 1 without a token to predict"},
	} {
		d, err := New([]Source{source}, Options{Parts: onePart("x"), SequenceLength: 6, Packing: c.packing, Overlong: c.overlong, EOD: 5})
		if err != nil {
			t.Fatal(err)
		}
		rows := rowsOf(t, d)
		if len(rows) != len(c.ids) {
			t.Fatalf("%s, %s: %d samples, want %d", c.packing, c.overlong, len(rows), len(c.ids))
		}
		labels := int64(0)
		for i, r := range rows {
			if !slices.Equal(r.IDs, c.ids[i]) || !slices.Equal(r.Labels, c.labels[i]) {
				t.Errorf("%s, %s: sample %d is %v -> %v, want %v -> %v", c.packing, c.overlong, i, r.IDs, r.Labels, c.ids[i], c.labels[i])
			}
			for k := range r.IDs {
				if r.Positions[k] != int32(k)-r.Starts[k] {
					t.Errorf("position %d of token %d, whose document starts at %d", r.Positions[k], k, r.Starts[k])
				}
				if c.labels[i][k] >= 0 {
					labels++
				}
			}
		}
		if !slices.Equal(rows[0].Starts, c.starts) {
			t.Errorf("%s, %s: documents start at %v, want %v", c.packing, c.overlong, rows[0].Starts, c.starts)
		}
		if got, err := d.Labels(0, len(rows)); err != nil || got != labels {
			t.Errorf("%s, %s: %d labels, %v; want %d", c.packing, c.overlong, got, err, labels)
		}
		if got := d.Summary(0); !strings.HasSuffix(got, c.summary) {
			t.Errorf("got %q, want %q", got, c.summary)
		}
	}
}

// TestPackingLosesNothing packs documents of random lengths: split, each token but the first of each document is a label exactly
// once; the samples are as few as best fit finds by trying all of them; a cached table gives the same samples.
func TestPackingLosesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, s := range []int{1, 7, 64, 200} {
		var documents []int64
		for range 300 {
			documents = append(documents, int64(rng.IntN(100)))
		}
		source := newLengths(documents...)
		o := Options{Parts: onePart("x"), SequenceLength: s, Packing: "best-fit", Overlong: "split"}
		d, err := New([]Source{source}, o)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[int32]int{}
		rows := rowsOf(t, d)
		for _, r := range rows {
			for k, label := range r.Labels {
				if label < 0 {
					continue
				}
				seen[label]++
				if label != r.IDs[k]+1 {
					t.Fatalf("label %d after %d", label, r.IDs[k])
				}
			}
		}
		want := 0
		for i := range documents {
			at, n := source.Document(int64(i))
			for k := at + 1; k < at+n; k++ {
				want++
				if seen[int32(k)] != 1 {
					t.Fatalf("s = %d: token %d is a label %d times", s, k, seen[int32(k)])
				}
			}
		}
		if len(seen) != want {
			t.Errorf("s = %d: %d labels, want %d", s, len(seen), want)
		}
		if got := plainBestFit(documents, s); len(rows) != got {
			t.Errorf("s = %d: %d samples, want %d", s, len(rows), got)
		}
		o.Cache = t.TempDir()
		cached, err := New([]Source{source}, o)
		if err != nil {
			t.Fatal(err)
		}
		if got := rowsOf(t, cached); fmt.Sprint(got) != fmt.Sprint(rows) {
			t.Errorf("s = %d: samples from a table in a file differ", s)
		}
		if err := cached.Close(); err != nil {
			t.Error(err)
		}
	}
}

// plainBestFit returns how many samples best fit opens.
func plainBestFit(documents []int64, s int) int {
	var rooms []int
	for _, tokens := range documents {
		for left := int(tokens) - 1; left > 0; left -= s {
			n, best := min(left, s), -1
			for i, room := range rooms {
				if room >= n && (best < 0 || room < rooms[best]) {
					best = i
				}
			}
			if best < 0 {
				best, rooms = len(rooms), append(rooms, s)
			}
			rooms[best] -= n
		}
	}
	return len(rooms)
}

func TestPackingHoldsOutDocuments(t *testing.T) {
	o := Options{Parts: onePart("x"), SequenceLength: 6, Packing: "none", ValidationSplit: 0.4}
	train, err := New([]Source{newLengths(3, 3, 3, 3, 3)}, o)
	if err != nil {
		t.Fatal(err)
	}
	o.HeldOut = true
	held, err := New([]Source{newLengths(3, 3, 3, 3, 3)}, o)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := rowsOf(t, train), rowsOf(t, held); len(a) != 3 || len(b) != 2 || b[0].IDs[0] != 9 {
		t.Errorf("%d samples to train on, %d held out, the first begins with token %d", len(a), len(b), b[0].IDs[0])
	}
}

func TestIntSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{1, 64, 65, 5000} {
		set, plain := newIntSet(n), make([]bool, n)
		for range 3000 {
			i := rng.IntN(n)
			if plain[i] = rng.IntN(3) == 0; plain[i] {
				set.add(i)
			} else {
				set.remove(i)
			}
			from := rng.IntN(n)
			want := from + slices.Index(plain[from:], true)
			got, ok := set.next(from)
			if !ok {
				got = from - 1
			}
			if got != want {
				t.Fatalf("from %d of %d: %d, want %d", from, n, got, want)
			}
		}
	}
}
