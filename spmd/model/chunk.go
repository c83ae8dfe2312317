package model

import (
	"slices"

	"lockstep/kernels"
)

// A Chunk is a run of consecutive layers that one pipeline stage holds.
type Chunk struct {
	layers      []Layer
	from        int  // the number of the first in the model
	lowest      int  // the first layer that has something to do in the backward pass: all below are frozen, here and in chunks before
	first, last bool // whether it begins with the embedding, ends with the head
	spans       GradientSpans
	tables      []*Use // its uses of the embedding's table, which follow one another
}

// Chunk returns the layers [from, to).
func (m *Model) Chunk(from, to int) *Chunk {
	c := &Chunk{layers: m.Layers[from:to], from: from, first: from == 0, last: to == len(m.Layers)}
	for _, l := range c.layers {
		for _, u := range l.Uses() {
			h, isHead := l.(*head)
			switch {
			case slices.Contains(m.table.uses, u):
				c.tables = append(c.tables, u)
			case !u.trained():
			case isHead && u == h.output.weight:
				c.spans.Forward = u.span()
			case c.spans.Backward.To == 0:
				c.spans.Backward = u.span()
			default:
				c.spans.Backward.To = u.span().To
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

// GradientSpans say where a chunk's gradients lie: those that BackwardWeight completes, of them the embedding's touched rows,
// and those that Forward does, which are the output head's. All come in the order of the micro batches, but not at the
// same time: a schedule may run forward passes ahead. A span without elements is of layers that the chunk does not have.
type GradientSpans struct{ Backward, Rows, Forward Span }

// Gradients returns where the chunk's gradients lie in a step with the given number of touched rows.
func (c *Chunk) Gradients(touched int) GradientSpans {
	spans := c.spans
	if len(c.tables) > 0 && !c.tables[0].frozen() {
		first := c.tables[0]
		size := touched * first.shape[1]
		spans.Rows = Span{first.gradient + first.row*size, first.gradient + (first.row+len(c.tables))*size}
	}
	return spans
}

// A ChunkRecord is what a chunk keeps of one micro batch.
type ChunkRecord struct {
	records     []Record
	recompute   []bool           // by layer: whether its record is to be filled again
	activations []kernels.Tensor // activations[i] goes into layer i, [B*T,H]
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
			x = m.activation(m.Saved, size.Tokens(), hidden)
		}
		r.activations = append(r.activations, x)
	}
	mark := m.Scratch.Mark()
	if m.Split {
		for range len(c.layers) + 1 {
			r.gradients = append(r.gradients, m.activation(m.Delayed, size.Tokens(), hidden))
		}
	} else {
		pair := [2]kernels.Tensor{m.activation(m.Scratch, size.Tokens(), hidden), m.activation(m.Scratch, size.Tokens(), hidden)}
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
	m.Scratch.Release(mark)
	return r
}

// Forward runs all layers.
func (c *Chunk) Forward(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i, l := range c.layers {
		l.Forward(x, r.records[i], mb, r.activations[i], r.activations[i+1])
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
		c.recompute(x, r, mb, i)
		c.layers[i].BackwardInput(x, r.records[i], mb, r.gradients[i+1], r.gradients[i])
		c.layers[i].BackwardWeight(x, r.records[i], mb, r.gradients[i+1])
	}
}

// BackwardInput computes the gradient of the input and leaves what BackwardWeight needs in the record.
func (c *Chunk) BackwardInput(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i := len(c.layers) - 1; i >= c.lowest; i-- {
		c.recompute(x, r, mb, i)
		c.layers[i].BackwardInput(x, r.records[i], mb, r.gradients[i+1], r.gradients[i])
	}
}

// BackwardWeight computes the gradients of the weights. What BackwardInput had computed again is gone by then: keeping it
// until now would cost the memory that computing it again is to save.
func (c *Chunk) BackwardWeight(x *Context, r *ChunkRecord, mb *MicroBatch) {
	for i := len(c.layers) - 1; i >= c.lowest; i-- {
		c.recompute(x, r, mb, i)
		c.layers[i].BackwardWeight(x, r.records[i], mb, r.gradients[i+1])
	}
}
