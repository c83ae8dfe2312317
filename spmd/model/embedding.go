package model

import "lockstep/kernels"

// embedding is the first layer: out[i] = weight[ids[i]].
type embedding struct{ weight *Use }

func newEmbedding(table *Parameter) *embedding { return &embedding{weight: newUse(Replicas, table)} }

// Name returns the module's name.
func (e *embedding) Name() string { return "model.embed_tokens" }

// Uses returns the table.
func (e *embedding) Uses() []*Use { return []*Use{e.weight} }

// NewRecord needs nothing: the ids are in the micro batch.
func (e *embedding) NewRecord(kernels.Operators, Size, *Memory) Record { return nil }

// Forward gathers rows into out [B*T,H].
func (e *embedding) Forward(c *Context, _ Record, mb *MicroBatch, _, out kernels.Tensor) {
	e.weight.lookUp(c, out, mb.IDs, mb.Rows)
}

// Recompute does nothing: nothing is kept.
func (e *embedding) Recompute(*Context, Record, *MicroBatch) {}

// BackwardInput does nothing: ids have no gradient.
func (e *embedding) BackwardInput(*Context, Record, *MicroBatch, kernels.Tensor, kernels.Tensor) {}

// BackwardWeight adds dout [B*T,H] to the touched rows of the table's gradient.
func (e *embedding) BackwardWeight(c *Context, _ Record, mb *MicroBatch, dout kernels.Tensor) {
	if e.weight.frozen() {
		return
	}
	c.Kernels.EmbeddingBackward(c.Stream, e.weight.rows(mb.Gradients, mb.Touched), dout, mb.Rows, mb.Accumulate)
}
