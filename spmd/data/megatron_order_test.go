package data

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestShuffleIsNumpys compares with numpy.random.RandomState and numpy.sum of numpy 2.4.
func TestShuffleIsNumpys(t *testing.T) {
	if got := newMT19937(5489).uint32(); got != 3499211612 { // of the reference implementation
		t.Errorf("the first number is %d", got)
	}
	order := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	shuffle(newMT19937(1234), order)
	if want := []int{7, 2, 9, 1, 0, 8, 4, 5, 6, 3}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
	m := newMT19937(1)
	high, low := m.uint32(), m.uint32()
	if got, want := newMT19937(1).upTo(1<<64-1), uint64(high)<<32|uint64(low); got != want {
		t.Errorf("64 bits: %x, want %x", got, want)
	}
	weights := make([]float64, 300)
	for i := range weights {
		weights[i] = 1 / float64(i+3)
	}
	for n, want := range map[int]float64{300: 4.789297397713862, 50: 3.038043950697449, 7: 1.328968253968254} {
		if got := pairwiseSum(weights[:n]); got != want {
			t.Errorf("the sum of %d numbers is %v, want %v", n, got, want)
		}
	}
}

// TestMegatronGolden compares indices and samples with those of megatron-core 0.16, made by tools/compare_megatron.py: less than
// an epoch, several with the last one shuffled by itself and not, a part held out, and one document.
func TestMegatronGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/megatron.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Documents     [][]float64
		Seed          uint64
		Length        int
		Samples       int64
		Split         float64
		DocumentIndex []int64   `json:"document_index"`
		SampleIndex   []int64   `json:"sample_index"`
		ShuffleIndex  []int64   `json:"shuffle_index"`
		EveryNinth    [][]int32 `json:"every_ninth"`
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	separate := map[bool]bool{}
	for i, c := range cases {
		bin, idx := indexed(uint16Tokens, c.Documents...)
		o := Options{Format: "megatron", Parts: onePart(writePair(t, bin, idx)), SequenceLength: c.Length, Shuffle: true, Seed: c.Seed,
			Megatron: &MegatronOrder{Samples: c.Samples}, ValidationSplit: c.Split, EOD: -1, Cache: t.TempDir()}
		for range 2 { // the second time from the files
			d, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			m := d.parts[0].sampler.(*megatronSamples)
			separate[m.separate] = true
			for name, pair := range map[string]struct {
				got  *array
				want []int64
			}{"document": {m.documents, c.DocumentIndex}, "sample": {m.samples, c.SampleIndex}, "shuffle": {m.order, c.ShuffleIndex}} {
				if n := int64(len(pair.got.numbers) / pair.got.width); n != int64(len(pair.want)) {
					t.Fatalf("case %d: the %s index has %d numbers, want %d", i, name, n, len(pair.want))
				}
				for k, want := range pair.want {
					if got := pair.got.at(int64(k)); got != want {
						t.Fatalf("case %d: number %d of the %s index is %d, want %d", i, k, name, got, want)
					}
				}
			}
			for k, want := range c.EveryNinth {
				if err := d.sample(int64(9 * k)); err != nil {
					t.Fatal(err)
				}
				if got := append(slices.Clone(d.row.ids), d.row.labels[c.Length-1]); !slices.Equal(got, want) {
					t.Errorf("case %d: sample %d is %v, want %v", i, 9*k, got, want)
				}
			}
			if !strings.HasPrefix(d.Order(), "in Megatron-Core's order") {
				t.Errorf("order %q", d.Order())
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if len(separate) != 2 {
		t.Error("a last epoch that is shuffled by itself, or one that is not, is in no case")
	}
}

// TestMegatronOrderErrors checks what is refused, and that a damaged index is named.
func TestMegatronOrderErrors(t *testing.T) {
	bin, idx := indexed(uint16Tokens, []float64{1, 2, 3, 4, 5, 6, 7, 8, 9})
	o := Options{Format: "megatron", Parts: onePart(writePair(t, bin, idx)), SequenceLength: 9, Megatron: &MegatronOrder{Samples: 5}, EOD: -1, Cache: t.TempDir()}
	if _, err := Open(o); !errors.Is(err, ErrTooFewTokens) {
		t.Errorf("nine tokens for samples of ten: %v", err)
	}
	o.SequenceLength = 4
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	paths, err := filepath.Glob(filepath.Join(o.Cache, "*-sample_index.npy"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%q, %v", paths, err)
	}
	for _, content := range []string{"", "no array", npyMagic + "\xff\xff", string(npyHeader("<f8", []int{3})), string(npyHeader("<i4", []int{3}))} {
		if err := os.WriteFile(paths[0], []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), paths[0]) || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("an index of %q: %v", content, err)
		}
	}
}
