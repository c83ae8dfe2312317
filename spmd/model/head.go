package model

import "lockstep/kernels"

// head is the last layer: the final norm, the projection to the vocabulary, and the cross-entropy loss. It works on a chunk
// of tokens at a time, so that the logits of a whole micro batch are never in memory, and computes its gradients in the
// forward pass, where a chunk's logits are at hand; the backward pass only hands them on.
type head struct {
	norm   norm   // [H]
	output linear // [V,H], the embedding's table where the model ties them; V is this rank's part of the vocabulary
	hidden int

	vocabulary kernels.Vocabulary // where that part begins
	vocab      int                // V of the rank that has most
	ranks      int                // that share the vocabulary

	predictors       []*predictor
	predictionWeight float64 // of each one's loss
}

// headRecord is what the head keeps of a micro batch. S is the number of tokens that this rank holds.
type headRecord struct {
	x, normed, rstd kernels.Tensor // [S,H], [S,H], [S]
	dNormed         kernels.Tensor // [S,H]
	losses          kernels.Tensor // [B*T]
	logits          kernels.Tensor // [chunk,V], turned into their gradient in place
	predictors      []*predictorRecord

	// Where ranks share the vocabulary: the normed inputs of all tokens, where this rank holds a part of them, its part of the sum
	// that their gradient is, and what each rank contributes to the losses of a chunk.
	whole, sum kernels.Tensor // [B*T,H]
	stats      kernels.Tensor // [ranks*chunk*CrossEntropyStats]
}

// logitsElements bounds a chunk's logits: 32 MiB of float32. Each chunk reads the whole table twice, and reads and writes all of
// its gradient: with half as much a llama-15m step takes 5 % longer. The chunk's size decides an order of summation, so it is a
// function of the vocabulary alone.
const logitsElements = 8 << 20

func newHead(b *builder, table *Parameter) *head {
	c := b.config
	first, end := b.cut(c.VocabSize)
	h := &head{hidden: c.HiddenSize, ranks: b.tensor(), norm: b.norm("model.norm", c.HiddenSize, c.RMSNormEps, b.perToken())}
	h.vocab = (c.VocabSize + h.ranks - 1) / h.ranks
	if !c.TieWordEmbeddings {
		table = b.weight("lm_head", c.VocabSize, c.HiddenSize).cut(0, first, end)
	}
	h.output.weight = newUse(Replicas, table)
	h.vocabulary = h.output.weight.vocabulary()
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
	t, held := size.Tokens(), size.Held()
	r := &headRecord{}
	r.normed, r.rstd = m.activation(m.Saved, held, h.hidden), m.statistic(m.Saved, held)
	r.dNormed = m.activation(m.Saved, held, h.hidden)
	mark := m.mark()
	r.losses = m.statistic(m.Scratch, t)
	r.logits = m.statistic(m.Scratch, h.chunk(t), h.output.weight.shape[0])
	if h.ranks > 1 {
		r.whole, r.sum = m.gathered(m.DType, size, h.hidden), m.exchanged(size, h.hidden)
		r.stats = m.statistic(m.Exchanged, h.ranks*h.chunk(t)*kernels.CrossEntropyStats)
	}
	m.release(mark)
	for _, p := range h.predictors {
		r.predictors = append(r.predictors, p.newRecord(k, size, m))
	}
	m.release(mark)
	return r
}

// Forward computes the micro batch's losses from in [S,H], and the gradients of the normed inputs and of the projection.
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

// lossOf computes the loss of a normed input, and its gradient dNormed, both [S,H]. It adds to the projection's gradient from the
// second chunk on.
func (h *head) lossOf(c *Context, r *headRecord, part *MicroBatch, normed, dNormed kernels.Tensor) {
	tokens, chunk := c.Size.Tokens(), h.chunk(c.Size.Tokens())
	x, dx := c.whole(r.whole, normed), c.addend(dNormed, r.sum)
	for from := 0; from < tokens; from += chunk {
		to := min(from+chunk, tokens)
		h.lossOfChunk(c, r, part, x.Narrow(0, from, to), dx.Narrow(0, from, to), from, to)
		part.Accumulate = true
	}
	if !part.Gradients.IsZero() {
		c.total(dNormed, r.sum)
	}
	c.Kernels.Sum(c.Stream, part.Loss, r.losses)
}

// lossOfChunk works on the tokens [from, to), whose normed inputs it is given.
func (h *head) lossOfChunk(c *Context, r *headRecord, mb *MicroBatch, normed, dNormed kernels.Tensor, from, to int) {
	logits, losses, labels := r.logits.Narrow(0, 0, to-from), r.losses.Narrow(0, from, to), mb.Labels.Narrow(0, from, to)
	h.output.forward(c, nil, logits, normed)
	if mb.Gradients.IsZero() {
		h.crossEntropy(c, r, losses, kernels.Tensor{}, logits, labels, 0)
		return
	}
	h.crossEntropy(c, r, losses, logits, logits, labels, mb.LossScale)
	h.output.backwardInput(c, nil, dNormed, logits)
	h.output.backwardWeight(c, mb, nil, logits, normed)
}

// crossEntropy computes losses and gradients of a chunk as kernels.Operators.CrossEntropy does, of logits that ranks share.
func (h *head) crossEntropy(c *Context, r *headRecord, losses, dlogits, logits, labels kernels.Tensor, scale float64) {
	if c.Tensor == nil {
		c.Kernels.CrossEntropy(c.Stream, losses, dlogits, logits, labels, scale)
		return
	}
	rows, me := logits.Shape[0], c.Tensor.Rank()
	stats := r.stats.Narrow(0, 0, h.ranks*rows*kernels.CrossEntropyStats).Reshape(h.ranks, rows, kernels.CrossEntropyStats)
	c.Kernels.CrossEntropyPart(c.Stream, stats.Narrow(0, me, me+1).Reshape(rows, kernels.CrossEntropyStats), logits, labels, h.vocabulary)
	c.await(c.Tensor.AllGather(stats.Region(), nil, c.Stream.Record()))
	c.Kernels.CrossEntropyMerge(c.Stream, losses, dlogits, logits, labels, stats, h.vocabulary, scale)
}

// Recompute does nothing: the gradients are there already.
func (h *head) Recompute(*Context, Record, *MicroBatch) {}

// BackwardInput computes din [S,H].
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
