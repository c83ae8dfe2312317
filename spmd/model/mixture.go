package model

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// mixture is a mixture of experts in place of a feed-forward network: each token goes to the K experts that the router
// chooses for it, and to the shared experts, which all tokens have in common.
//
//	y = sum over the token's experts e of w[e] * feedForward_e(x)  +  shared(x)
//
// The router's weight multiplies an expert's activation, not its output: the product is the same, and the gradient of the
// weight needs no output to be kept. Tokens are sorted by expert, so that each projection of all experts is one operator.
type mixture struct {
	Experts            // Width is this rank's part
	leads         bool // of the ranks that share the experts' width it is the one that computes what is not shared
	index, layers int  // its number among the layers with experts, and theirs
	hidden        int

	router *Use         // [E,H]
	bias   *Use         // [E] added to the scores in the choice, not trained by gradients; nil where there is none
	gateUp *Use         // [E*2I,H]: for each expert gate and up
	down   *Use         // [E*H,I]
	shared *feedForward // nil where there are none
}

// mixtureRecord is what a mixture keeps of a micro batch. R is the number of assignments, B*T*K.
type mixtureRecord struct {
	full    bool // nothing is kept
	shared  Record
	balance balanceRecord

	// Kept but for RecomputeFull: what the router has decided.
	logits, scores, weights    kernels.Tensor // [B*T,E], [B*T,E], [B*T,K]
	experts, position, offsets kernels.Tensor // Int32 [B*T,K], [B*T,K], [E+1]
	// Kept with KeepAll alone.
	gateUp kernels.Tensor // [R,2I]

	dGateUp, dLogits kernels.Tensor // [R,2I], [B*T,E], for the gradients of weights

	// Within one call.
	rows, activated, dWeights kernels.Tensor // [R,H], [R,I], [B*T,K]
	sharedOut                 kernels.Tensor // [B*T,H]
}

func newMixture(b *builder, name string, layer int) *mixture {
	c := b.config
	m := &mixture{Experts: *c.Experts, hidden: c.HiddenSize, layers: c.sparseLayers(), leads: b.TensorRank == 0}
	for i := range layer {
		if c.Sparse(i) {
			m.index++
		}
	}
	m.router = newUse(b.summed(), b.weight(name+".gate", m.Count, m.hidden))
	if m.CorrectionBias {
		m.bias = newUse(Replicas, b.parameter(name+".gate.e_score_correction_bias", Zeros, m.Count))
		m.bias.Parameters[0].Untrained = true
	}
	var gateUp, down []*Parameter
	width := m.Width
	first, end := b.cut(width)
	m.Width = end - first
	for e := range m.Count {
		expert := fmt.Sprintf("%s.experts.%d", name, e)
		gateUp = append(gateUp, b.weight(expert+".gate_proj", width, m.hidden).cut(0, first, end), b.weight(expert+".up_proj", width, m.hidden).cut(0, first, end))
		down = append(down, b.weight(expert+".down_proj", m.hidden, width).cut(1, first, end))
	}
	m.gateUp, m.down = newUse(Replicas, gateUp...), newUse(Replicas, down...)
	if m.Shared > 0 {
		m.shared = newFeedForward(b, name+".shared_experts", m.Shared)
	}
	return m
}

func (m *mixture) uses() []*Use {
	uses := []*Use{m.router}
	if m.bias != nil {
		uses = append(uses, m.bias)
	}
	uses = append(uses, m.gateUp, m.down)
	if m.shared != nil {
		uses = append(uses, m.shared.uses()...)
	}
	return uses
}

// linears lists what LoRA can adapt: of the experts only the shared ones.
func (m *mixture) linears() []*linear {
	if m.shared == nil {
		return nil
	}
	return m.shared.linears()
}

func (m *mixture) newRecord(k kernels.Operators, size Size, mem *Memory) Record {
	t, e, top := size.Tokens(), m.Count, m.Route.TopK
	r := &mixtureRecord{full: mem.Recompute == RecomputeFull}
	at, statistic := mem.activation, mem.statistic
	routed := mem.keep(RecomputeSelective)
	r.logits, r.scores, r.weights = statistic(routed, t, e), statistic(routed, t, e), statistic(routed, t, top)
	r.experts, r.position = routed.Tensor(device.Int32, t, top), routed.Tensor(device.Int32, t, top)
	r.offsets = routed.Tensor(device.Int32, e+1)
	r.balance = m.newBalanceRecord(size, mem)
	r.gateUp, r.dGateUp = at(mem.keep(KeepAll), t*top, 2*m.Width), at(mem.Delayed, t*top, 2*m.Width)
	r.dLogits, r.dWeights = statistic(mem.Delayed, t, e), statistic(mem.Scratch, t, top)
	r.rows, r.activated = at(mem.Scratch, t*top, m.hidden), at(mem.Scratch, t*top, m.Width)
	if m.shared != nil {
		r.sharedOut = at(mem.Scratch, t, m.hidden)
		r.shared = m.shared.newRecord(k, size, mem)
	}
	return r
}

// matrices views joined weights or gradients as one matrix for each expert.
func (m *mixture) matrices(x kernels.Tensor) kernels.Tensor {
	return x.Split(0, m.Count, x.Shape[0]/m.Count)
}

func (m *mixture) forward(c *Context, record Record, mb *MicroBatch, y, x kernels.Tensor) {
	r := record.(*mixtureRecord)
	m.route(c, r, x)
	m.count(c, r, mb)
	m.intoExperts(c, r, x)
	c.Kernels.ExpertSwiGLU(c.Stream, r.activated, r.gateUp, r.weights, r.position)
	c.Kernels.GroupedMatMul(c.Stream, r.rows, r.activated, m.matrices(m.down.Weight()), r.offsets, kernels.MatMulOptions{TransB: true})
	c.Kernels.Unpermute(c.Stream, y, r.rows, r.position)
	if m.shared != nil {
		m.shared.forward(c, r.shared, mb, r.sharedOut, x)
		c.Kernels.Add(c.Stream, y, y, r.sharedOut)
	}
}

// route chooses the experts and the rows of the assignments.
func (m *mixture) route(c *Context, r *mixtureRecord, x kernels.Tensor) {
	c.Kernels.MatMul(c.Stream, r.logits, x, m.router.Weight(), kernels.MatMulOptions{TransB: true})
	var bias kernels.Tensor
	if m.bias != nil {
		bias = m.bias.Weight()
	}
	c.Kernels.Route(c.Stream, r.weights, r.experts, r.scores, r.logits, bias, m.Route)
	c.Kernels.SortByExpert(c.Stream, r.position, r.offsets, r.experts)
}

// intoExperts computes r.gateUp.
func (m *mixture) intoExperts(c *Context, r *mixtureRecord, x kernels.Tensor) {
	c.Kernels.Permute(c.Stream, r.rows, x, r.position)
	c.Kernels.GroupedMatMul(c.Stream, r.gateUp, r.rows, m.matrices(m.gateUp.Weight()), r.offsets, kernels.MatMulOptions{TransB: true})
}

func (m *mixture) recompute(c *Context, record Record, mb *MicroBatch, x kernels.Tensor) {
	r := record.(*mixtureRecord)
	if r.full {
		m.route(c, r, x)
	}
	m.intoExperts(c, r, x)
	if m.shared != nil {
		m.shared.recompute(c, r.shared, mb, x)
	}
}

func (m *mixture) backwardInput(c *Context, record Record, mb *MicroBatch, dx, dy kernels.Tensor) {
	r := record.(*mixtureRecord)
	c.Kernels.Permute(c.Stream, r.rows, dy, r.position)
	c.Kernels.GroupedMatMul(c.Stream, r.activated, r.rows, m.matrices(m.down.Weight()), r.offsets, kernels.MatMulOptions{})
	c.Kernels.ExpertSwiGLUBackward(c.Stream, r.dGateUp, r.dWeights, r.activated, r.gateUp, r.weights, r.position)
	c.Kernels.GroupedMatMul(c.Stream, r.rows, r.dGateUp, m.matrices(m.gateUp.Weight()), r.offsets, kernels.MatMulOptions{})
	c.Kernels.Unpermute(c.Stream, dx, r.rows, r.position)

	m.routeGradient(c, r, mb)
	c.Kernels.MatMul(c.Stream, dx, r.dLogits, m.router.Weight(), kernels.MatMulOptions{Accumulate: true})
	if m.shared != nil {
		shared := r.shared.(*feedForwardRecord)
		m.shared.throughActivation(c, shared, dy)
		m.shared.gateUp.addBackwardInput(c, shared.lora, dx, shared.dGateUp)
	}
}

func (m *mixture) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*mixtureRecord)
	o := kernels.MatMulOptions{TransA: true, Accumulate: mb.Accumulate}
	if !m.router.frozen() {
		c.Kernels.MatMul(c.Stream, m.router.Gradient(mb.Gradients), r.dLogits, x, o)
	}
	if !m.gateUp.frozen() {
		c.Kernels.Permute(c.Stream, r.rows, x, r.position)
		c.Kernels.GroupedMatMul(c.Stream, m.matrices(m.gateUp.Gradient(mb.Gradients)), r.dGateUp, r.rows, r.offsets, o)
	}
	if !m.down.frozen() {
		c.Kernels.ExpertSwiGLU(c.Stream, r.activated, r.gateUp, r.weights, r.position)
		c.Kernels.Permute(c.Stream, r.rows, dy, r.position)
		c.Kernels.GroupedMatMul(c.Stream, m.matrices(m.down.Gradient(mb.Gradients)), r.rows, r.activated, r.offsets, o)
	}
	if m.shared != nil {
		m.shared.backwardWeight(c, r.shared, mb, dy, x)
	}
}
