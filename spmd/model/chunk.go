package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Chunk is a run of consecutive layers that one pipeline stage holds.
type Chunk struct {
	layers      []Layer
	from        int        // the number of the first in the model
	lowest      int        // the first layer that has something to do in the backward pass: all below are frozen, here and in chunks before
	first, last bool       // whether it begins with the embedding, ends with the head
	buckets     [][]Bucket // of each layer alone
	tables      []*Use     // its uses of the embedding's table, which follow one another
	balance     balancePlace
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
	c.balance = m.balancePlace(c)
	return c
}

// IsFirst reports whether the chunk begins with the embedding, and so reads the ids of tokens.
func (c *Chunk) IsFirst() bool { return c.first }

// IsLast reports whether it ends with the head, and so reads labels and gives a loss.
func (c *Chunk) IsLast() bool { return c.last }

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

// A Boundary is what passes from one chunk to the next in a micro batch, or back; a chunk has none before the embedding and
// after the head.
type Boundary struct {
	// Tokens are activations on the way forward, their gradients on the way back: [B*T,H] of the tokens that this rank holds.
	Tokens kernels.Tensor

	sums     kernels.Tensor // on the way forward, of an ExpertBatch
	gradient kernels.Tensor // on the way back
}

// PlaceBoundary places a Boundary in a, all in one region: it goes from rank to rank as one message.
func (m *Model) PlaceBoundary(size Size, dtype device.DType, loss BalanceLoss, a *kernels.Arena) Boundary {
	b := Boundary{Tokens: a.Tensor(dtype, size.Held(), m.Config.HiddenSize)}
	if m.Config.Experts != nil && loss == BalanceMicroBatch {
		b.sums = a.Tensor(device.Float64, 2, m.Config.Experts.Count)
		b.gradient = kernels.NewTensor(b.sums.Storage, b.sums.Offset, device.Float32, 1, m.Config.Experts.Count)
	}
	return b
}

// Region returns where the Boundary is in memory.
func (b Boundary) Region() device.Region {
	r := b.Tokens.Region()
	if !b.sums.IsZero() {
		r.Bytes = b.sums.Offset + b.sums.Bytes() - r.Offset
	}
	return r
}

// A ChunkRecord is what a chunk keeps of one micro batch.
type ChunkRecord struct {
	records     []Record
	recompute   []bool           // by layer: whether its record is to be filled again
	activations []kernels.Tensor // activations[i] goes into layer i, [B*T,H] of the tokens that this rank holds; the first and the last are Boundaries'
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
	n := len(c.layers)
	r := &ChunkRecord{activations: make([]kernels.Tensor, n+1), gradients: make([]kernels.Tensor, n+1)}
	for i := 1; i < n; i++ {
		r.activations[i] = m.residual(m.Saved, size.Held(), hidden)
	}
	mark := m.mark()
	var pair [2]kernels.Tensor
	if !m.Split {
		pair = [2]kernels.Tensor{m.residual(m.Scratch, size.Held(), hidden), m.residual(m.Scratch, size.Held(), hidden)}
	}
	for i := 1; i < n; i++ {
		if r.gradients[i] = pair[i%2]; m.Split {
			r.gradients[i] = m.residual(m.Delayed, size.Held(), hidden)
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

// A Passage is a micro batch on its way through a chunk.
type Passage struct {
	Chunk      *Chunk
	Record     *ChunkRecord
	MicroBatch *MicroBatch
	// In is what the chunk before has left, and keeps its contents until the last of the passes; Out is for the next one.
	In, Out Boundary
	// OutGradient is what the next chunk has left for the backward pass, and keeps its contents until the gradients of the
	// weights are there; InGradient is for the chunk before.
	OutGradient, InGradient Boundary
}

// enter and leave tell the progress of a pass.
func (p *Passage) enter(x *Context, pass Pass, i int) {
	if x.Progress != nil {
		x.Progress.Enter(pass, p.Chunk.from+i)
	}
}

func (p *Passage) leave(x *Context, pass Pass, i int) {
	if x.Progress != nil {
		x.Progress.Leave(pass, p.Chunk.from+i)
	}
}

// Forward runs all layers.
func (p *Passage) Forward(x *Context) {
	p.beginForward(x)
	for i := range p.Chunk.layers {
		p.forwardLayer(x, i)
	}
}

func (p *Passage) beginForward(x *Context) {
	r := p.Record
	r.activations[0], r.activations[len(r.activations)-1] = p.In.Tokens, p.Out.Tokens
	p.carryCounts(x)
}

func (p *Passage) forwardLayer(x *Context, i int) {
	r := p.Record
	p.enter(x, ForwardPass, i)
	p.Chunk.layers[i].Forward(x, r.records[i], p.MicroBatch, r.activations[i], r.activations[i+1])
	p.leave(x, ForwardPass, i)
}

// recompute fills the record of a layer again where it has not been kept.
func (p *Passage) recompute(x *Context, i int) {
	if p.Record.recompute[i] {
		p.Chunk.layers[i].Recompute(x, p.Record.records[i], p.MicroBatch)
	}
}

func (p *Passage) beginBackward(x *Context) {
	r := p.Record
	r.gradients[0], r.gradients[len(r.gradients)-1] = p.InGradient.Tokens, p.OutGradient.Tokens
	p.carryBalance(x)
}

// Backward computes the gradients of the input and of the weights, layer by layer.
func (p *Passage) Backward(x *Context) {
	p.beginBackward(x)
	for i := len(p.Chunk.layers) - 1; i >= p.Chunk.lowest; i-- {
		p.backwardLayer(x, i)
	}
}

func (p *Passage) backwardLayer(x *Context, i int) {
	p.enter(x, BackwardPass, i)
	p.recompute(x, i)
	p.inputLayer(x, i)
	p.weightLayer(x, i)
	p.leave(x, BackwardPass, i)
}

func (p *Passage) inputLayer(x *Context, i int) {
	r := p.Record
	p.Chunk.layers[i].BackwardInput(x, r.records[i], p.MicroBatch, r.gradients[i+1], r.gradients[i])
}

func (p *Passage) weightLayer(x *Context, i int) {
	r := p.Record
	p.Chunk.layers[i].BackwardWeight(x, r.records[i], p.MicroBatch, r.gradients[i+1])
}

// BackwardInput computes the gradient of the input and leaves what BackwardWeight needs in the record.
func (p *Passage) BackwardInput(x *Context) {
	p.beginBackward(x)
	for i := len(p.Chunk.layers) - 1; i >= p.Chunk.lowest; i-- {
		p.enter(x, BackwardInputPass, i)
		p.recompute(x, i)
		p.inputLayer(x, i)
		p.leave(x, BackwardInputPass, i)
	}
}

// BackwardWeight computes the gradients of the weights. What BackwardInput had computed again is gone by then: keeping it
// until now would cost the memory that computing it again is to save.
func (p *Passage) BackwardWeight(x *Context) {
	for i := len(p.Chunk.layers) - 1; i >= p.Chunk.lowest; i-- {
		p.enter(x, BackwardWeightPass, i)
		p.recompute(x, i)
		p.weightLayer(x, i)
		p.leave(x, BackwardWeightPass, i)
	}
}
