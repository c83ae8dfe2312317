package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Model is a stack of layers. It holds no values until it is bound to memory.
type Model struct {
	Config *Config
	Layers []Layer
	// Parameters lists the trained parameters in a fixed order: embedding, blocks, final norm, head, adapters. Without Tune
	// they are all there are.
	Parameters []*Parameter
	// Frozen lists the others, in the same order.
	Frozen []*Parameter

	uses   []*Use
	tables []*Use // the embedding's, and its further uses
	layout layout
}

// A Partition says which part of the layers' weights this rank holds: TensorRank's of Tensor parts of each matrix, and the
// experts of ExpertRank, one of Expert ranks. The zero Partition is all of them, like sizes of 1.
type Partition struct{ Tensor, TensorRank, Expert, ExpertRank int }

// New builds the stack of a configuration, as one rank holds it. It allocates no memory for values.
func New(c *Config, part Partition) *Model {
	m := &Model{Config: c}
	b := &builder{config: c, partition: part}
	table := b.weight("model.embed_tokens", c.VocabSize, c.HiddenSize)
	input := newEmbedding(table)
	m.tables, m.Layers = []*Use{input.weight}, append(m.Layers, input)
	for i := range c.NumHiddenLayers {
		m.Layers = append(m.Layers, newBlock(b, i))
	}
	output := newHead(b, table)
	m.Layers = append(m.Layers, output)
	for _, p := range output.predictors {
		m.tables = append(m.tables, p.table)
	}
	m.Parameters = b.parameters
	m.place()
	return m
}

// place gives all weights and gradients their places.
func (m *Model) place() {
	m.uses, m.layout = nil, layout{}
	for _, l := range m.Layers {
		m.uses = append(m.uses, l.Uses()...)
	}
	m.layout.place(m.uses, m.tables)
}

// Recompute returns Placement.Layers: r for the transformer layers that are selected, KeepAll for all others.
func (m *Model) Recompute(r Recompute, selected []bool) []Recompute {
	layers := make([]Recompute, len(m.Layers))
	block := 0
	for i, l := range m.Layers {
		switch l.(type) {
		case *embedding, *head:
		default:
			if selected[block] {
				layers[i] = r
			}
			block++
		}
	}
	return layers
}

// NumParameters returns the number of values; a tied table counts once.
func (m *Model) NumParameters() int { return m.NumTrained() + count(m.Frozen) }

// NumTrained returns the number of trained values.
func (m *Model) NumTrained() int { return count(m.Parameters) }

func count(list []*Parameter) int {
	n := 0
	for _, p := range list {
		n += p.Len()
	}
	return n
}

// IsHiddenMatrix reports whether p is a trained matrix that is neither the embedding's table nor the head's.
func (m *Model) IsHiddenMatrix(p *Parameter) bool {
	output := m.Layers[len(m.Layers)-1].(*head).output.weight
	return len(p.Shape) == 2 && !p.Untrained && p != m.tables[0].Parameters[0] && p != output.Parameters[0]
}

// WeightElements returns the size of the flat buffer of trained weights, in elements; optimizer states have the same layout.
func (m *Model) WeightElements() int { return m.layout.weights }

// FrozenBytes returns the size of the buffer of frozen weights.
func (m *Model) FrozenBytes() int { return m.layout.frozen }

// GradientElements returns the size of a flat gradient buffer, in elements, with the given number of touched rows for each use of
// the embedding's table at its end, which has none where it is frozen. What comes before has the layout of the weights.
func (m *Model) GradientElements(rows int) int {
	if m.tables[0].frozen() {
		rows = 0
	}
	return m.layout.dense + len(m.tables)*rows*m.Config.HiddenSize
}

// Bind makes the parameters views of flat [WeightElements] Float32 and frozen [FrozenBytes] Uint8; the one or the other may
// be none where it would be empty.
func (m *Model) Bind(flat, frozen kernels.Tensor) error { return bind(flat, frozen, m.uses) }

// Slice returns the part of a flat buffer of the weights' layout, such as an optimizer's state, that belongs to p.
func (m *Model) Slice(flat kernels.Tensor, p *Parameter) kernels.Tensor {
	return kernels.NewTensor(flat.Storage, flat.Offset+p.offset*device.Float32.Size(), device.Float32, p.Shape...)
}

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
			case slices.Contains(m.tables, u):
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

// A Span is a range of elements in a flat gradient buffer.
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
