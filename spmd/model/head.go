package model

import "lockstep/kernels"

// head is the last layer: the final norm, the projection to the vocabulary, and the cross-entropy loss. It works on a chunk
// of tokens at a time, so that the logits of a whole micro batch are never in memory, and computes its gradients in the
// forward pass, where a chunk's logits are at hand; the backward pass only hands them on.
type head struct {
	norm   norm   // [H]
	output linear // [V,H], the embedding's table where the model ties them
	hidden int
	vocab  int

	predictors       []*predictor
	predictionWeight float64 // of each one's loss
}

// headRecord is what the head keeps of a micro batch.
type headRecord struct {
	x, normed, rstd kernels.Tensor // [B*T,H], [B*T,H], [B*T]
	dNormed         kernels.Tensor // [B*T,H]
	losses          kernels.Tensor // [B*T]
	logits          kernels.Tensor // [chunk,V], turned into their gradient in place
	predictors      []*predictorRecord
}

// logitsElements bounds a chunk's logits: 32 MiB of float32. Each chunk reads the whole table twice, and reads and writes all of
// its gradient: with half as much a llama-15m step takes 5 % longer. The chunk's size decides an order of summation, so it is a
// function of the vocabulary alone.
const logitsElements = 8 << 20

func newHead(b *builder, table *Parameter) *head {
	c := b.config
	first, end := b.cut(c.VocabSize)
	h := &head{hidden: c.HiddenSize, vocab: end - first, norm: b.norm("model.norm", c.HiddenSize, c.RMSNormEps, b.perToken())}
	if !c.TieWordEmbeddings {
		table = b.weight("lm_head", c.VocabSize, c.HiddenSize).cut(0, first, end)
	}
	h.output.weight = newUse(Replicas, table)
	for i := range c.predictors() {
		h.predictionWeight = c.PredictionLossWeight / float64(c.Predictors)
		h.predictors = append(h.predictors, newPredictor(b, i, b.parameters[0]))
	}
	return h
}

// Name returns the module's name.
func (h *head) Name() string { return "lm_head" }

// Uses returns the norm's scale, the modules that predict further tokens, and the projection.
func (h *head) Uses() []*Use {
	uses := []*Use{h.norm.weight}
	for _, p := range h.predictors {
		uses = append(uses, p.uses()...)
	}
	return append(uses, h.output.uses()...)
}

// chunk returns how many of the given tokens are projected at a time.
func (h *head) chunk(tokens int) int { return min(tokens, max(16, logitsElements/h.vocab)) }

// NewRecord places a headRecord.
func (h *head) NewRecord(k kernels.Operators, size Size, m *Memory) Record {
	t := size.Tokens()
	r := &headRecord{}
	r.normed, r.rstd = m.activation(m.Saved, t, h.hidden), m.statistic(m.Saved, t)
	r.dNormed = m.activation(m.Saved, t, h.hidden)
	mark := m.Scratch.Mark()
	r.losses = m.statistic(m.Scratch, t)
	r.logits = m.statistic(m.Scratch, h.chunk(t), h.vocab)
	m.Scratch.Release(mark)
	for _, p := range h.predictors {
		r.predictors = append(r.predictors, p.newRecord(k, size, m))
	}
	m.Scratch.Release(mark)
	return r
}

// Forward computes the micro batch's losses from in [B*T,H], and the gradients of the normed inputs and of the projection.
func (h *head) Forward(c *Context, record Record, mb *MicroBatch, in, _ kernels.Tensor) {
	r := record.(*headRecord)
	r.x = in
	h.norm.forward(c, r.normed, r.rstd, in)
	part := *mb
	h.lossOf(c, r, &part, r.normed, r.dNormed)
	if mb.Gradients.IsZero() {
		return
	}
	normed := r.normed
	for i, p := range h.predictors {
		ahead, module := &mb.Ahead[i], r.predictors[i]
		p.forward(c, module, mb, ahead, normed)
		normed = module.normed
		part.Labels, part.Loss, part.LossScale = ahead.Labels, ahead.Loss, mb.LossScale*h.predictionWeight
		h.lossOf(c, r, &part, normed, module.dNormed)
	}
}

// lossOf computes the loss of a normed input, and its gradient dNormed. It adds to the projection's gradient from the second
// chunk on.
func (h *head) lossOf(c *Context, r *headRecord, part *MicroBatch, normed, dNormed kernels.Tensor) {
	tokens, chunk := c.Size.Tokens(), h.chunk(c.Size.Tokens())
	for from := 0; from < tokens; from += chunk {
		to := min(from+chunk, tokens)
		h.lossOfChunk(c, r, part, normed.Narrow(0, from, to), dNormed.Narrow(0, from, to), from, to)
		part.Accumulate = true
	}
	c.Kernels.Sum(c.Stream, part.Loss, r.losses)
}

// lossOfChunk works on the tokens [from, to), whose normed inputs it is given.
func (h *head) lossOfChunk(c *Context, r *headRecord, mb *MicroBatch, normed, dNormed kernels.Tensor, from, to int) {
	logits, losses, labels := r.logits.Narrow(0, 0, to-from), r.losses.Narrow(0, from, to), mb.Labels.Narrow(0, from, to)
	h.output.forward(c, nil, logits, normed)
	if mb.Gradients.IsZero() {
		c.Kernels.CrossEntropy(c.Stream, losses, kernels.Tensor{}, logits, labels, 0)
		return
	}
	c.Kernels.CrossEntropy(c.Stream, losses, logits, logits, labels, mb.LossScale)
	h.output.backwardInput(c, nil, dNormed, logits)
	h.output.backwardWeight(c, mb, nil, logits, normed)
}

// Recompute does nothing: the gradients are there already.
func (h *head) Recompute(*Context, Record, *MicroBatch) {}

// BackwardInput computes din [B*T,H].
func (h *head) BackwardInput(c *Context, record Record, mb *MicroBatch, _, din kernels.Tensor) {
	r := record.(*headRecord)
	for i := len(h.predictors) - 1; i >= 0; i-- {
		normed, dNormed := r.before(i)
		h.predictors[i].backwardInput(c, r.predictors[i], mb, normed, dNormed)
	}
	h.norm.backwardInput(c, din, r.dNormed, r.x, r.rstd, kernels.Tensor{})
}

// before returns what module i predicts from, and its gradient.
func (r *headRecord) before(i int) (normed, dNormed kernels.Tensor) {
	if i == 0 {
		return r.normed, r.dNormed
	}
	return r.predictors[i-1].normed, r.predictors[i-1].dNormed
}

// BackwardWeight computes the gradient of the norm's scale and those of the modules; that of the projection is there already.
func (h *head) BackwardWeight(c *Context, record Record, mb *MicroBatch, _ kernels.Tensor) {
	r := record.(*headRecord)
	for i, p := range h.predictors {
		normed, _ := r.before(i)
		p.backwardWeight(c, r.predictors[i], mb, &mb.Ahead[i], normed)
	}
	h.norm.backwardWeight(c, mb, r.dNormed, r.x, r.rstd)
}
