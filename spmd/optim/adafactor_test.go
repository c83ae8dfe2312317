package optim

import (
	"math"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// TestAdafactorOfPieces updates a table whose gradient is in several pieces, of which one is in memory at a time, and compares
// with the formulas on the whole.
func TestAdafactorOfPieces(t *testing.T) {
	const vocabulary, width = 70_000, 64
	config, problems := model.ParseConfig(map[string]any{"model_type": "llama", "vocab_size": int64(vocabulary), "hidden_size": int64(width),
		"intermediate_size": int64(8), "num_hidden_layers": int64(1), "num_attention_heads": int64(1), "tie_word_embeddings": false})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	dev, err := cpu.New(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	s, m, ids := dev.NewInlineStream("compute"), model.New(config, model.Partition{}), []int32{3, 9, 30_000, vocabulary - 1}
	o := Options{Type: "adafactor", WeightDecay: 0.1, Adafactor: AdafactorOptions{Beta2Decay: -0.8, Eps: 0x1p-23, MinScale: 1e-3, Threshold: 1}}
	var weights kernels.Tensor
	shards := m.Undivided()
	var gradients *model.Gradients
	var optimizer Optimizer
	place := func(fixed, scratch *kernels.Arena) {
		weights = fixed.Tensor(device.Float32, m.WeightElements())
		gradients = m.PlaceGradients(fixed.Tensor(device.Float32, m.GradientElements(len(ids))), kernels.Tensor{}, shards, len(ids), fixed, scratch)
		of := func(p model.Piece) kernels.Tensor { return p.Of(weights) }
		optimizer = New(m, Share{Shards: shards, Weights: of, Counted: shards.Pieces()}, o, fixed, scratch)
	}
	fixed, scratch := new(kernels.Arena), new(kernels.Arena)
	place(fixed, scratch)
	storage, err := dev.Alloc(fixed.Bytes() + scratch.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Free()
	place(kernels.NewArena(storage), kernels.NewArena(storage).After(fixed.Bytes()))
	if err := m.Bind(weights, kernels.Tensor{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Initialize(dev, s, nil, 1); err != nil {
		t.Fatal(err)
	}
	if n := len(shards.Pieces()); n != len(m.Parameters)+1 {
		t.Fatalf("%d pieces of %d parameters: the table is not in two", n, len(m.Parameters))
	}
	if err := gradients.Touched.Add(ids); err != nil {
		t.Fatal(err)
	}
	gradients.Touched.Sort()
	gradients.WriteIDs(dev, s)
	values := make([]float32, gradients.Flat.Len())
	for i := range values {
		values[i] = float32(math.Sin(float64(i)))
	}
	dev.Write(s, gradients.Flat.Region(), device.BytesOf(values))

	table := m.Parameters[0]
	read := func() []float32 {
		got := make([]float32, table.Len())
		if err := dev.Read(s, device.BytesOf(got), table.Weight.Region()); err != nil {
			t.Fatal(err)
		}
		return got
	}
	before := read()
	optimizer.SumSquares(dev, s, gradients)
	optimizer.Clip(dev, s)
	optimizer.Update(dev, s, gradients, 1, 0.01)
	want := adafactorFirstStep(before, values[len(values)-len(ids)*width:], ids, width, o, 0.01)
	for i, got := range read() {
		if math.Abs(float64(got)-want[i]) > 1e-7 {
			t.Fatalf("element %d of the table is %v, want %v", i, got, want[i])
		}
	}
}

// adafactorFirstStep returns the weights after a first step, in which the second moment is that of the gradient: its rows, of
// the given ids, are g.
func adafactorFirstStep(weights, g []float32, ids []int32, width int, o Options, lr float64) []float64 {
	rows, n := len(weights)/width, float64(len(weights))
	row, column, mean, norm, square := make([]float64, len(ids)), make([]float64, width), 0.0, 0.0, 0.0
	for i, v := range g {
		row[i/width] += float64(v) * float64(v) / float64(width)
		column[i%width] += float64(v) * float64(v) / float64(rows)
	}
	for _, v := range row {
		mean += v / float64(rows)
	}
	update := make([]float64, len(g))
	for i, v := range g {
		update[i] = float64(v) / math.Sqrt(row[i/width]*column[i%width]/mean)
		square += update[i] * update[i]
	}
	for _, v := range weights {
		norm += float64(v) * float64(v)
	}
	size := lr * max(o.Adafactor.MinScale, math.Sqrt(norm/n)) / max(1, math.Sqrt(square/n)/o.Adafactor.Threshold)
	want := make([]float64, len(weights))
	for i, v := range weights {
		want[i] = float64(v) * (1 - lr*o.WeightDecay)
	}
	for i, u := range update {
		want[int(ids[i/width])*width+i%width] -= size * u
	}
	return want
}
