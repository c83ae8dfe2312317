package model

import "lockstep/kernels"

// embedding is the first layer: out[i] = weight[ids[i]].
type embedding struct{ weight *Use }

func newEmbedding(table *Parameter) *embedding { return &embedding{weight: newUse(Replicas, table)} }

// Name returns the module's name.
func (e *embedding) Name() string { return "model.embed_tokens" }

// Uses returns the table.
func (e *embedding) Uses() []*Use { return []*Use{e.weight} }

// NewRecord places what lookUp needs; the ids are in the micro batch.
func (e *embedding) NewRecord(_ kernels.Operators, size Size, m *Memory) Record {
	mark := m.mark()
	defer m.release(mark)
	return m.tableBuffer(e.weight, size)
}

// Forward gathers rows into out [S,H].
func (e *embedding) Forward(c *Context, record Record, mb *MicroBatch, _, out kernels.Tensor) {
	e.weight.lookUp(c, out, record.(kernels.Tensor), mb.IDs, mb.Rows)
}

// Recompute does nothing: nothing is kept.
func (e *embedding) Recompute(*Context, Record, *MicroBatch) {}

// BackwardInput does nothing: ids have no gradient.
func (e *embedding) BackwardInput(*Context, Record, *MicroBatch, kernels.Tensor, kernels.Tensor) {}

// BackwardWeight adds dout [S,H] to the touched rows of the table's gradient.
func (e *embedding) BackwardWeight(c *Context, record Record, mb *MicroBatch, dout kernels.Tensor) {
	e.weight.addRows(c, mb, dout, record.(kernels.Tensor), mb.Rows)
}
