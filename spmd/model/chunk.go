package model

import (
	"slices"

	"lockstep/kernels"
)

// A Chunk is a run of consecutive layers that one pipeline stage holds.
type Chunk struct {
	layers      []Layer
	from        int        // the number of the first in the model
	lowest      int        // the first layer that has something to do in the backward pass: all below are frozen, here and in chunks before
	first, last bool       // whether it begins with the embedding, ends with the head
	buckets     [][]Bucket // of each layer alone
	tables      []*Use     // its uses of the embedding's table, which follow one another
}

// Chunk returns the layers [from, to).
func (m *Model) Chunk(from, to int) *Chunk {
	c := &Chunk{layers: m.Layers[from:to], from: from, first: from == 0, last: to == len(m.Layers)}
	for i, l := range c.layers {
		c.buckets = append(c.buckets, m.layerBuckets(from+i))
		for _, u := range l.Uses() {
			if slices.Contains(m.table.uses, u) {
				c.tables = append(c.tables, u)
			}
		}
	}
	c.lowest = max(0, m.firstTrained()-from)
	return c
}

// firstTrained returns the number of the first layer with a weight that is trained.
func (m *Model) firstTrained() int {
	return slices.IndexFunc(m.Layers, func(l Layer) bool {
		return slices.ContainsFunc(l.Uses(), func(u *Use) bool { return u.trained() })
	})
}

// A Span is a range: of elements in a flat gradient buffer, or of layers.
type Span struct{ From, To int }

// Gradients returns where the gradients of a layer lie, numbered within the model, that are complete at the same time: with the
// forward pass, which is the output projection's, or with the backward pass. Both come in the order of the micro batches, but
// not at the same time: a schedule may run forward passes ahead.
func (c *Chunk) Gradients(layer int) []Bucket { return c.buckets[layer-c.from] }

// Rows returns where the embedding's touched rows lie in a step with the given number of them. The backward pass completes them.
func (c *Chunk) Rows(touched int) Span {
	if len(c.tables) == 0 || c.tables[0].frozen() {
		return Span{}
	}
	first := c.tables[0]
	size := touched * first.shape[1]
	return Span{first.gradient + first.row*size, first.gradient + (first.row+len(c.tables))*size}
}

// Layers returns the chunk's layers, and the lowest of those that take part in the backward pass.
func (c *Chunk) Layers() (layers Span, lowest int) {
	return Span{c.from, c.from + len(c.layers)}, c.from + c.lowest
}

// A ChunkRecord is what a chunk keeps of one micro batch.
type ChunkRecord struct {
	records     []Record
	recompute   []bool           // by layer: whether its record is to be filled again
	activations []kernels.Tensor // activations[i] goes into layer i, [B*T,H] of the tokens that this rank holds
	gradients   []kernels.Tensor // gradients[i] is that of activations[i]
}

// Placement says where a chunk's records go.
type Placement struct {
	Memory
	// Layers has, for each layer of the model, what it computes again; nil stands for KeepAll everywhere.
	Layers []Recompute
	// Split is true where the schedule runs BackwardInput and BackwardWeight apart.
	Split bool
}

// NewRecord places what one micro batch needs.
func (c *Chunk) NewRecord(k kernels.Operators, size Size, hidden int, m *Placement) *ChunkRecord {
	r := &ChunkRecord{}
	for i := range len(c.layers) + 1 {
		var x kernels.Tensor // none before the embedding and after the head
		if !(i == 0 && c.first) && !(i == len(c.layers) && c.last) {
			x = m.activation(m.Saved, size.Held(), hidden)
		}
		r.activations = append(r.activations, x)
	}
	mark := m.mark()
	if m.Split {
		for range len(c.layers) + 1 {
			r.gradients = append(r.gradients, m.activation(m.Delayed, size.Held(), hidden))
		}
	} else {
		pair := [2]kernels.Tensor{m.activation(m.Scratch, size.Held(), hidden), m.activation(m.Scratch, size.Held(), hidden)}
		for i := range len(c.layers) + 1 {
			r.gradients = append(r.gradients, pair[i%2])
		}
	}
	for i, l := range c.layers {
		memory := m.Memory
		if m.Layers != nil {
			memory.Recompute = m.Layers[c.from+i]
		}
		r.records = append(r.records, l.NewRecord(k, size, &memory))
		r.recompute = append(r.recompute, memory.Recompute != KeepAll)
	}
	m.release(mark)
	return r
}

// A Pass is what a chunk does with its layers.
type Pass uint8

// Backward is BackwardInput and BackwardWeight layer by layer.
const (
	ForwardPass Pass = iota
	BackwardPass
	BackwardInputPass
	BackwardWeightPass
)

// Progress is told where a pass is, so that what layers exchange with other ranks can go on beside it: Enter comes before the
// work on a layer is enqueued, Leave after it. Layers are numbered within the model.
type Progress interface {
	Enter(pass Pass, layer int)
	Leave(pass Pass, layer int)
}

// enter and leave tell the progress of a pass.
func (c *Chunk) enter(x *Context, pass Pass, i int) {
	if x.Progress != nil {
		x.Progress.Enter(pass, c.from+i)
	}
}

func (c *Chunk) leave(x *Context, pass Pass, i int) {
	if x.Progress != nil {
		x.Progress.Leave(pass, c.from+i)
	}
}

// Forward runs all layers.
func (c *Chunk) Forward(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i, l := range c.layers {
		c.enter(x, ForwardPass, i)
		l.Forward(x, r.records[i], mb, r.activations[i], r.activations[i+1])
		c.leave(x, ForwardPass, i)
	}
}

// recompute fills the record of a layer again where it has not been kept.
func (c *Chunk) recompute(x *Context, r *ChunkRecord, mb *MicroBatch, layer int) {
	if r.recompute[layer] {
		c.layers[layer].Recompute(x, r.records[layer], mb)
	}
}

// Backward computes the gradients of the input and of the weights, layer by layer.
func (c *Chunk) Backward(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i := len(c.layers) - 1; i >= c.lowest; i-- {
		c.enter(x, BackwardPass, i)
		c.recompute(x, r, mb, i)
		c.layers[i].BackwardInput(x, r.records[i], mb, r.gradients[i+1], r.gradients[i])
		c.layers[i].BackwardWeight(x, r.records[i], mb, r.gradients[i+1])
		c.leave(x, BackwardPass, i)
	}
}

// BackwardInput computes the gradient of the input and leaves what BackwardWeight needs in the record.
func (c *Chunk) BackwardInput(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i := len(c.layers) - 1; i >= c.lowest; i-- {
		c.enter(x, BackwardInputPass, i)
		c.recompute(x, r, mb, i)
		c.layers[i].BackwardInput(x, r.records[i], mb, r.gradients[i+1], r.gradients[i])
		c.leave(x, BackwardInputPass, i)
	}
}

// BackwardWeight computes the gradients of the weights. What BackwardInput had computed again is gone by then: keeping it
// until now would cost the memory that computing it again is to save.
func (c *Chunk) BackwardWeight(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i := len(c.layers) - 1; i >= c.lowest; i-- {
		c.enter(x, BackwardWeightPass, i)
		c.recompute(x, r, mb, i)
		c.layers[i].BackwardWeight(x, r.records[i], mb, r.gradients[i+1])
		c.leave(x, BackwardWeightPass, i)
	}
}
