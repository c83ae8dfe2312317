package pipeline_test

import (
	"bytes"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// gradients runs one step of a small model by a schedule and returns the sum of the weights' gradients and the losses. Its
// two layers compute again what they are told to.
func gradients(t *testing.T, actions []pipeline.Action, microBatches int, recompute model.Recompute) (sum, losses []byte) {
	t.Helper()
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	s := dev.NewInlineStream("compute")
	c, problems := model.ParseConfig(map[string]any{"model_type": "qwen3", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	report, err := pipeline.Simulate(pipeline.Schedule{actions}, 1, microBatches, pipeline.UnitCosts(1))
	if err != nil {
		t.Fatal(err)
	}
	storage, err := dev.Alloc(64 << 20)
	if err != nil {
		t.Fatal(err)
	}
	arena := kernels.NewArena(storage)
	m := model.New(c, model.Partition{})
	if err := m.Bind(arena.Tensor(device.Float32, m.WeightElements()), kernels.Tensor{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Initialize(dev, s, nil, 1); err != nil {
		t.Fatal(err)
	}
	size := model.Size{Batch: 2, Sequence: 7}
	cos, sin := model.PlaceTables(c, arena, size.Sequence)
	model.WriteTables(c, dev, s, cos, sin, size.Positions())
	lanes, n, err := pipeline.Lanes(microBatches, 4, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	var buffers []kernels.Tensor
	for range n {
		buffers = append(buffers, arena.Tensor(device.Float32, m.GradientElements(c.VocabSize)))
	}
	delayed, scratch := arena, arena.After(48<<20)
	if !report.Split[0] {
		delayed = scratch
	}
	summed := m.PlaceGradients(buffers[0], kernels.Tensor{}, m.Undivided(), c.VocabSize, arena, scratch)
	e, err := pipeline.NewExecutor(dev, []pipeline.Line{{Context: &model.Context{Kernels: dev, Stream: s, Size: size, Cos: cos, Sin: sin},
		Memory: model.Memory{DType: device.Float32, Residual: device.Float32, Saved: arena, Delayed: delayed, Scratch: scratch, Exchanged: scratch}}}, nil,
		map[int]*pipeline.Stage{0: {Chunk: m.Chunk(0, len(m.Layers)), Lanes: lanes, Buffers: buffers}},
		pipeline.Plan{Training: report.Programs[0], MicroBatches: microBatches, Split: report.Split[0], Hidden: c.HiddenSize, Size: size,
			Recompute: m.Recompute(recompute, []bool{true, true})})
	if err != nil {
		t.Fatal(err)
	}
	var vocabulary [61]int32
	for id := range vocabulary {
		vocabulary[id] = int32(id)
	}
	load := func(microBatch int, b pipeline.Batch) error {
		for i := range b.IDs {
			b.IDs[i], b.Labels[i] = int32((7*i+microBatch)%61), int32((11*i+3*microBatch)%61)
		}
		return nil
	}
	if err := summed.Touched.Add(vocabulary[:]); err != nil {
		t.Fatal(err)
	}
	summed.Touched.Sort()
	if err := e.Run(load, pipeline.Step{LossScale: 0.01, Touched: summed.Touched}); err != nil {
		t.Fatal(err)
	}
	used := summed.Flat.Narrow(0, 0, m.GradientElements(summed.Touched.Len()))
	sum, losses = make([]byte, used.Bytes()), make([]byte, e.Losses().Bytes())
	if err := dev.Read(s, sum, used.Region()); err != nil {
		t.Fatal(err)
	}
	if err := dev.Read(s, losses, e.Losses().Region()); err != nil {
		t.Fatal(err)
	}
	return sum, losses
}

// TestSchedulesGiveTheSameBits runs schedules that keep several micro batches alive and delay the weights' gradients.
func TestSchedulesGiveTheSameBits(t *testing.T) {
	const n = 5
	oneFOneB := pipeline.Generators()["1f1b"].Make(pipeline.Shape{Ranks: 1, Virtual: 1, MicroBatches: n})[0]
	var gpipe, split, delayed []pipeline.Action
	for m := range n {
		gpipe = append(gpipe, pipeline.Action{Kind: pipeline.Forward, MicroBatch: m})
		split = append(split, pipeline.Action{Kind: pipeline.Forward, MicroBatch: m}, pipeline.Action{Kind: pipeline.BackwardInput, MicroBatch: m},
			pipeline.Action{Kind: pipeline.BackwardWeight, MicroBatch: m})
		delayed = append(delayed, pipeline.Action{Kind: pipeline.Forward, MicroBatch: m}, pipeline.Action{Kind: pipeline.BackwardInput, MicroBatch: m})
		if m > 1 {
			delayed = append(delayed, pipeline.Action{Kind: pipeline.BackwardWeight, MicroBatch: m - 2})
		}
	}
	for m := range n {
		gpipe = append(gpipe, pipeline.Action{Kind: pipeline.Backward, MicroBatch: m})
	}
	delayed = append(delayed, pipeline.Action{Kind: pipeline.BackwardWeight, MicroBatch: n - 2}, pipeline.Action{Kind: pipeline.BackwardWeight, MicroBatch: n - 1})
	want, wantLosses := gradients(t, oneFOneB, n, model.KeepAll)
	if bytes.Count(want, []byte{0}) > len(want)/2 {
		t.Fatal("most of the gradients to compare with are zero")
	}
	for name, actions := range map[string][]pipeline.Action{"1f1b": oneFOneB, "gpipe": gpipe, "split": split, "delayed": delayed} {
		for _, recompute := range []model.Recompute{model.KeepAll, model.RecomputeSelective, model.RecomputeFull} {
			got, losses := gradients(t, actions, n, recompute)
			if !bytes.Equal(got, want) || !bytes.Equal(losses, wantLosses) {
				t.Errorf("%s with recompute %d gives other bits than 1f1b that keeps all", name, recompute)
			}
		}
	}
}
