package pipeline_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"log/slog"
	"sync"
	"testing"
	"time"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// unit is how long each pass of a micro batch through a chunk takes in BenchmarkBubble.
var unit = flag.Duration("unit", 20*time.Millisecond, "how long a pass through a chunk takes in BenchmarkBubble")

// BenchmarkBubble runs the schedules on eight ranks whose passes take a fixed time: chunks of one small transformer layer, before whose
// work the rank sleeps. It reports the idle share of the ranks' time beside the simulator's, both in per cent. Transfers go through shared
// memory, or through TCP.
func BenchmarkBubble(b *testing.B) {
	for _, backend := range []string{collective.BackendShm, collective.BackendTCP} {
		for _, name := range []string{"gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-v", "dualpipe-v"} {
			b.Run(backend+"/"+name, func(b *testing.B) { benchmarkBubble(b, backend, name) })
		}
	}
}

func benchmarkBubble(b *testing.B, backend, name string) {
	g := pipeline.Generators()[name]
	shape := pipeline.Shape{Ranks: 8, Virtual: g.Virtual, MicroBatches: 16}
	if g.Virtual == 0 {
		shape.Virtual = 2
	}
	schedule, chunks := g.Make(shape), shape.Ranks*shape.Virtual
	report, err := pipeline.Simulate(schedule, chunks, shape.MicroBatches, pipeline.UnitCosts(chunks))
	if err != nil {
		b.Fatal(err)
	}
	secret := make([]byte, collective.SecretSize)
	if _, err := rand.Read(secret); err != nil {
		b.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	root, err := collective.NewRoot(collective.RootOptions{Size: shape.Ranks, Job: "bubble", Secret: secret, Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	ranks, errs := make([]sleepingRank, shape.Ranks), make([]error, shape.Ranks)
	var running sync.WaitGroup
	for r := range ranks {
		ranks[r] = sleepingRank{rank: r, shape: shape, schedule: schedule, report: report, steps: b.N, options: collective.Options{
			Place:  collective.Place{Rank: r, Size: shape.Ranks, LocalRank: r, LocalSize: shape.Ranks, Job: "bubble", Rendezvous: root.Addr()},
			Secret: secret, Backend: backend, Log: quiet}}
		running.Go(func() { errs[r] = ranks[r].run() })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	var busy, all, longest time.Duration
	for _, r := range ranks {
		busy, longest = busy+r.busy, max(longest, r.all)
	}
	all = longest * time.Duration(shape.Ranks)
	b.ReportMetric(100*(1-float64(busy)/float64(all)), "bubble-%")
	b.ReportMetric(100*report.Bubble, "simulated-%")
	b.ReportMetric(float64(longest)/float64(b.N)/float64(*unit)/report.Time, "time/simulated")
}

// A sleepingRank runs one rank's program of a small model, and sleeps in each pass.
type sleepingRank struct {
	rank, steps int
	shape       pipeline.Shape
	schedule    pipeline.Schedule
	report      pipeline.Report
	options     collective.Options
	executor    model.Progress
	layers      int
	busy, all   time.Duration
}

// Enter sleeps for as long as the pass through a transformer layer is to take.
func (r *sleepingRank) Enter(pass model.Pass, layer int) {
	if layer > 0 && layer <= r.layers {
		started := time.Now()
		if time.Sleep(*unit); pass == model.BackwardPass {
			time.Sleep(*unit)
		}
		r.busy += time.Since(started)
	}
	r.executor.Enter(pass, layer)
}

// Leave hands on.
func (r *sleepingRank) Leave(pass model.Pass, layer int) { r.executor.Leave(pass, layer) }

func (r *sleepingRank) run() (err error) {
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		return err
	}
	defer dev.Close()
	r.options.NewStream = dev.NewStream
	world, err := collective.Join(context.Background(), r.options)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			world.Abort(err)
		}
		err = errors.Join(err, world.Close())
	}()
	everyone := make([]int, r.shape.Ranks)
	for i := range everyone {
		everyone[i] = i
	}
	group, err := world.NewGroup("pipeline", everyone)
	if err != nil {
		return err
	}
	s := dev.NewInlineStream("compute")
	e, touched, err := r.build(dev, s, group)
	if err != nil {
		return err
	}
	load := func(_ int, b pipeline.Batch) error { return nil }
	for range r.steps {
		if err := group.Barrier(context.Background()); err != nil {
			return err
		}
		started := time.Now()
		if err := e.Run(load, pipeline.Step{LossScale: 1, Touched: touched}); err != nil {
			return err
		}
		if err := s.Synchronize(); err != nil {
			return err
		}
		r.all += time.Since(started)
	}
	return group.Barrier(context.Background())
}

// build lays out a model with as many transformer layers as there are chunks, in which this rank holds its own.
func (r *sleepingRank) build(dev *cpu.Device, s device.Stream, group collective.Group) (*pipeline.Executor, *model.Touched, error) {
	r.layers = r.shape.Ranks * r.shape.Virtual
	c, problems := model.ParseConfig(map[string]any{"model_type": "qwen3", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 32,
		"num_hidden_layers": r.layers, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64})
	if len(problems) > 0 {
		return nil, nil, errors.New(problems[0].String())
	}
	storage, err := dev.Alloc(256 << 20)
	if err != nil {
		return nil, nil, err
	}
	m, arena := model.New(c, model.Partition{}), kernels.NewArena(storage)
	if err := m.Bind(arena.Tensor(device.Float32, m.WeightElements()), kernels.Tensor{}); err != nil {
		return nil, nil, err
	}
	size := model.Size{Batch: 1, Sequence: 16}
	cos, sin := model.PlaceTables(c, arena, size.Sequence)
	flat := arena.Tensor(device.Float32, m.GradientElements(c.VocabSize))
	scratch := arena.After(192 << 20)
	gradients := m.PlaceGradients(flat, kernels.Tensor{}, m.Undivided(), c.VocabSize, arena, scratch)
	if err := gradients.Touched.Add([]int32{0}); err != nil {
		return nil, nil, err
	}
	gradients.Touched.Sort()
	lanes, _, err := pipeline.Lanes(r.shape.MicroBatches, 1, 0, 1)
	if err != nil {
		return nil, nil, err
	}
	stages := map[int]*pipeline.Stage{}
	for _, chunk := range r.schedule.Chunks(r.rank) {
		from, to := chunk+1, chunk+2
		if chunk == 0 {
			from = 0
		}
		if chunk == r.layers-1 {
			to++
		}
		stages[chunk] = &pipeline.Stage{Chunk: m.Chunk(from, to), Lanes: lanes, Buffers: []kernels.Tensor{flat}}
	}
	delayed := scratch
	if r.report.Split[r.rank] {
		delayed = arena
	}
	x := &model.Context{Kernels: dev, Stream: s, Size: size, Cos: cos, Sin: sin}
	line := pipeline.Line{Context: x, Memory: model.Memory{DType: device.Float32, Residual: device.Float32, Saved: arena, Delayed: delayed, Scratch: scratch, Exchanged: scratch}}
	e, err := pipeline.NewExecutor(dev, []pipeline.Line{line}, group, stages, pipeline.Plan{Training: r.report.Programs[r.rank], MicroBatches: r.shape.MicroBatches,
		Split: r.report.Split[r.rank], Hidden: c.HiddenSize, Size: size,
		PlaceBoundary: func(a *kernels.Arena) model.Boundary {
			return m.PlaceBoundary(size, device.Float32, model.NoBalanceLoss, a)
		}})
	r.executor, x.Progress = x.Progress, r
	return e, gradients.Touched, err
}
