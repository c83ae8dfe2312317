package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// How rows of tokens get to the ranks of their experts and back.
//
// The ranks of Context.Expert share the experts: each holds as many, in their order. For each micro batch they tell each
// other how many rows they have for each expert, which the host reads to plan the exchange: the one number in a step that it
// must know. Then the rows go by one all-to-all to the ranks of their experts, with the weights that the router gives them;
// there they are sorted by expert, and what the experts make of them goes back the same way. In the backward pass the gradients
// go as the rows did, and come back as their results did. All sums have one order, so that a repeat gives the same bits.
//
// Tensor ranks have all tokens and route all of them, but each sends only its own part of them: what comes back is its part of the
// sum over the tensor ranks, with zeros for the tokens of others. The experts of a rank are whole.
//
// A rank has memory for the balanced load times a factor. What is more than that goes in further rounds through memory of
// which nothing is kept: the backward pass dispatches and computes it again.

// exchange is what a mixture keeps of a micro batch where its experts are spread over ranks. C is the number of rows that a rank
// receives in one round, G that of ranks.
type exchange struct {
	plan *dispatchPlan
	// further is the work of all rounds but the first, of which nothing is kept.
	further expertWork
	// input is the mixture's, which the further rounds of the backward pass need again.
	input kernels.Tensor

	counts kernels.Tensor // [G,E+1] Int32: the offsets of all ranks
	runs   kernels.Tensor // [G,held] Int32: how many rows have come, by rank and expert
	shifts kernels.Tensor // [2,stretches] Int32: operands of ShiftPositions
	// Rows and weights arrive in away and leave from there again.
	away                                  kernels.Tensor // [C,H]
	homeWeights, awayWeights, backWeights kernels.Tensor // [R,1], [C,1], [R,1]
}

// newExchange places what a micro batch of the given number of rows needs, of which a rank may receive most, those of all ranks
// together.
func (m *mixture) newExchange(r *mixtureRecord, rows, most int, mem *Memory) {
	at, statistic := mem.activation, mem.statistic
	limit := min(most, int(mem.DispatchFactor*float64(rows)))
	rounds := (most + limit - 1) / limit
	x := &exchange{plan: newDispatchPlan(m.ranks, m.rank, m.held, limit, m.hidden*mem.DType.Size())}
	r.exchange = x
	x.counts = mem.Exchanged.Tensor(device.Int32, m.ranks, m.Count+1)
	r.home, x.away = at(mem.Exchanged, rows, m.hidden), at(mem.Exchanged, limit, m.hidden)
	x.homeWeights, x.awayWeights = statistic(mem.Exchanged, rows, 1), statistic(mem.Exchanged, limit, 1)
	r.back, x.backWeights = r.home, x.homeWeights
	if rounds > 1 {
		r.back, x.backWeights = at(mem.Exchanged, rows, m.hidden), statistic(mem.Exchanged, rows, 1)
	}
	x.runs = mem.Scratch.Tensor(device.Int32, m.ranks, m.held)
	x.shifts = mem.Scratch.Tensor(device.Int32, 2, m.ranks*rounds)

	kept, inputs := mem.keep(KeepAll), mem.keep(KeepAll)
	if m.gateUp.frozen() && m.gateUpLoRA == nil {
		inputs = mem.Scratch // they are for the gradient of the weights alone
	}
	r.work = m.newWork(limit, mem, kept, mem.Delayed)
	r.work.x, r.work.dy, r.work.out = at(inputs, limit, m.hidden), at(mem.Delayed, limit, m.hidden), at(mem.Scratch, limit, m.hidden)
	m.placeReceived(&r.work, limit, mem, kept)
	r.work.dWeights = x.awayWeights
	if rounds > 1 {
		x.further = m.newWork(limit, mem, mem.Scratch, mem.Scratch)
		x.further.x, x.further.dy = at(mem.Scratch, limit, m.hidden), r.work.out // where one is needed, the other is not
		m.placeReceived(&x.further, limit, mem, mem.Scratch)
		x.further.out, x.further.activated, x.further.dWeights = r.work.out, r.work.activated, x.awayWeights
	}
}

// own returns the rows of x that are of the tokens which this rank sends to experts: all, or its part where tensor ranks have the
// same tokens.
func (m *mixture) own(x kernels.Tensor) kernels.Tensor {
	if m.ranks == 1 {
		return x
	}
	from, to := m.tokens.cut(x.Shape[0])
	return x.Narrow(0, from, to)
}

// placeReceived places what says which rows have come, and their weights.
func (m *mixture) placeReceived(w *expertWork, rows int, mem *Memory, a *kernels.Arena) {
	w.weights, w.position, w.offsets = mem.statistic(a, rows, 1), a.Tensor(device.Int32, rows, 1), a.Tensor(device.Int32, m.held+1)
}

// rounds returns in how many rounds the rows of the micro batch are exchanged, 1 where they are not.
func (r *mixtureRecord) rounds() int {
	if r.exchange == nil {
		return 1
	}
	return len(r.exchange.plan.rounds)
}

// roundWork returns the work of a round: tensors of as many rows as have come.
func (r *mixtureRecord) roundWork(round int) expertWork {
	w, n := r.work, r.exchange.plan.rounds[round].received
	if round > 0 {
		w = r.exchange.further
	}
	for _, t := range []*kernels.Tensor{&w.weights, &w.position, &w.x, &w.dy, &w.gateUp, &w.dGateUp, &w.activated, &w.out, &w.dWeights} {
		*t = t.Narrow(0, 0, n)
	}
	w.gateUpLoRA, w.downLoRA = w.gateUpLoRA.narrow(n), w.downLoRA.narrow(n)
	return w
}

// planDispatch finds out which rows go where.
func (m *mixture) planDispatch(c *Context, r *mixtureRecord) {
	x := r.exchange
	if x == nil {
		return
	}
	k, s := c.Kernels, c.Stream
	k.Copy(s, x.counts.Narrow(0, m.rank, m.rank+1).Reshape(m.Count+1), r.offsets)
	s.Wait(c.Expert.Blocking().AllGather(x.counts.Region(), nil, s.Record()))
	if k.Read(s, device.BytesOf(x.plan.offsets), x.counts.Region()) != nil {
		clear(x.plan.offsets) // the stream has failed: nothing that follows runs
	}
	x.plan.plan()
	if b := c.Balancing; b != nil {
		b.Rounds = max(b.Rounds, r.rounds())
	}
	m.sortByRound(c, r)
}

// sortByRound sorts this rank's rows by the rounds in which they leave, where there are several.
func (m *mixture) sortByRound(c *Context, r *mixtureRecord) {
	if r.exchange == nil || len(r.exchange.plan.first) == 0 {
		return
	}
	k, s, p := c.Kernels, c.Stream, r.exchange.plan
	shifts := r.exchange.shifts.Narrow(1, 0, len(p.first))
	first, shift := shifts.Narrow(0, 0, 1), shifts.Narrow(0, 1, 2)
	k.Write(s, first.Region(), device.BytesOf(p.first))
	k.Write(s, shift.Region(), device.BytesOf(p.shift))
	k.ShiftPositions(s, r.position, first.Reshape(len(p.first)), shift.Reshape(len(p.first)))
}

// send sends a round's rows of tokens x to their experts, and their weights. On one rank it copies the rows to where the experts
// read them.
func (m *mixture) send(c *Context, r *mixtureRecord, round int, x kernels.Tensor) device.Event {
	c.Kernels.Permute(c.Stream, r.home.Narrow(0, 0, r.position.Len()), x, r.position)
	if r.exchange == nil {
		return device.Event{}
	}
	if round == 0 {
		r.exchange.input = x
	}
	n := r.position.Len()
	c.Kernels.Permute(c.Stream, r.exchange.homeWeights.Narrow(0, 0, n), m.own(r.weights).Reshape(n, 1), r.position.Reshape(n, 1))
	r.exchange.rows(c, r, round)
	return r.exchange.weights(c, round)
}

// receive takes the rows that have come and sorts them by expert.
func (m *mixture) receive(c *Context, r *mixtureRecord, round int, sent device.Event) expertWork {
	if r.exchange == nil {
		return r.work
	}
	k, s, x := c.Kernels, c.Stream, r.exchange
	w := r.roundWork(round)
	k.Write(s, x.runs.Region(), device.BytesOf(x.plan.rounds[round].runs))
	k.SortRuns(s, w.position, w.offsets, x.runs)
	s.Wait(sent)
	k.Permute(s, w.x, x.away.Narrow(0, 0, w.x.Shape[0]), w.position)
	k.Copy(s, w.weights, x.awayWeights.Narrow(0, 0, w.x.Shape[0]))
	return w
}

// giveBack returns to the tokens' ranks what the experts have made of a round's rows.
func (m *mixture) giveBack(c *Context, r *mixtureRecord, round int, w *expertWork) device.Event {
	if r.exchange == nil {
		return device.Event{}
	}
	c.Kernels.Unpermute(c.Stream, r.exchange.away.Narrow(0, 0, w.out.Shape[0]), w.out, w.position)
	return r.exchange.rowsBack(c, r, round)
}

// again computes what the backward pass needs of a further round from the mixture's input x.
func (m *mixture) again(c *Context, r *mixtureRecord, round int, x kernels.Tensor) {
	w := m.receive(c, r, round, m.send(c, r, round, x))
	m.intoExperts(c, &w)
}

// sendGradient is send for the gradient dy of the mixture's output.
func (m *mixture) sendGradient(c *Context, r *mixtureRecord, round int, dy kernels.Tensor) device.Event {
	c.Kernels.Permute(c.Stream, r.home.Narrow(0, 0, r.position.Len()), dy, r.position)
	if r.exchange == nil {
		return device.Event{}
	}
	return r.exchange.rows(c, r, round)
}

// receiveGradient takes the gradients that have come.
func (m *mixture) receiveGradient(c *Context, r *mixtureRecord, round int, sent device.Event) expertWork {
	if r.exchange == nil {
		return r.work
	}
	w := r.roundWork(round)
	c.Stream.Wait(sent)
	c.Kernels.Permute(c.Stream, w.dy, r.exchange.away.Narrow(0, 0, w.dy.Shape[0]), w.position)
	return w
}

// giveBackGradient is giveBack for the gradients of the rows and of their weights.
func (m *mixture) giveBackGradient(c *Context, r *mixtureRecord, round int, w *expertWork) device.Event {
	if r.exchange == nil {
		return device.Event{}
	}
	m.giveBack(c, r, round, w)
	return r.exchange.weightsBack(c, round)
}

// takeWeightGradients puts the gradients of the router's weights that have come back into r.dWeights.
func (m *mixture) takeWeightGradients(c *Context, r *mixtureRecord) {
	if r.exchange == nil {
		return
	}
	n, own := r.position.Len(), m.own(r.dWeights)
	if own != r.dWeights {
		c.Kernels.Zero(c.Stream, r.dWeights)
	}
	c.Kernels.Unpermute(c.Stream, own.Reshape(n, 1), r.exchange.backWeights.Narrow(0, 0, n), r.position.Reshape(n, 1))
}

// workAgain returns the work of a round for the gradients of the experts' weights: that of the first one is there.
func (m *mixture) workAgain(c *Context, r *mixtureRecord, round int, dy, x kernels.Tensor) expertWork {
	if r.exchange == nil {
		return r.work
	}
	if round > 0 {
		m.again(c, r, round, x)
		w := m.receiveGradient(c, r, round, m.sendGradient(c, r, round, dy))
		m.throughActivation(c, &w)
		m.gateUpLoRA.lowerGradient(c, m, w.gateUpLoRA, w.dGateUp, w.offsets)
	}
	return r.roundWork(round)
}

// copyRows copies tokens to the rows of their experts for the gradients of weights, on one rank: to do so again costs a look at
// memory. Rows that have come from other ranks are kept.
func (m *mixture) copyRows(c *Context, r *mixtureRecord, rows, tokens kernels.Tensor) {
	if r.exchange == nil {
		c.Kernels.Permute(c.Stream, rows, tokens, r.position)
	}
}

// rows starts to send the rows of a round from home to away.
func (x *exchange) rows(c *Context, r *mixtureRecord, round int) device.Event {
	p := &x.plan.rounds[round]
	return c.Expert.AllToAllV(x.away.Narrow(0, 0, p.received).Region(), r.home.Narrow(0, p.start, p.start+p.sent).Region(), p.rowsIn, p.rowsOut, c.Stream.Record())
}

// rowsBack starts to send the rows of a round from away to back.
func (x *exchange) rowsBack(c *Context, r *mixtureRecord, round int) device.Event {
	p := &x.plan.rounds[round]
	return c.Expert.AllToAllV(r.back.Narrow(0, p.start, p.start+p.sent).Region(), x.away.Narrow(0, 0, p.received).Region(), p.rowsOut, p.rowsIn, c.Stream.Record())
}

// weights starts to send the weights of a round's rows.
func (x *exchange) weights(c *Context, round int) device.Event {
	p := &x.plan.rounds[round]
	return c.Expert.AllToAllV(x.awayWeights.Narrow(0, 0, p.received).Region(), x.homeWeights.Narrow(0, p.start, p.start+p.sent).Region(), p.weightsIn, p.weightsOut, c.Stream.Record())
}

// weightsBack starts to return the gradients of the weights of a round's rows.
func (x *exchange) weightsBack(c *Context, round int) device.Event {
	p := &x.plan.rounds[round]
	return c.Expert.AllToAllV(x.backWeights.Narrow(0, p.start, p.start+p.sent).Region(), x.awayWeights.Narrow(0, 0, p.received).Region(), p.weightsOut, p.weightsIn, c.Stream.Record())
}
