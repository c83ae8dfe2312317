package train

import (
	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// Sharers are ranks that hold the same weights of a region, as this one knows them.
type sharers struct {
	// The groups on which they exchange gradients and weights: two, so that neither waits for the other.
	gradients, weights collective.Group
	reduced            device.Event // the last reduction of gradients
}

// openSharers makes the groups of a region's ranks.
func (t *Trainer) openSharers(r model.Reducers) (err error) {
	s, ranks := &t.sharers[r], t.reducers(r)
	name := [...]string{model.Replicas: "data", model.TensorReplicas: "tensor and data", model.HeadReplicas: "heads and data",
		model.ExpertReplicas: "expert replicas"}[r]
	if s.gradients, err = t.World.NewGroup(name, ranks); err != nil || t.stage == 0 {
		return err
	}
	s.weights, err = t.World.NewGroup("weights of "+name, ranks)
	return err
}

// An exchange adds up gradients over the ranks that hold the same weights, and brings the weights that other ranks have updated:
// bucket by bucket, beside the passes where they overlap.
type exchange struct {
	*Trainer
	sharers  [model.NumReducers]sharers
	gathers  []model.Gather
	needs    [][]model.Need
	gathered []device.Event                       // by gather: that its weights are there
	folded   [model.NumReducers][model.Turns]fold // by turn: gradients on their way to the shard
	turns    [2]turn
	rows     []int // bytes of touched rows that each rank owns
}

// A turn is the layer whose weights are in a place, or on their way there, and whether they are those of the last step.
type turn struct {
	layer   int
	current bool
}

// A fold is a bucket that has been reduced, or is being, and then goes to the shard.
type fold struct {
	bucket  int
	reduced device.Event
	first   bool // it overwrites the shard
	pending bool
}

func newExchange(t *Trainer) *exchange {
	e := &exchange{Trainer: t, sharers: t.sharers, gathers: t.shards.Gathers(), needs: t.shards.Needs()}
	if !t.overlap {
		for r := range e.sharers {
			s := &e.sharers[r]
			if s.gradients = s.gradients.Blocking(); s.weights != nil {
				s.weights = s.weights.Blocking()
			}
		}
	}
	e.gathered = make([]device.Event, len(e.gathers))
	e.rows = make([]int, t.data.Size())
	return e
}

// Use has the weights of a layer there, and starts bringing those of the next.
func (e *exchange) Use(s device.Stream, layer, next int) {
	switch e.stage {
	case 0:
		return
	case 3:
		e.fetch(layer)
	}
	e.await(s, layer)
	if e.stage == 3 && next >= 0 && next%2 != layer%2 {
		e.fetch(next)
	}
}

// await waits for the weights of a layer that are on their way.
func (e *exchange) await(s device.Stream, layer int) {
	for _, n := range e.needs[layer] {
		s.Wait(e.gathered[n.Gather])
	}
}

// fetch starts bringing the weights of a layer to its place, in which the work on another may have been until now.
func (e *exchange) fetch(layer int) {
	at := &e.turns[layer%2]
	if *at == (turn{layer, true}) {
		return
	}
	e.await(e.Stream, at.layer)
	*at = turn{layer, true}
	place, k, s := e.placed.turns[layer%2], e.Device, e.Stream
	for _, n := range e.needs[layer] {
		g, from := &e.gathers[n.Gather], e.placed.weights
		if g.Frozen {
			from = e.placed.frozen
		}
		if size := g.Part.To - g.Part.From; size > 0 {
			mine := kernels.NewTensor(from.Storage, from.Offset+g.From, device.Uint8, size)
			k.Copy(s, place.Narrow(0, n.At+g.Part.From, n.At+g.Part.To), mine)
		}
		e.gather(n.Gather, place.Narrow(0, n.At, n.At+g.Bytes))
	}
}

// gather starts bringing the other ranks' parts of weights, which are to be at x.
func (e *exchange) gather(number int, x kernels.Tensor) {
	g := &e.gathers[number]
	e.gathered[number] = e.sharers[g.Reducers].weights.AllGather(x.Region(), g.Counts, e.Stream.Record())
}

// forget says that the weights have changed.
func (e *exchange) forget() { e.turns[0].current, e.turns[1].current = false, false }

// share brings the weights that other ranks have updated.
func (e *exchange) share() {
	switch e.stage {
	case 0:
	case 3:
		e.forget()
	default:
		for i, b := range e.buckets {
			e.gather(i, e.placed.weights.Narrow(0, b.From, b.To))
		}
	}
}

// settle waits for what share has started.
func (e *exchange) settle() {
	for _, event := range e.gathered {
		e.Stream.Wait(event)
	}
}

// Begin frees the places of buckets whose gradients are about to be written, once they have shared them with others.
func (e *exchange) Begin(_ device.Stream, layer int, kind model.BucketKind) {
	if !e.once {
		return
	}
	for i := range e.buckets {
		if b := &e.buckets[i]; b.Kind == kind && b.Layers.To == layer+1 {
			e.keep(&e.folded[b.Reducers][b.Turn])
		}
	}
}

// keep adds a bucket that has been reduced to the shard.
func (e *exchange) keep(f *fold) {
	if !f.pending {
		return
	}
	f.pending = false
	e.Stream.Wait(f.reduced)
	b, part, place := e.buckets[f.bucket], e.shards.Part(f.bucket), e.shards.Place(f.bucket)
	if part.From == part.To {
		return
	}
	from := b.Gradients.From + part.From - b.From
	sum := e.placed.buffers[0].Narrow(0, from, from+part.To-part.From)
	to := e.placed.shard.Narrow(0, place.From, place.To)
	if f.first {
		e.Device.Copy(e.Stream, to, sum)
	} else {
		e.Device.Add(e.Stream, to, to, sum)
	}
}

// Complete starts the reduction of the buckets that are complete with a layer.
func (e *exchange) Complete(s device.Stream, layer int, kind model.BucketKind, microBatch int) {
	if !e.once && (!e.overlap || microBatch < e.MyMicroBatches-1) {
		return
	}
	for i := range e.buckets {
		b := &e.buckets[i]
		if b.Kind != kind || b.Layers.From != layer {
			continue
		}
		e.reduceBucket(s, i)
		if e.once {
			e.folded[b.Reducers][b.Turn] = fold{i, e.sharers[b.Reducers].reduced, microBatch == 0, true}
		}
	}
}

func (e *exchange) reduceBucket(s device.Stream, i int) {
	b := &e.buckets[i]
	e.reduce(s, b.Reducers, e.placed.buffers[0].Narrow(0, b.Gradients.From, b.Gradients.To), e.gathers[i].Counts)
}

// reduce starts to add up gradients: every rank gets its part of the sum, in stage 0, and where there are no parts, all of it.
func (e *exchange) reduce(s device.Stream, r model.Reducers, x kernels.Tensor, counts []int) {
	g := &e.sharers[r]
	if e.stage == 0 || counts == nil {
		g.reduced = g.gradients.AllReduce(x.Region(), e.sum, s.Record())
	} else {
		g.reduced = g.gradients.ReduceScatter(x.Region(), counts, e.sum, s.Record())
	}
}

// finish starts to add up the gradients that have not been while the passes went on.
func (e *exchange) finish() {
	g := e.placed.gradients
	switch {
	case e.once:
	case e.stage == 0 && !e.overlap:
		for _, region := range e.Model.Regions() {
			e.reduce(e.Stream, region.Reducers, g.Of(region), nil)
		}
		return
	case !e.overlap:
		for i := range e.buckets {
			if e.buckets[i].Kind != model.TableBucket {
				e.reduceBucket(e.Stream, i)
			}
		}
	}
	e.reduceRows(g)
	for r := range e.folded {
		for turn := range e.folded[r] {
			e.keep(&e.folded[r][turn])
		}
	}
}

// wait has the rest of the step wait for all sums of gradients.
func (e *exchange) wait() {
	for r := range e.sharers {
		e.Stream.Wait(e.sharers[r].reduced)
	}
}

// reduceRows adds up the touched rows of the embedding's table, those of each use for themselves.
func (e *exchange) reduceRows(g *model.Gradients) {
	rows := g.Rows()
	if rows.Len() == 0 {
		return
	}
	uses := 0
	if e.stage > 0 {
		uses = g.CountRows(e.rows)
	}
	if uses == 0 { // nobody owns a part, or the rank with the table is another one, and gets them all from each
		e.reduce(e.Stream, model.Replicas, rows, nil)
		return
	}
	n := rows.Len() / uses
	for at := 0; at < rows.Len(); at += n {
		e.reduce(e.Stream, model.Replicas, rows.Narrow(0, at, at+n), e.rows)
	}
}
