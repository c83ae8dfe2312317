package pipeline

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// A Step is what all micro batches of a step have in common.
type Step struct {
	// LossScale is one over the label tokens of the whole step.
	LossScale float64
	// Touched holds all ids of the step. An evaluation needs them only where the embedding's table is borrowed, else nil.
	Touched *model.Touched
	// Sample is the number, in the run, of this rank's first sample of the step.
	Sample int64
}

// Run enqueues the actions of one training step. Its error is the loader's; those of the device and of other ranks come out of the
// stream.
func (e *Executor) Run(load Loader, step Step) error {
	if !e.auxiliary.IsZero() {
		e.context.Kernels.Zero(e.context.Stream, e.auxiliary)
	}
	return e.run(&e.step, load, step, true)
}

// Evaluate enqueues the forward passes of the micro batches and leaves their losses alone.
func (e *Executor) Evaluate(load Loader, step Step) error {
	return e.run(&e.evaluation, load, step, false)
}

// run enqueues a program.
func (e *Executor) run(t *table, load Loader, step Step, training bool) error {
	s := e.context.Stream
	e.training = training
	s.Wait(e.exchanged) // buffers may still be on their way to other ranks
	defer e.join()
	for i := 0; i < len(t.Instructions); i++ {
		x := &t.Instructions[i]
		if x.Exchange != none {
			t.events[x.Exchange] = e.group.Exchange(t.transfers[x.Exchange], s.Record())
			e.exchanged = t.events[x.Exchange]
			continue
		}
		e.together[0] = x
		actions := e.together[:1]
		if x.Overlapped {
			i++
			e.together[1] = &t.Instructions[i]
			actions = e.together[:2]
		}
		e.join()
		for _, x := range actions {
			if x.Await != none {
				s.Wait(t.events[x.Await])
			}
			if x.Kind == Forward {
				if err := e.begin(x, load, step); err != nil {
					return err
				}
			}
		}
		e.join()
		e.pair, e.then = len(actions) > 1, e.first(t, i+1)
		e.act(actions)
		for _, x := range actions {
			if x.Kind == Backward || x.Kind == BackwardWeight {
				e.merge(x, e.stages[x.Chunk].Chunk.Rows(step.Touched.Len()))
			}
		}
	}
	return nil
}

// line returns the context that an action runs in.
func (e *Executor) line(x *Instruction) *model.Context { return e.lines[x.Slot%len(e.lines)] }

// join makes each line wait for what has been enqueued on the others.
func (e *Executor) join() {
	for _, c := range e.lines[1:] {
		e.context.Stream.Wait(c.Stream.Record())
		c.Stream.Wait(e.context.Stream.Record())
	}
}

// act runs an action, or a forward and a backward pass together.
func (e *Executor) act(actions []*Instruction) {
	c := e.line(actions[0])
	first := e.passage(actions[0])
	switch actions[0].Kind {
	case Forward:
		if len(actions) > 1 {
			second := e.passage(actions[1])
			model.Together(&first, &second, c, e.line(actions[1]))
		} else {
			first.Forward(c)
		}
	case Backward:
		first.Backward(c)
	case BackwardInput:
		first.BackwardInput(c)
	case BackwardWeight:
		first.BackwardWeight(c)
	}
}

// first returns the layer that the next action from instruction i on begins with, none where the program ends before.
func (e *Executor) first(t *table, i int) int {
	for ; i < len(t.Instructions); i++ {
		x := &t.Instructions[i]
		if x.Exchange != none {
			continue
		}
		layers, _ := e.stages[x.Chunk].Chunk.Layers()
		if x.Kind == Forward {
			return layers.From
		}
		return layers.To - 1
	}
	return none
}

// next returns the layer that follows one in a pass, none where that is the last, or where two passes run together.
func (e *Executor) next(pass model.Pass, layer int) int {
	if e.pair {
		return none
	}
	layers, lowest := e.stages[e.together[0].Chunk].Chunk.Layers()
	switch {
	case pass == model.ForwardPass && layer+1 < layers.To:
		return layer + 1
	case pass != model.ForwardPass && layer > lowest:
		return layer - 1
	}
	return e.then
}

// completes returns the kind of buckets whose gradients a pass completes, if it does.
func (e *Executor) completes(pass model.Pass) (kind model.BucketKind, ok bool) {
	kind = model.LayersBucket
	if pass == model.ForwardPass {
		kind = model.OutputBucket
	}
	return kind, e.training && pass != model.BackwardInputPass
}

// passing returns the running action that makes a pass.
func (e *Executor) passing(pass model.Pass) *Instruction {
	x := e.together[0]
	if pass != model.ForwardPass && x.Kind == Forward { // together with a backward pass
		x = e.together[1]
	}
	return x
}

// Enter has the exchange ready for a layer.
func (e *Executor) Enter(pass model.Pass, layer int) {
	if e.exchange == nil {
		return
	}
	s := e.line(e.passing(pass)).Stream
	e.exchange.Use(s, layer, e.next(pass, layer))
	if kind, ok := e.completes(pass); ok {
		e.exchange.Begin(s, layer, kind)
	}
}

// Leave makes the merges of the layer's gradients that are due, and hands them to the exchange.
func (e *Executor) Leave(pass model.Pass, layer int) {
	kind, ok := e.completes(pass)
	if !ok {
		return
	}
	x := e.passing(pass)
	for _, b := range e.stages[x.Chunk].Chunk.Gradients(layer) {
		if b.Kind == kind {
			e.merge(x, b.Gradients)
		}
	}
	if e.exchange != nil {
		e.exchange.Complete(e.line(x).Stream, layer, kind, x.MicroBatch)
	}
}

// passage returns what an action works on.
func (e *Executor) passage(x *Instruction) model.Passage {
	s := &e.records[x.Slot]
	boundary := func(buffer int) model.Boundary {
		if buffer == none {
			return model.Boundary{}
		}
		return e.boundaries[buffer]
	}
	return model.Passage{Chunk: e.stages[x.Chunk].Chunk, Record: s.records[x.Chunk], MicroBatch: &s.batch,
		In: boundary(x.In), Out: boundary(x.Out), OutGradient: boundary(x.OutGradient), InGradient: boundary(x.InGradient)}
}

// begin prepares the operands of a micro batch that begins its way through a chunk.
func (e *Executor) begin(x *Instruction, load Loader, step Step) error {
	stage, s := e.stages[x.Chunk], &e.records[x.Slot]
	b := &s.batch
	if err := e.load(s, x, load, step.Touched); err != nil {
		return fmt.Errorf("micro batch %d: %w", x.MicroBatch, err)
	}
	b.Loss, b.LossScale, b.Gradients = e.losses.Narrow(0, x.MicroBatch, x.MicroBatch+1), step.LossScale, kernels.Tensor{}
	if !e.training {
		return nil
	}
	b.Touched = step.Touched.Len()
	b.Sample = step.Sample + int64(x.MicroBatch*e.context.Size.Batch)
	if n := e.auxiliary.Last(); !e.auxiliary.IsZero() {
		b.SetAuxiliaryLosses(e.auxiliary.Narrow(0, x.MicroBatch, x.MicroBatch+1).Reshape(n))
	}
	lane := stage.Lanes[x.MicroBatch]
	b.Gradients, b.Accumulate, b.AccumulateRows = stage.Buffers[lane.Buffer], lane.Accumulate && !e.once, lane.Accumulate
	return nil
}

// load writes those parts of a micro batch to its slot that a chunk reads: the first one ids, the last one labels, and all of them
// the ends of documents, and where there is padding, which labels tell, those.
func (e *Executor) load(s *slot, x *Instruction, load Loader, touched *model.Touched) error {
	chunk, b := e.stages[x.Chunk].Chunk, &s.batch
	labels := chunk.IsLast() || e.context.Padded
	if !chunk.IsFirst() && !labels && b.Positions.IsZero() && b.Documents.IsZero() {
		return nil
	}
	if err := load(x.MicroBatch, e.host); err != nil {
		return fmt.Errorf("loading it: %w", err)
	}
	if !b.Positions.IsZero() {
		e.write(b.Positions, e.cut(e.host.Positions))
	}
	if !b.Documents.IsZero() {
		e.context.Size.CutDocuments(e.documents, e.host.Documents)
		e.write(b.Documents, e.documents)
	}
	if chunk.IsFirst() {
		e.write(b.IDs, e.cut(e.host.IDs))
		if touched != nil {
			if err := touched.Rows(e.rows, e.local); err != nil {
				return err
			}
			e.write(b.Rows, e.rows)
		}
	}
	if labels {
		e.write(b.Labels, e.cut(e.host.Labels))
	}
	if !chunk.IsLast() || touched == nil {
		return nil
	}
	return e.lookAhead(b, touched)
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

// merge makes the merges of gradient lanes that are due once an action's gradients in span are complete.
func (e *Executor) merge(x *Instruction, span model.Span) {
	if span.From == span.To {
		return
	}
	stage := e.stages[x.Chunk]
	for _, m := range stage.Lanes[x.MicroBatch].Merges {
		into, from := stage.Buffers[m.Into].Narrow(0, span.From, span.To), stage.Buffers[m.From].Narrow(0, span.From, span.To)
		e.context.Kernels.Add(e.line(x).Stream, into, into, from)
	}
}
