package model

import (
	"fmt"
	"math"

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
// Where the experts are spread over ranks, the rows of tokens go to the ranks of their experts and back, see dispatch.go.
type mixture struct {
	Experts            // Width is this rank's part
	leads         bool // of the ranks that share the experts' width it is the one that computes what is not shared
	index, layers int  // its number among the layers with experts, and theirs
	hidden        int
	ranks, rank   int       // that share the experts, and which of them this is
	held          int       // experts of each rank
	tokens        Partition // of the tokens among tensor ranks, where the experts are spread over ranks

	router *Use         // [E,H]
	bias   *Use         // [E] added to the scores in the choice, not trained by gradients; nil where there is none
	gateUp *Use         // [held*2I,H]: for each expert of this rank gate and up
	down   *Use         // [held*H,I]
	shared *feedForward // nil where there are none

	name                 string
	gateUpLoRA, downLoRA *expertLoRA // adapters of the experts, nil where there are none
}

// expert returns the name of an expert.
func (m *mixture) expert(e int) string { return fmt.Sprintf("%s.experts.%d", m.name, e) }

// mixtureRecord is what a mixture keeps of a micro batch. R is the number of assignments, B*T*K.
type mixtureRecord struct {
	full    bool // nothing is kept
	shared  Record
	balance balanceRecord

	// Kept but for RecomputeFull: what the router has decided.
	logits, scores, weights    kernels.Tensor // [B*T,E], [B*T,E], [B*T,K]
	experts, position, offsets kernels.Tensor // Int32 [B*T,K], [B*T,K], [E+1]
	// kept are the experts but for those of assignments that are left out, within one call; none where all are kept.
	kept kernels.Tensor // Int32 [B*T,K]

	work expertWork
	// exchange is nil where this rank has all experts.
	exchange *exchange

	dLogits kernels.Tensor // [B*T,E], for the gradients of weights
	// Within one call. Tokens leave for their experts from home, [R,H], and come back to back, which may be home.
	home, back, dWeights kernels.Tensor // the last one is [B*T,K]
	side                 kernels.Tensor // [B*T,H]: what the shared experts give
}

// expertWork is what the experts of this rank compute of rows that are sorted by expert: all of the micro batch's, or those
// that have come from other ranks in one round. Which of them is kept is up to whoever places it.
type expertWork struct {
	weights, position, offsets kernels.Tensor // as ExpertSwiGLU takes them; [held+1] Int32
	x, dy                      kernels.Tensor // [R,H]
	gateUp, dGateUp            kernels.Tensor // [R,2I]
	activated                  kernels.Tensor // [R,I]
	out                        kernels.Tensor // [R,H]: what the experts give, or the gradient of x
	dWeights                   kernels.Tensor // like weights
	gateUpLoRA, downLoRA       expertLoRARecord
}

func newMixture(b *builder, name string, layer int) *mixture {
	c := b.config
	m := &mixture{Experts: *c.Experts, hidden: c.HiddenSize, layers: c.sparseLayers(), leads: b.TensorRank == 0, name: name}
	m.ranks, m.rank = max(b.Expert, 1), b.ExpertRank
	m.held = m.Count / m.ranks
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
	if m.ranks > 1 {
		first, end = 0, width // tensor ranks share the tokens instead, see dispatch.go
	}
	m.Width, m.tokens = end-first, b.Partition
	for e := range m.Count {
		expert := m.expert(e)
		ps := []*Parameter{b.weight(expert+".gate_proj", width, m.hidden).cut(0, first, end), b.weight(expert+".up_proj", width, m.hidden).cut(0, first, end),
			b.weight(expert+".down_proj", m.hidden, width).cut(1, first, end)}
		if e/m.held == m.rank {
			gateUp, down = append(gateUp, ps[:2]...), append(down, ps[2])
			continue
		}
		for _, p := range ps {
			p.elsewhere = true
		}
	}
	reducers := Replicas
	if m.ranks > 1 {
		reducers = ExpertReplicas
	}
	m.gateUp, m.down = newUse(reducers, gateUp...), newUse(reducers, down...)
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
	uses = append(append(uses, m.gateUpLoRA.uses()...), m.downLoRA.uses()...)
	if m.shared != nil {
		uses = append(uses, m.shared.uses()...)
	}
	return uses
}

// linears lists the linears that LoRA can adapt: those of the shared experts. The others' matrices are no linears.
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
	if m.CapacityFactor > 0 {
		r.kept = mem.Scratch.Tensor(device.Int32, t, top)
	}
	r.balance = m.newBalanceRecord(size, mem)
	r.dLogits, r.dWeights = statistic(mem.Delayed, t, e), statistic(mem.Scratch, t, top)
	if m.ranks > 1 {
		most := (t + m.tokens.tensor() - 1) / m.tokens.tensor() // of a rank's tokens
		m.newExchange(r, most*top, min(top, m.held)*most*m.ranks, mem)
		r.position = m.own(r.position)
	} else {
		r.home = at(mem.Scratch, t*top, m.hidden)
		r.back = r.home
		r.work = m.newWork(t*top, mem, mem.keep(KeepAll), mem.Delayed)
		r.work.weights, r.work.position, r.work.offsets, r.work.dWeights = r.weights, r.position, r.offsets, r.dWeights
		r.work.x, r.work.dy, r.work.out = r.home, r.home, r.home
	}
	if m.shared != nil {
		r.side = at(mem.Scratch, t, m.hidden)
		r.shared = m.shared.newRecord(k, size, mem)
	}
	return r
}

// newWork places the work on a number of rows, but for what differs with where the rows come from.
func (m *mixture) newWork(rows int, mem *Memory, kept, delayed *kernels.Arena) expertWork {
	return expertWork{
		gateUp: mem.activation(kept, rows, 2*m.Width), dGateUp: mem.activation(delayed, rows, 2*m.Width),
		activated:  mem.activation(mem.Scratch, rows, m.Width),
		gateUpLoRA: m.gateUpLoRA.place(rows, m.held, mem, delayed), downLoRA: m.downLoRA.place(rows, m.held, mem, delayed),
	}
}

// matrices views joined weights or gradients as one matrix for each expert.
func (m *mixture) matrices(x kernels.Tensor) kernels.Tensor {
	return x.Split(0, m.held, x.Shape[0]/m.held)
}

func (m *mixture) forward(c *Context, record Record, mb *MicroBatch, y, x kernels.Tensor) {
	r := record.(*mixtureRecord)
	m.route(c, r, mb, x)
	m.count(c, r, mb)
	m.planDispatch(c, r)
	var returned device.Event
	for i := range r.rounds() {
		sent := m.send(c, r, i, m.own(x))
		if i == 0 && m.shared != nil { // while the rows are on their way
			m.shared.intoActivation(c, r.shared, mb, x)
		}
		w := m.receive(c, r, i, sent)
		m.intoExperts(c, &w)
		m.outOfExperts(c, &w)
		returned = m.giveBack(c, r, i, &w)
	}
	if m.shared != nil {
		m.shared.outOfActivation(c, r.shared, r.side)
	}
	c.Stream.Wait(returned)
	m.unpermute(c, r, y)
	if m.shared != nil {
		c.Kernels.Add(c.Stream, y, y, r.side)
	}
}

// route chooses the experts and the rows of the assignments.
func (m *mixture) route(c *Context, r *mixtureRecord, mb *MicroBatch, x kernels.Tensor) {
	c.Kernels.MatMul(c.Stream, r.logits, x, m.router.Weight(), kernels.MatMulOptions{TransB: true})
	var bias kernels.Tensor
	if m.bias != nil {
		bias = m.bias.Weight()
	}
	c.Kernels.Route(c.Stream, r.weights, r.experts, r.scores, r.logits, bias, m.Route)
	if c.Padded {
		c.Kernels.LeaveOutPadding(c.Stream, r.experts, mb.Labels)
	}
	kept := r.experts
	if m.CapacityFactor > 0 {
		kept = r.kept
		c.Kernels.KeepAssignments(c.Stream, kept, r.experts, r.weights, kernels.KeepOptions{Capacity: m.capacity(c.Size.Tokens()), ByPosition: m.DropByPosition})
	}
	c.Kernels.SortByExpert(c.Stream, r.position, r.offsets, m.own(kept))
}

// capacity returns how many of a number of tokens an expert takes.
func (m *mixture) capacity(tokens int) int {
	return int(math.Ceil(float64(tokens*m.Route.TopK) / float64(m.Count) * m.CapacityFactor))
}

// unpermute adds up what the rows of each of this rank's tokens have come back with, in y [B*T,H], and gives zeros for other tokens.
func (m *mixture) unpermute(c *Context, r *mixtureRecord, y kernels.Tensor) {
	own := m.own(y)
	if own != y {
		c.Kernels.Zero(c.Stream, y)
	}
	c.Kernels.Unpermute(c.Stream, own, r.back.Narrow(0, 0, r.position.Len()), r.position)
}

// intoExperts computes w.gateUp.
func (m *mixture) intoExperts(c *Context, w *expertWork) {
	c.Kernels.GroupedMatMul(c.Stream, w.gateUp, w.x, m.matrices(m.gateUp.Weight()), w.offsets, inTypeOf(w.x, kernels.MatMulOptions{TransB: true}))
	m.gateUpLoRA.forward(c, m, w.gateUpLoRA, w.gateUp, w.x, w.offsets)
}

// outOfExperts computes w.out from w.gateUp.
func (m *mixture) outOfExperts(c *Context, w *expertWork) {
	c.Kernels.ExpertSwiGLU(c.Stream, w.activated, w.gateUp, w.weights, w.position)
	c.Kernels.GroupedMatMul(c.Stream, w.out, w.activated, m.matrices(m.down.Weight()), w.offsets, inTypeOf(w.activated, kernels.MatMulOptions{TransB: true}))
	m.downLoRA.forward(c, m, w.downLoRA, w.out, w.activated, w.offsets)
}

// throughActivation computes w.dGateUp and w.dWeights from w.dy.
func (m *mixture) throughActivation(c *Context, w *expertWork) {
	c.Kernels.GroupedMatMul(c.Stream, w.activated, w.dy, m.matrices(m.down.Weight()), w.offsets, inTypeOf(w.dy, kernels.MatMulOptions{}))
	m.downLoRA.backwardInput(c, m, w.downLoRA, w.activated, w.dy, w.offsets)
	c.Kernels.ExpertSwiGLUBackward(c.Stream, w.dGateUp, w.dWeights, w.activated, w.gateUp, w.weights, w.position)
}

func (m *mixture) recompute(c *Context, record Record, mb *MicroBatch, x kernels.Tensor) {
	r := record.(*mixtureRecord)
	if r.full {
		m.route(c, r, mb, x)
		m.sortByRound(c, r)
	}
	sent := m.send(c, r, 0, m.own(x))
	if m.shared != nil {
		m.shared.recompute(c, r.shared, mb, x)
	}
	w := m.receive(c, r, 0, sent)
	m.intoExperts(c, &w)
}

func (m *mixture) backwardInput(c *Context, record Record, mb *MicroBatch, dx, dy kernels.Tensor) {
	r := record.(*mixtureRecord)
	var shared *feedForwardRecord
	if m.shared != nil {
		shared = r.shared.(*feedForwardRecord)
	}
	var returned device.Event
	for i := range r.rounds() {
		if i > 0 {
			m.again(c, r, i, r.exchange.input)
		}
		sent := m.sendGradient(c, r, i, m.own(dy))
		if i == 0 && m.shared != nil {
			m.shared.throughActivation(c, shared, dy)
		}
		w := m.receiveGradient(c, r, i, sent)
		m.throughActivation(c, &w)
		c.Kernels.GroupedMatMul(c.Stream, w.out, w.dGateUp, m.matrices(m.gateUp.Weight()), w.offsets, inTypeOf(w.dGateUp, kernels.MatMulOptions{}))
		m.gateUpLoRA.backwardInput(c, m, w.gateUpLoRA, w.out, w.dGateUp, w.offsets)
		returned = m.giveBackGradient(c, r, i, &w)
	}
	if m.shared != nil {
		m.shared.gateUp.backwardInput(c, shared.lora, r.side, shared.dGateUp)
	}
	c.Stream.Wait(returned)
	m.unpermute(c, r, dx)
	m.takeWeightGradients(c, r)
	m.routeGradient(c, r, mb)
	c.Kernels.MatMul(c.Stream, dx, r.dLogits, m.router.Weight(), kernels.MatMulOptions{Accumulate: true})
	if m.shared != nil {
		c.Kernels.Add(c.Stream, dx, dx, r.side)
	}
}

func (m *mixture) backwardWeight(c *Context, record Record, mb *MicroBatch, dy, x kernels.Tensor) {
	r := record.(*mixtureRecord)
	o := kernels.MatMulOptions{TransA: true, Accumulate: mb.Accumulate}
	if !m.router.frozen() {
		c.Kernels.MatMul(c.Stream, m.router.Gradient(mb.Gradients), r.dLogits, x, o)
	}
	o = inTypeOf(x, o)
	for i := range r.rounds() {
		w := m.workAgain(c, r, i, m.own(dy), m.own(x))
		if trained := !m.gateUp.frozen(); trained || m.gateUpLoRA != nil {
			m.copyRows(c, r, w.x, x)
			if trained {
				c.Kernels.GroupedMatMul(c.Stream, m.matrices(m.gateUp.Gradient(mb.Gradients)), w.dGateUp, w.x, w.offsets, o)
			}
			m.gateUpLoRA.backwardWeight(c, m, mb.Gradients, w.gateUpLoRA, w.dGateUp, w.x, w.offsets, o)
		}
		if trained := !m.down.frozen(); trained || m.downLoRA != nil {
			c.Kernels.ExpertSwiGLU(c.Stream, w.activated, w.gateUp, w.weights, w.position)
			m.copyRows(c, r, w.dy, dy)
			if trained {
				c.Kernels.GroupedMatMul(c.Stream, m.matrices(m.down.Gradient(mb.Gradients)), w.dy, w.activated, w.offsets, o)
			}
			m.downLoRA.backwardWeight(c, m, mb.Gradients, w.downLoRA, w.dy, w.activated, w.offsets, o)
		}
		o.Accumulate = true
	}
	if m.shared != nil {
		m.shared.backwardWeight(c, r.shared, mb, dy, x)
	}
}
