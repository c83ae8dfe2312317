package pipeline

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// A Stage is one chunk of layers that this rank holds.
type Stage struct {
	Chunk *model.Chunk
	// Lanes has a step for each of the rank's micro batches, Buffers the flat gradient buffers it names; the sum ends in
	// the first.
	Lanes   []LaneStep
	Buffers []kernels.Tensor
}

// An Executor runs one rank's list of actions. It knows no particular schedule.
type Executor struct {
	device       kernels.Device
	context      *model.Context
	stages       map[int]*Stage // by chunk
	actions      []Action
	slots        []int // by action: the slot of its record
	records      []slot
	losses       kernels.Tensor // [micro batches] Float64
	auxiliary    kernels.Tensor // [micro batches, AuxiliaryLosses] Float64, none where there are none
	ahead        Batch          // staging of what a module of multi-token prediction reads: its ids and labels
	microBatches int
	host         Batch   // staging of one micro batch
	local        []int32 // this rank's tokens of it
	documents    []int32
	rows         []int32 // of local ids
	reduce       Reduce
	running      running
}

// running is what an Executor is at.
type running struct {
	stage      *Stage
	microBatch int
	training   bool
}

// A Reduce is called once all of the rank's micro batches have added their gradients of a layer in buckets of a kind. They lie in
// the first of a stage's buffers, and nothing in the rest of the step touches them.
type Reduce func(layer int, kind model.BucketKind)

// A slot holds what one micro batch in flight needs.
type slot struct {
	record *model.ChunkRecord
	batch  model.MicroBatch
}

// A Batch is a micro batch on the host, as model.MicroBatch describes it, but of whole samples, also where ranks share them: T tokens
// of each, [B*T]. Documents are the tokens' documents by their first tokens in the sample. Positions and Documents are nil where
// the plan has none.
type Batch struct{ IDs, Labels, Positions, Documents []int32 }

// A Loader fills a rank's micro batch.
type Loader func(microBatch int, b Batch) error

// Plan is what an Executor needs to be laid out in memory.
type Plan struct {
	Actions      []Action
	MicroBatches int
	Split        bool // from the simulator's Report
	Hidden       int
	Size         model.Size
	// Recompute says what each layer of the model computes again, see model.Placement.
	Recompute []model.Recompute
	// Positions and Documents say whether micro batches have them.
	Positions, Documents bool
	// PlaceExperts places what the layers with experts share in a micro batch, AuxiliaryLosses is how many losses each has
	// besides the first; nil and 0 where there are none.
	PlaceExperts    func(a *kernels.Arena) model.ExpertBatch
	AuxiliaryLosses int
	// Predictors is the number of modules of multi-token prediction.
	Predictors int
	// Reduce may be nil.
	Reduce Reduce
}

// assignSlots gives each action the slot of its record, reusing those of finished micro batches, and returns the number of
// slots.
func assignSlots(actions []Action) (slots []int, n int) {
	held := map[pass]int{}
	var free []int
	for _, a := range actions {
		p := pass{a.MicroBatch, a.Chunk}
		if a.Kind == Forward {
			if len(free) == 0 {
				free = append(free, n)
				n++
			}
			held[p], free = free[len(free)-1], free[:len(free)-1]
		}
		slots = append(slots, held[p])
		if a.Kind == Backward || a.Kind == BackwardWeight {
			free = append(free, held[p])
		}
	}
	return slots, n
}

// NewExecutor lays out the records of the plan's actions in the arenas of mem: run it first with measuring arenas and no
// stages' buffers, then with real ones. The context's stream runs everything.
func NewExecutor(k kernels.Device, c *model.Context, stages map[int]*Stage, p Plan, mem model.Memory) (*Executor, error) {
	e := &Executor{device: k, context: c, stages: stages, actions: p.Actions, microBatches: p.MicroBatches, reduce: p.Reduce}
	c.Progress = e
	placement := model.Placement{Memory: mem, Layers: p.Recompute, Split: p.Split}
	slots, n := assignSlots(p.Actions)
	e.slots = slots
	e.losses = mem.Saved.Tensor(device.Float64, p.MicroBatches)
	if p.AuxiliaryLosses > 0 {
		e.auxiliary = mem.Saved.Tensor(device.Float64, p.MicroBatches, p.AuxiliaryLosses)
	}
	e.host = newBatch(p)
	e.local, e.rows = make([]int32, p.Size.Tokens()), make([]int32, p.Size.Tokens())
	e.ahead = Batch{IDs: make([]int32, len(e.host.IDs)), Labels: make([]int32, len(e.host.IDs))}
	if p.Documents {
		e.documents = make([]int32, kernels.NewTensor(nil, 0, device.Int32, p.Size.DocumentShape()...).Len())
	}
	e.records = make([]slot, n)
	for i, a := range p.Actions {
		s := &e.records[slots[i]]
		if s.record != nil {
			continue
		}
		stage := stages[a.Chunk]
		if stage == nil {
			return nil, fmt.Errorf("pipeline: action %v is for a chunk that this rank does not hold", a)
		}
		s.record = stage.Chunk.NewRecord(k, p.Size, p.Hidden, &placement)
		s.batch = placeBatch(p, mem.Saved)
	}
	return e, nil
}

// newBatch allocates a batch on the host, of whole samples.
func newBatch(p Plan) Batch {
	numbers := func(there bool) []int32 {
		if !there {
			return nil
		}
		return make([]int32, p.Size.Batch*p.Size.Whole())
	}
	return Batch{IDs: numbers(true), Labels: numbers(true), Positions: numbers(p.Positions), Documents: numbers(p.Documents)}
}

// placeBatch places the operands of a micro batch that a Batch is written to.
func placeBatch(p Plan, a *kernels.Arena) model.MicroBatch {
	numbers := func(there bool, shape ...int) kernels.Tensor {
		if !there {
			return kernels.Tensor{}
		}
		return a.Tensor(device.Int32, shape...)
	}
	tokens, rows, length := p.Size.Tokens(), p.Size.Batch, p.Size.Sequence
	b := model.MicroBatch{IDs: numbers(true, tokens), Labels: numbers(true, tokens), Rows: numbers(true, tokens),
		Positions: numbers(p.Positions, rows, length), Documents: numbers(p.Documents, p.Size.DocumentShape()...)}
	for range p.Predictors {
		b.Ahead = append(b.Ahead, model.Ahead{IDs: numbers(true, tokens), Rows: numbers(true, tokens), Labels: numbers(true, tokens)})
	}
	if p.PlaceExperts != nil {
		b.Experts = p.PlaceExperts(a)
	}
	return b
}

// Losses returns the tensor that Run leaves the micro batches' losses in: [micro batches] Float64, each a sum over tokens.
func (e *Executor) Losses() kernels.Tensor { return e.losses }

// AuxiliaryLosses returns the tensor that Run leaves the other losses in: [micro batches, Plan.AuxiliaryLosses] Float64, to be
// added up by kind; none where there are none.
func (e *Executor) AuxiliaryLosses() kernels.Tensor { return e.auxiliary }

// A Step is what all micro batches of a step have in common.
type Step struct {
	// LossScale is one over the label tokens of the whole step.
	LossScale float64
	// Touched holds all ids of the step.
	Touched *model.Touched
	// Sample is the number, in the run, of this rank's first sample of the step.
	Sample int64
}

// Run enqueues the actions of one step. Its error is the loader's; those of the device come out of the stream.
func (e *Executor) Run(load Loader, step Step) error {
	if !e.auxiliary.IsZero() {
		e.context.Kernels.Zero(e.context.Stream, e.auxiliary)
	}
	for i, a := range e.actions {
		s, stage := &e.records[e.slots[i]], e.stages[a.Chunk]
		e.running = running{stage, a.MicroBatch, true}
		switch a.Kind {
		case Forward:
			if err := e.begin(s, stage, a, load, step); err != nil {
				return err
			}
			stage.Chunk.Forward(e.context, s.record, &s.batch)
		case Backward:
			stage.Chunk.Backward(e.context, s.record, &s.batch)
		case BackwardInput:
			stage.Chunk.BackwardInput(e.context, s.record, &s.batch)
		case BackwardWeight:
			stage.Chunk.BackwardWeight(e.context, s.record, &s.batch)
		}
		if a.Kind == Backward || a.Kind == BackwardWeight {
			e.merge(stage.Chunk.Rows(step.Touched.Len()))
		}
	}
	return nil
}

// Enter has nothing to do.
func (e *Executor) Enter(model.Pass, int) {}

// Leave makes the merges of the layer's gradients that are due, and hands on those that are complete.
func (e *Executor) Leave(pass model.Pass, layer int) {
	if !e.running.training || pass == model.BackwardInputPass {
		return
	}
	kind := model.LayersBucket
	if pass == model.ForwardPass {
		kind = model.OutputBucket
	}
	for _, b := range e.running.stage.Chunk.Gradients(layer) {
		if b.Kind == kind {
			e.merge(b.Span)
		}
	}
	if e.reduce != nil && e.running.microBatch == e.microBatches-1 {
		e.reduce(layer, kind)
	}
}

// begin loads a micro batch into its slot.
func (e *Executor) begin(s *slot, stage *Stage, a Action, load Loader, step Step) error {
	if err := e.load(s, a.MicroBatch, load); err != nil {
		return err
	}
	if err := step.Touched.Rows(e.rows, e.cut(e.host.IDs)); err != nil {
		return fmt.Errorf("micro batch %d: %w", a.MicroBatch, err)
	}
	lane, b := stage.Lanes[a.MicroBatch], &s.batch
	e.write(b.Rows, e.rows)
	b.Touched = step.Touched.Len()
	b.Sample = step.Sample + int64(a.MicroBatch*e.context.Size.Batch)
	b.Loss, b.LossScale = e.losses.Narrow(0, a.MicroBatch, a.MicroBatch+1), step.LossScale
	if n := e.auxiliary.Last(); !e.auxiliary.IsZero() {
		b.SetAuxiliaryLosses(e.auxiliary.Narrow(0, a.MicroBatch, a.MicroBatch+1).Reshape(n))
	}
	if err := e.lookAhead(b, step.Touched); err != nil {
		return fmt.Errorf("micro batch %d: %w", a.MicroBatch, err)
	}
	b.Gradients, b.Accumulate = stage.Buffers[lane.Buffer], lane.Accumulate
	return nil
}

// load writes a micro batch to the operands of a slot.
func (e *Executor) load(s *slot, microBatch int, load Loader) error {
	if err := load(microBatch, e.host); err != nil {
		return fmt.Errorf("loading micro batch %d: %w", microBatch, err)
	}
	e.write(s.batch.IDs, e.cut(e.host.IDs))
	e.write(s.batch.Labels, e.cut(e.host.Labels))
	if !s.batch.Positions.IsZero() {
		e.write(s.batch.Positions, e.cut(e.host.Positions))
	}
	if !s.batch.Documents.IsZero() {
		e.context.Size.CutDocuments(e.documents, e.host.Documents)
		e.write(s.batch.Documents, e.documents)
	}
	return nil
}

// cut returns this rank's tokens of whole samples, until it is called again.
func (e *Executor) cut(whole []int32) []int32 {
	e.context.Size.Cut(e.local, whole)
	return e.local
}

// write enqueues a copy of host memory to an operand.
func (e *Executor) write(to kernels.Tensor, from []int32) {
	e.device.Write(e.context.Stream, to.Region(), device.BytesOf(from))
}

// merge makes the merges of gradient lanes that are due once the running micro batch's gradients in span are complete.
func (e *Executor) merge(span model.Span) {
	if span.From == span.To {
		return
	}
	stage := e.running.stage
	for _, m := range stage.Lanes[e.running.microBatch].Merges {
		into, from := stage.Buffers[m.Into].Narrow(0, span.From, span.To), stage.Buffers[m.From].Narrow(0, span.From, span.To)
		e.context.Kernels.Add(e.context.Stream, into, into, from)
	}
}

// Evaluate enqueues a forward pass of one micro batch and leaves its loss, a sum over tokens, in loss [1] Float64. The rank
// must hold the whole model.
func (e *Executor) Evaluate(load Loader, microBatch int, loss kernels.Tensor) error {
	s, stage := &e.records[e.slots[0]], e.stages[e.actions[0].Chunk]
	if err := e.load(s, microBatch, load); err != nil {
		return err
	}
	s.batch.Loss, s.batch.Gradients = loss, kernels.Tensor{}
	e.running = running{stage: stage, microBatch: microBatch}
	stage.Chunk.Forward(e.context, s.record, &s.batch)
	return nil
}
