package model_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

func TestTouched(t *testing.T) {
	touched := model.NewTouched(kernels.Vocabulary{Whole: 10}, 10, 6)
	fill := func(lists ...[]int32) {
		t.Helper()
		touched.Clear()
		for _, ids := range lists {
			if err := touched.Add(ids); err != nil {
				t.Fatal(err)
			}
		}
		touched.Sort()
	}
	rows := make([]int32, 4)
	fill([]int32{9, 2, 2}, []int32{0, 9, 5})
	if err := touched.Rows(rows, []int32{9, 0, 5, 2}); err != nil || touched.Len() != 4 || !slices.Equal(rows, []int32{3, 0, 2, 1}) {
		t.Errorf("%d ids, rows %v, %v", touched.Len(), rows, err)
	}
	fill([]int32{3, 2})
	for _, id := range []int32{9, -1, 10} {
		if err := touched.Rows(rows, []int32{2, id}); err == nil {
			t.Errorf("id %d has a row, which is not in the set", id)
		}
	}
	for _, id := range []int32{-1, 10} {
		if err := touched.Add([]int32{id}); err == nil {
			t.Errorf("id %d is in a vocabulary of 10", id)
		}
	}
}

// TestPieces puts the gradient of a table together from its touched rows and compares with the whole table's, tied to the
// head and not. One width fills a block of the norm with 32 rows, the other with no fewer than 4096.
func TestPieces(t *testing.T) {
	const vocabulary = 9000
	for _, width := range []int{640, 513} {
		for _, tied := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d-%v", width, tied), func(t *testing.T) {
				dev, s := open(t)
				c, problems := model.ParseConfig(map[string]any{"model_type": "llama", "vocab_size": vocabulary, "hidden_size": width,
					"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
					"max_position_embeddings": 64, "tie_word_embeddings": tied})
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				m, ids := model.New(c, model.Partition{}), []int32{8999, 0, 17, 6527, 6528, 4095, 4096, 1}
				g, rows := touchedGradients(t, m, dev, s, ids)
				want := wholeTable(t, m, dev, s, g, ids, rows)
				g.Merge(dev, s)
				checkPieces(t, m, dev, s, g, want)
				checkShards(t, m, dev, s, g, want)
			})
		}
	}
}

// touchedGradients returns gradients of a step with the given ids, all of them numbers, and those of the rows.
func touchedGradients(t *testing.T, m *model.Model, dev *cpu.Device, s device.Stream, ids []int32) (g *model.Gradients, rows kernels.Tensor) {
	t.Helper()
	storage, err := dev.Alloc(160 << 20)
	if err != nil {
		t.Fatal(err)
	}
	arena, most := kernels.NewArena(storage), len(ids)+3
	flat := arena.Tensor(device.Float32, m.GradientElements(most))
	g = m.PlaceGradients(flat, kernels.Tensor{}, m.Undivided(), most, arena, arena.After(96<<20))
	if err := g.Touched.Add(ids); err != nil {
		t.Fatal(err)
	}
	g.Touched.Sort()
	g.WriteIDs(dev, s)
	values := make([]float32, flat.Len())
	for i := range values {
		values[i] = float32(i%1021) - 500
	}
	dev.Write(s, flat.Region(), device.BytesOf(values))
	width := m.Config.HiddenSize
	return g, flat.Narrow(0, m.GradientElements(0), m.GradientElements(len(ids))).Split(0, len(ids), width)
}

// wholeTable returns what the table's gradient is: the rows at their ids, and the head's gradient where it is tied.
func wholeTable(t *testing.T, m *model.Model, dev *cpu.Device, s device.Stream, g *model.Gradients, ids []int32, rows kernels.Tensor) kernels.Tensor {
	t.Helper()
	width := m.Config.HiddenSize
	storage, err := dev.Alloc(4*m.Config.VocabSize*width + 4*len(ids))
	if err != nil {
		t.Fatal(err)
	}
	whole := kernels.NewTensor(storage, 0, device.Float32, m.Config.VocabSize, width)
	sorted := kernels.NewTensor(storage, whole.Bytes(), device.Int32, len(ids))
	dev.Write(s, sorted.Region(), device.BytesOf(slices.Sorted(slices.Values(ids))))
	dev.EmbeddingBackward(s, whole, rows, sorted, false)
	if m.Config.TieWordEmbeddings {
		dev.Add(s, whole, whole, m.Slice(g.Flat, m.Parameters[0]))
	}
	return whole.Reshape(whole.Len())
}

// checkPieces compares the pieces of the first parameter with its whole gradient, and looks at where pieces begin.
func checkPieces(t *testing.T, m *model.Model, dev *cpu.Device, s device.Stream, g *model.Gradients, want kernels.Tensor) {
	t.Helper()
	read := func(x kernels.Tensor) []byte {
		data := make([]byte, x.Bytes())
		if err := dev.Read(s, data, x.Region()); err != nil {
			t.Fatal(err)
		}
		return data
	}
	pieces := map[*model.Parameter]int{}
	at := 0
	for _, p := range m.Undivided().Pieces() {
		if p.From%kernels.SquaredNormBlock != 0 {
			t.Errorf("a piece of %s begins at element %d, inside a block", p.Parameter.Name, p.From)
		}
		pieces[p.Parameter]++
		if p.Parameter != m.Parameters[0] {
			continue
		}
		if p.From != at {
			t.Errorf("a piece begins at element %d, the one before ends at %d", p.From, at)
		}
		if at = p.To; !bytes.Equal(read(g.Piece(dev, s, p)), read(want.Narrow(0, p.From, p.To))) {
			t.Errorf("the gradient of elements [%d, %d) differs from the whole table's", p.From, p.To)
		}
	}
	for p, n := range pieces {
		if several := p == m.Parameters[0] && !m.Config.TieWordEmbeddings; several != (n > 1) {
			t.Errorf("%s comes in %d pieces", p.Name, n)
		}
	}
}

// checkShards compares the pieces that three ranks own of the first parameter with its whole gradient.
func checkShards(t *testing.T, m *model.Model, dev *cpu.Device, s device.Stream, g *model.Gradients, want kernels.Tensor) {
	t.Helper()
	buckets, at := m.Buckets([]model.Span{{From: 0, To: len(m.Layers)}}, 1<<30), 0
	for rank := range 3 {
		shards := m.Shard(buckets, [model.NumReducers]model.Place{model.Replicas: {Rank: rank, Ranks: 3}}, func(*model.Parameter) bool { return false })
		for _, p := range shards.Pieces() {
			if p.Parameter != m.Parameters[0] {
				continue
			}
			if p.From != at || p.From%kernels.SquaredNormBlock != 0 {
				t.Errorf("a piece of rank %d begins at element %d, the one before ends at %d", rank, p.From, at)
			}
			got, expected := make([]byte, 4*(p.To-p.From)), make([]byte, 4*(p.To-p.From))
			at = p.To
			if err := errors.Join(dev.Read(s, got, g.Piece(dev, s, p).Region()), dev.Read(s, expected, want.Narrow(0, p.From, p.To).Region())); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, expected) {
				t.Errorf("rank %d: the gradient of elements [%d, %d) differs from the whole table's", rank, p.From, p.To)
			}
		}
	}
	if at != m.Parameters[0].Len() {
		t.Errorf("the ranks have %d elements of %d", at, m.Parameters[0].Len())
	}
}
