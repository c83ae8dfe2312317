package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// head is the last layer: the final norm, the projection to the vocabulary, and the cross-entropy loss. It works on a chunk
// of tokens at a time, so that the logits of a whole micro batch are never in memory, and computes its gradients in the
// forward pass, where a chunk's logits are at hand; the backward pass only hands them on.
type head struct {
	norm   norm   // [H]
	output linear // [V,H], the embedding's table where the model ties them
	hidden int
	vocab  int
}

// headRecord is what the head keeps of a micro batch.
type headRecord struct {
	x, normed, rstd kernels.Tensor // [B*T,H], [B*T,H], [B*T]
	dNormed         kernels.Tensor // [B*T,H]
	losses          kernels.Tensor // [B*T]
	logits          kernels.Tensor // [chunk,V], turned into their gradient in place
}

// logitsElements bounds a chunk's logits: 16 MiB of float32. The chunk's size decides an order of summation, so it is a
// function of the vocabulary alone.
const logitsElements = 4 << 20

func newHead(b *builder, table *Parameter) *head {
	c := b.config
	h := &head{hidden: c.HiddenSize, vocab: c.VocabSize, norm: b.norm("model.norm", c.HiddenSize, c.RMSNormEps)}
	if !c.TieWordEmbeddings {
		table = b.weight("lm_head", c.VocabSize, c.HiddenSize)
	}
	h.output.weight = newUse(table)
	return h
}

// Name returns the module's name.
func (h *head) Name() string { return "lm_head" }

// Uses returns the norm's scale and the projection.
func (h *head) Uses() []*Use { return append([]*Use{h.norm.weight}, h.output.uses()...) }

// chunk returns how many of the given tokens are projected at a time.
func (h *head) chunk(tokens int) int { return min(tokens, max(16, logitsElements/h.vocab)) }

// NewRecord places a headRecord.
func (h *head) NewRecord(_ kernels.Operators, size Size, m *Memory) Record {
	t := size.Tokens()
	r := &headRecord{}
	r.normed, r.rstd = m.Saved.Tensor(device.Float32, t, h.hidden), m.Saved.Tensor(device.Float32, t)
	r.dNormed = m.Saved.Tensor(device.Float32, t, h.hidden)
	mark := m.Scratch.Mark()
	r.losses = m.Scratch.Tensor(device.Float32, t)
	r.logits = m.Scratch.Tensor(device.Float32, h.chunk(t), h.vocab)
	m.Scratch.Release(mark)
	return r
}

// Forward computes the micro batch's loss from in [B*T,H], and the gradients of the normed input and of the projection.
func (h *head) Forward(c *Context, record Record, mb *MicroBatch, in, _ kernels.Tensor) {
	r := record.(*headRecord)
	r.x = in
	h.norm.forward(c, r.normed, r.rstd, in)
	tokens, chunk := c.Size.Tokens(), h.chunk(c.Size.Tokens())
	part := *mb
	for from := 0; from < tokens; from += chunk {
		to := min(from+chunk, tokens)
		h.forwardChunk(c, r, &part, from, to)
		part.Accumulate = true // the first chunk has started the gradient
	}
	c.Kernels.Sum(c.Stream, mb.Loss, r.losses)
}

// forwardChunk works on the tokens [from, to).
func (h *head) forwardChunk(c *Context, r *headRecord, mb *MicroBatch, from, to int) {
	logits, normed := r.logits.Narrow(0, 0, to-from), r.normed.Narrow(0, from, to)
	losses, labels := r.losses.Narrow(0, from, to), mb.Labels.Narrow(0, from, to)
	h.output.forward(c, nil, logits, normed)
	if mb.Gradients.IsZero() {
		c.Kernels.CrossEntropy(c.Stream, losses, kernels.Tensor{}, logits, labels, 0)
		return
	}
	c.Kernels.CrossEntropy(c.Stream, losses, logits, logits, labels, mb.LossScale)
	h.output.backwardInput(c, nil, r.dNormed.Narrow(0, from, to), logits)
	h.output.backwardWeight(c, mb, nil, logits, normed)
}

// Recompute does nothing: the gradients are there already.
func (h *head) Recompute(*Context, Record, *MicroBatch) {}

// BackwardInput computes din [B*T,H].
func (h *head) BackwardInput(c *Context, record Record, _ *MicroBatch, _, din kernels.Tensor) {
	r := record.(*headRecord)
	h.norm.backwardInput(c, din, r.dNormed, r.x, r.rstd, kernels.Tensor{})
}

// BackwardWeight computes the gradient of the norm's scale; that of the projection is there already.
func (h *head) BackwardWeight(c *Context, record Record, mb *MicroBatch, _ kernels.Tensor) {
	r := record.(*headRecord)
	h.norm.backwardWeight(c, mb, r.dNormed, r.x, r.rstd)
}
