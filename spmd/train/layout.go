// Package train is the one place where everything meets: it lays a run out in memory, makes the training step, and keeps
// the run's files. Read step.go first.
package train

import (
	"fmt"
	"io"
	"strings"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/config"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/optim"
	"lockstep/spmd/pipeline"
)

// A Layout is what a configuration comes to on one rank: who does what, and how much memory it takes. It is a function of
// the configuration and the number of ranks alone and allocates nothing.
type Layout struct {
	Config *config.Config
	Mesh   mesh.Mesh
	Model  *model.Model
	Size   model.Size // of a micro batch

	// MicroBatches is M, those of the step; MyMicroBatches the number of this rank's.
	MicroBatches, MyMicroBatches int
	// Lanes is the number of gradient lanes, 1 per rank where the order of the sum may depend on the layout.
	Lanes int
	// Unit is what of a parameter the optimizer updates at once.
	Unit optim.Unit
	// Memory is what the rank allocates.
	Memory Memory

	stages
	lanes   []pipeline.LaneStep
	buffers int // gradient buffers
	sharing

	recompute []model.Recompute // by layer of the model

	besideScratch, besideExchanged int // bytes of Memory.Scratch and Memory.Exchanged for the micro batch beside another
}

// Memory is the size of what a rank allocates, in bytes.
type Memory struct {
	// Weights, Optimizer and Gradients are fixed; Activations holds the records of the micro batches in flight, Scratch
	// what lives within one layer's call, and Exchanged what of that ranks exchange.
	Weights, Optimizer, Gradients, Activations, Scratch, Exchanged int
	// Snapshot is the copy of what this rank writes of the state, from which a checkpoint in the background is written.
	Snapshot int
}

// Total returns the sum.
func (m Memory) Total() int { return m.device() + m.Snapshot }

// device returns what is in the device's memory.
func (m Memory) device() int {
	return m.Weights + m.Optimizer + m.Gradients + m.Activations + m.Scratch + m.Exchanged
}

// NewLayout computes the layout of a rank of a world. The operators are asked for the sizes of their workspaces only.
func NewLayout(k kernels.Device, c *config.Config, rank, world int) (*Layout, error) {
	p := c.Parallel
	others := p.Tensor * p.Pipeline * p.Context
	grid, err := mesh.New(rank, mesh.Sizes{Tensor: p.Tensor, Context: p.Context, Data: world / others, Pipeline: p.Pipeline, Expert: p.Expert})
	if err != nil {
		return nil, err
	}
	part := model.Partition{Tensor: p.Tensor, TensorRank: grid.Coordinate(mesh.Tensor), SequenceParallel: p.SequenceParallel,
		Expert: p.Expert, ExpertRank: grid.ExpertCoordinate()}
	l := &Layout{Config: c, Mesh: grid, Model: model.New(c.Architecture, part),
		Size:         model.Size{Batch: c.Train.MicroBatchSize, Sequence: c.Data.SequenceLength / p.Context, Split: split(c, grid)},
		MicroBatches: c.MicroBatches(), Lanes: c.Run.GradientLanes}
	if p.SequenceParallel {
		l.Size.Shards = p.Tensor
	}
	if err := l.Model.Tune(c.Tuning()); err != nil {
		return nil, err
	}
	data := grid.Size(mesh.Data)
	if c.Run.Deterministic != "layout" {
		l.Lanes = data
	}
	l.MyMicroBatches = l.MicroBatches / data
	if l.lanes, l.buffers, err = pipeline.Lanes(l.MicroBatches, l.Lanes, grid.Coordinate(mesh.Data), data); err != nil {
		return nil, err
	}
	if l.recompute, err = recomputed(c, l.Model); err != nil {
		return nil, err
	}
	if err := l.cutStages(); err != nil {
		return nil, err
	}
	l.share()
	return l, l.measure(k)
}

// recomputeModes are the values of recompute.mode.
var recomputeModes = map[string]model.Recompute{"none": model.KeepAll, "selective": model.RecomputeSelective, "full": model.RecomputeFull}

// recomputed returns what each layer of the model computes again.
func recomputed(c *config.Config, m *model.Model) ([]model.Recompute, error) {
	selected, err := c.Recompute.Selected(c.Architecture.NumHiddenLayers)
	if err != nil {
		return nil, fmt.Errorf("recompute.layers: %w", err)
	}
	return m.Recompute(recomputeModes[c.Recompute.Mode], selected), nil
}

// arenas are the parts of a rank's memory, in the order in which they lie in its one private allocation, and two in memory that ranks
// exchange: with weights and gradients, and with what layers exchange, which is scratch itself where they exchange nothing. The
// last two are the scratch memory of the micro batch beside another where they are interleaved, else nil.
type arenas struct {
	fixed, gradients, saved, scratch *kernels.Arena
	shared, exchanged                *kernels.Arena
	besideScratch, besideExchanged   *kernels.Arena
}

// placed is everything of a run that lies in the arenas.
type placed struct {
	weights   kernels.Tensor    // [WeightElements], of a shard where ranks share the weights
	turns     [2]kernels.Tensor // what layers use then
	frozen    kernels.Tensor    // [FrozenBytes] Uint8
	optimizer optim.Optimizer
	average   *optim.Average   // of the weights, nil where there is none
	buffers   []kernels.Tensor // [GradientElements] each
	gradients *model.Gradients // the first buffer's
	shard     kernels.Tensor   // [GradientElements] of a shard, where ranks share the gradients
	report    kernels.Tensor   // [ranks, reportWidth] Float64
	cos, sin  kernels.Tensor   // [tablePositions,D]
	contexts  []*model.Context // of the executor, a second one where micro batches are interleaved
	executor  *pipeline.Executor
	load      kernels.Tensor   // [layers with experts, E] Float64, none where there are none
	balancing *model.Balancing // nil where there are none
}

// links are what the executor reaches other ranks by, none while measuring and where there are none.
type links struct {
	stages   collective.Group // of the pipeline
	exchange pipeline.Exchange
}

// place lays the run out in a.
func (l *Layout) place(k kernels.Device, s [2]device.Stream, a arenas, to links) (*placed, error) {
	p := &placed{}
	c := l.Config
	l.placeWeights(p, a)
	p.gradients = l.Model.PlaceGradients(p.buffers[0], p.shard, l.owned, l.rows(), a.fixed, a.scratch)
	share := optim.Share{Shards: l.owned, Weights: l.weightsOf(p), Counted: l.shards.Counted()}
	p.optimizer = optim.New(l.Model, share, c.OptimizerOptions(), a.fixed, a.scratch)
	if c.Optimizer.EMADecay > 0 && c.Run.Mode != "evaluate" {
		p.average = optim.NewAverage(share, c.Optimizer.EMADecay, a.fixed, a.scratch)
	}
	p.report = a.fixed.Tensor(device.Float64, l.Mesh.World(), l.reportWidth())
	p.cos, p.sin = model.PlaceTables(c.Architecture, a.fixed, len(l.tablePositions()))
	stage := l.Mesh.Coordinate(mesh.Pipeline)
	chunks := map[int]*pipeline.Stage{}
	for _, chunk := range l.schedule.Chunks(stage) {
		run := l.runs[chunk]
		chunks[chunk] = &pipeline.Stage{Chunk: l.Model.Chunk(run.From, run.To), Lanes: l.lanes, Buffers: p.buffers}
	}
	if c.Architecture.Experts != nil {
		p.load = l.Model.PlaceLoad(a.fixed)
		p.balancing = &model.Balancing{Loss: balanceLosses[c.MoE.AuxLoss], LossWeight: c.MoE.AuxLossWeight, ZLossWeight: c.MoE.ZLossWeight,
			MicroBatches: l.MicroBatches, Load: p.load}
	}
	lines := l.placeLines(p, k, s, a)
	var err error
	p.executor, err = pipeline.NewExecutor(k, lines, to.stages, chunks, pipeline.Plan{
		Training: l.training.Programs[stage], Evaluation: l.evaluation.Programs[stage], MicroBatches: l.MyMicroBatches, Split: l.training.Split[stage],
		Hidden: c.Architecture.HiddenSize, Size: l.Size, Recompute: l.recompute,
		Positions: c.Data.ResetPositionIDs, Documents: c.Data.ResetAttentionMask,
		PlaceBoundary: l.placeBoundary,
		PlaceExperts: func(a *kernels.Arena) model.ExpertBatch {
			return l.Model.PlaceExpertBatch(balanceLosses[c.MoE.AuxLoss], a)
		},
		AuxiliaryLosses: l.Model.AuxiliaryLosses(), Predictors: l.Model.Predictors(), Exchange: to.exchange, Once: l.once,
	})
	return p, err
}

// placeLines makes what micro batches run in: one line, or two that are interleaved.
func (l *Layout) placeLines(p *placed, k kernels.Device, s [2]device.Stream, a arenas) (lines []pipeline.Line) {
	memory := model.Memory{DType: l.Config.Train.Activations(), Residual: l.Config.Train.Residual(), Saved: a.saved, Delayed: a.scratch, Scratch: a.scratch, Exchanged: a.exchanged, DispatchFactor: l.Config.MoE.DispatchFactor}
	if l.training.Split[l.Mesh.Coordinate(mesh.Pipeline)] {
		memory.Delayed = a.saved
	}
	add := func(s device.Stream) {
		c := &model.Context{Kernels: k, Stream: s, Size: l.Size, Cos: p.cos, Sin: p.sin, Balancing: p.balancing, Padded: l.Config.Data.Packing != "concat"}
		p.contexts, lines = append(p.contexts, c), append(lines, pipeline.Line{Context: c, Memory: memory})
	}
	add(s[0])
	if l.Config.Parallel.InterleaveMicroBatches {
		memory.Delayed, memory.Scratch, memory.Exchanged = a.besideScratch, a.besideScratch, a.besideExchanged
		add(s[1])
	}
	return lines
}

// measure places the run in arenas without memory and notes their sizes.
func (l *Layout) measure(k kernels.Device) error {
	a := arenas{fixed: new(kernels.Arena), gradients: new(kernels.Arena), saved: new(kernels.Arena), scratch: new(kernels.Arena), shared: new(kernels.Arena)}
	a.exchanged = a.scratch
	if l.exchanges() {
		a.exchanged = new(kernels.Arena)
	}
	a.besideScratch, a.besideExchanged = new(kernels.Arena), new(kernels.Arena)
	p, err := l.place(k, [2]device.Stream{}, a, links{})
	if err != nil {
		return err
	}
	l.Unit = p.optimizer.Unit()
	l.fixedBytes, l.gradientBytes, l.sharedBytes = a.fixed.Bytes(), a.gradients.Bytes(), a.shared.Bytes()
	exchanged := l.exchangedWeights(p)
	weights := p.weights.Bytes() + p.turns[0].Bytes() + p.turns[1].Bytes() + p.frozen.Bytes()
	l.Memory = Memory{
		Weights: weights, Optimizer: l.fixedBytes + exchanged - weights,
		Gradients:   l.gradientBytes + l.sharedBytes - exchanged,
		Activations: a.saved.Bytes(), Scratch: a.scratch.Bytes() + a.besideScratch.Bytes(),
	}
	if l.exchanges() {
		l.Memory.Exchanged = a.exchanged.Bytes() + a.besideExchanged.Bytes()
	}
	l.besideScratch, l.besideExchanged = a.besideScratch.Bytes(), a.besideExchanged.Bytes()
	if l.copies() {
		l.Memory.Snapshot = l.snapshotBytes(p)
	}
	return nil
}

// tablePositions returns the positions whose cosines and sines layers look up: those of this rank's tokens, or where positions
// start again in each document all that there can be.
func (l *Layout) tablePositions() []int {
	if l.Config.Data.ResetPositionIDs {
		return model.Size{Sequence: l.Size.Whole()}.Positions()
	}
	return l.Size.Positions()
}

// rows returns the most rows of the embedding's table that a step can touch.
func (l *Layout) rows() int {
	return int(min(int64(l.Model.Vocabulary()), l.Config.TokensPerStep()))
}

// exchanges reports whether layers exchange activations by collectives, which a ring does without.
func (l *Layout) exchanges() bool {
	return l.Mesh.Size(mesh.Tensor) > 1 || l.Mesh.ExpertSize() > 1 || l.Size.Split.Ulysses > 1
}

// arenas cuts the rank's one private allocation, and the memory that the ranks exchange.
func (l *Layout) arenas(private, exchanged *device.Storage) arenas {
	a := arenas{fixed: kernels.NewArena(private), shared: kernels.NewArena(exchanged)}
	a.gradients = a.fixed.After(l.fixedBytes)
	a.saved = a.gradients.After(l.gradientBytes)
	a.scratch = a.saved.After(l.Memory.Activations)
	a.exchanged = a.scratch
	if l.exchanges() {
		a.exchanged = a.shared.After(l.sharedBytes)
	}
	a.besideScratch = a.scratch.After(l.Memory.Scratch - l.besideScratch)
	a.besideExchanged = a.exchanged.After(l.Memory.Exchanged - l.besideExchanged)
	return a
}

// privateBytes returns the size of the rank's one private allocation, exchangedBytes that of the memory that ranks exchange.
func (l *Layout) privateBytes() int {
	return l.fixedBytes + l.gradientBytes + l.Memory.Activations + l.Memory.Scratch
}

func (l *Layout) exchangedBytes() int { return l.sharedBytes + l.Memory.Exchanged }

// Describe prints the arithmetic of the run: how the batch is made up, the model's size, each rank's memory.
func (l *Layout) Describe(w io.Writer) {
	c, a := l.Config, l.Config.Architecture
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-11s%s\n", name, fmt.Sprintf(format, args...))
	}
	line("model", "%s, %d layers, hidden %d, %d heads (%d key-value) of %d, vocabulary %s: %s parameters", a.Family, a.NumHiddenLayers,
		a.HiddenSize, a.NumAttentionHeads, a.NumKeyValueHeads, a.HeadDim, count(a.VocabSize), count(l.Model.NumParameters()))
	if len(l.Model.Frozen) > 0 {
		line("trained", "%s parameters: %s", count(l.Model.NumTrained()), describeTuning(c, l.Model))
	}
	shared := ""
	if l.Size.Shards > 1 {
		shared = fmt.Sprintf("; outside of attention and feed-forward networks each tensor rank has %s of the %s tokens of a micro batch",
			count(l.Size.Held()), count(l.Size.Tokens()))
	}
	line("mesh", "%v%s", l.Mesh, shared)
	data := l.Mesh.Size(mesh.Data)
	if text := l.describeStages(); text != "" {
		line("pipeline", "%s", text)
	}
	line("batch", "%d per micro batch x %d accumulated x %s = %d samples x %d tokens = %s tokens per step",
		c.Train.MicroBatchSize, l.MyMicroBatches, plural(data, "rank"), c.Train.GlobalBatchSize, l.Size.Whole(), count(int(c.TokensPerStep())))
	if text := describeContext(l.Size); text != "" {
		line("context", "%s", text)
	}
	if c.Run.Mode != "evaluate" {
		line("run", "%d steps x %s = %s tokens", c.Train.Steps, count(int(c.TokensPerStep())), count(c.Train.Steps*int(c.TokensPerStep())))
	}
	if text := describeDocuments(c.Data); text != "" {
		line("documents", "%s", text)
	}
	if c.Run.Mode != "evaluate" {
		average := ""
		if c.Optimizer.EMADecay > 0 {
			average = fmt.Sprintf(", and an average of the weights with decay %v", c.Optimizer.EMADecay)
		}
		line("optimizer", "%s, %v by %v%s", c.Optimizer.Type, l.Unit, l.Unit, average)
	}
	if text := l.describe(); text != "" {
		line("zero", "ranks that hold the same weights share %s, in %s", text, plural(len(l.buckets), "bucket"))
	}
	promise := map[string]string{
		"layout": fmt.Sprintf("the same bits on up to %d data ranks, with any number of threads", l.Lanes),
		"run":    "the same bits for a repeat on the same ranks", "off": "no promise of equal bits",
	}
	line("numbers", "%s, %s", c.Train.DType, promise[c.Run.Deterministic])
	if text := describeRecompute(c.Recompute); text != "" {
		line("recompute", "%s", text)
	}
	m := l.Memory
	whose := "per rank"
	if len(l.schedule) > 1 {
		whose = "on the first stage's ranks"
	}
	line("memory", "%s %s: weights %s, optimizer %s, gradients %s (%s), activations %s, scratch %s", megabytes(m.device()), whose,
		megabytes(m.Weights), megabytes(m.Optimizer), megabytes(m.Gradients), plural(l.buffers, "buffer"), megabytes(m.Activations), megabytes(m.Scratch+m.Exchanged))
	if m.Snapshot > 0 {
		line("", "and %s to write checkpoints in the background", megabytes(m.Snapshot))
	}
}

// describeRecompute says what the backward pass computes again, "" where that is nothing.
func describeRecompute(r config.Recompute) string {
	switch {
	case r.Mode == "none":
		return ""
	case r.Layers == nil:
		return r.Mode + ", in all layers"
	}
	return r.Mode + ", in layers " + strings.Join(r.Layers, ", ")
}

// describeTuning says what is trained where that is not the whole model.
func describeTuning(c *config.Config, m *model.Model) string {
	if c.LoRA.Rank > 0 {
		return fmt.Sprintf("LoRA of rank %d on %s, the model frozen in %s", c.LoRA.Rank, strings.Join(m.Adapted(), ", "), c.LoRA.BaseDType)
	}
	return "all but " + strings.Join(c.Train.Freeze, ", ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// count writes a number with separators: 1,234,567.
func count(n int) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func megabytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
