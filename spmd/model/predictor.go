package model

import (
	"fmt"

	"lockstep/kernels"
)

// predictor is a module of multi-token prediction (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 2.2), in the form
// that Transformers runs. Module k, from 0, predicts from each token the one that is k+2 further:
//
//	x  = [RMSNorm(embedding of the token k+1 further) | RMSNorm(h)] W
//	h' = RMSNorm(block(x))
//
// h is the normed output of the model, and for the next module h'. The table of the embedding and the output projection are the
// model's. The modules belong to the head: their gradients of the projection follow its own, chunk by chunk.
type predictor struct {
	table         *Use   // the embedding's, with touched rows of its own
	embeddingNorm norm   // [H]
	hiddenNorm    norm   // [H]
	project       linear // [H,2H]
	block         *block
	norm          norm // [H]
	hidden        int
}

// predictorRecord is what a predictor keeps of a micro batch. All tensors are [S,H], S being the tokens that this rank holds, but
// for those said otherwise.
type predictorRecord struct {
	block                       Record
	x, out, normed              kernels.Tensor // kept: into the block, out of it, and its norm
	embeddingRstd, hiddenRstd   kernels.Tensor // [S]
	rstd                        kernels.Tensor // [S]
	dNormed, dOut, dx           kernels.Tensor
	dPair                       kernels.Tensor // [S,2H]
	dEmbedded, embedded, paired kernels.Tensor // within one call; paired [S,2H]
	rows                        kernels.Tensor // the table's buffer
}

func newPredictor(b *builder, index int, table *Parameter) *predictor {
	c := b.config
	name := fmt.Sprintf("model.layers.%d", c.NumHiddenLayers+index)
	p := &predictor{hidden: c.HiddenSize, table: newUse(Replicas, table)}
	norm := func(module string) norm { return b.norm(name+module, c.HiddenSize, c.RMSNormEps, b.perToken()) }
	p.embeddingNorm, p.hiddenNorm = norm(".enorm"), norm(".hnorm")
	p.project = b.linear(name+".eh_proj", c.HiddenSize, 2*c.HiddenSize, false, b.perToken())
	p.block = newBlock(b, c.NumHiddenLayers+index)
	p.norm = norm(".shared_head.norm")
	return p
}

func (p *predictor) uses() []*Use {
	uses := []*Use{p.table, p.embeddingNorm.weight, p.hiddenNorm.weight}
	return append(append(append(uses, p.project.uses()...), p.block.Uses()...), p.norm.weight)
}

func (p *predictor) newRecord(k kernels.Operators, size Size, m *Memory) *predictorRecord {
	t := size.Held()
	r := &predictorRecord{}
	at, sum := m.activation, m.residual
	r.x, r.out, r.normed = sum(m.Saved, t, p.hidden), sum(m.Saved, t, p.hidden), at(m.Saved, t, p.hidden)
	r.embeddingRstd, r.hiddenRstd, r.rstd = m.statistic(m.Saved, t), m.statistic(m.Saved, t), m.statistic(m.Saved, t)
	r.dNormed, r.dOut, r.dx = at(m.Saved, t, p.hidden), sum(m.Delayed, t, p.hidden), sum(m.Delayed, t, p.hidden)
	r.dPair = at(m.Delayed, t, 2*p.hidden)
	r.embedded, r.dEmbedded, r.paired = at(m.Scratch, t, p.hidden), at(m.Scratch, t, p.hidden), at(m.Scratch, t, 2*p.hidden)
	r.rows = m.tableBuffer(p.table, size)
	r.block = p.block.NewRecord(k, size, m)
	m.Scratch.Reserve()
	m.Exchanged.Reserve() // what BackwardInput leaves for BackwardWeight may be there, and the next module runs in between
	return r
}

// halves views x [B*T,2H] as the parts of the embedding and of the hidden state.
func (p *predictor) halves(x kernels.Tensor) (embedding, hidden kernels.Tensor) {
	return x.Narrow(1, 0, p.hidden), x.Narrow(1, p.hidden, 2*p.hidden)
}

// pair computes r.paired from the embeddings of the tokens ahead and from h.
func (p *predictor) pair(c *Context, r *predictorRecord, ahead *Ahead, h kernels.Tensor) {
	embedding, hidden := p.halves(r.paired)
	p.table.lookUp(c, r.embedded, r.rows, ahead.IDs, ahead.Rows)
	p.embeddingNorm.forward(c, embedding, r.embeddingRstd, r.embedded)
	p.hiddenNorm.forward(c, hidden, r.hiddenRstd, h)
}

// forward computes r.normed from h.
func (p *predictor) forward(c *Context, r *predictorRecord, mb *MicroBatch, ahead *Ahead, h kernels.Tensor) {
	p.pair(c, r, ahead, h)
	p.project.forward(c, nil, r.x, r.paired)
	p.block.Forward(c, r.block, mb, r.x, r.out)
	p.norm.forward(c, r.normed, r.rstd, r.out)
}

// backwardInput adds the gradient of h to dh, from r.dNormed.
func (p *predictor) backwardInput(c *Context, r *predictorRecord, mb *MicroBatch, h, dh kernels.Tensor) {
	p.norm.backwardInput(c, r.dOut, r.dNormed, r.out, r.rstd, kernels.Tensor{})
	p.block.BackwardInput(c, r.block, mb, r.dOut, r.dx)
	p.project.backwardInput(c, nil, r.dPair, r.dx)
	_, dHidden := p.halves(r.dPair)
	p.hiddenNorm.backwardInput(c, dh, dHidden, h, r.hiddenRstd, dh)
}

// backwardWeight computes the gradients of the weights.
func (p *predictor) backwardWeight(c *Context, r *predictorRecord, mb *MicroBatch, ahead *Ahead, h kernels.Tensor) {
	p.norm.backwardWeight(c, mb, r.dNormed, r.out, r.rstd)
	p.block.BackwardWeight(c, r.block, mb, r.dOut)
	p.pair(c, r, ahead, h)
	p.project.backwardWeight(c, mb, nil, r.dx, r.paired)
	dEmbedding, dHidden := p.halves(r.dPair)
	p.hiddenNorm.backwardWeight(c, mb, dHidden, h, r.hiddenRstd)
	p.embeddingNorm.backwardWeight(c, mb, dEmbedding, r.embedded, r.embeddingRstd)
	if !p.table.frozen() {
		p.embeddingNorm.backwardInput(c, r.dEmbedded, dEmbedding, r.embedded, r.embeddingRstd, kernels.Tensor{})
		p.table.addRows(c, mb, r.dEmbedded, r.rows, ahead.Rows)
	}
}
