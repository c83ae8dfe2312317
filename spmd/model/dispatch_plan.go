package model

// A dispatchPlan says which rows of a micro batch go to which of the ranks that share the experts, and in how many rounds.
// Every rank makes it from the same counts, those of all ranks, so that all agree on it.
//
// A rank's rows are sorted by expert, and so by the rank that has the expert. What a rank receives from all others, one after
// the other, is its queue; in each round it takes as many rows of its queue as its buffer holds. With an even load that is
// one round. Before further ones a rank sorts its rows by round first, so that what it sends in one lies together.
type dispatchPlan struct {
	ranks, me int
	held      int // experts of each rank
	limit     int // rows that a rank receives in a round
	rowBytes  int
	// offsets are those of SortByExpert of all ranks: [ranks, E+1].
	offsets []int32
	rounds  []dispatchRound
	// first and shift are operands of ShiftPositions that sort this rank's rows by round, none where there is one round.
	first, shift []int32
}

// A dispatchRound is what this rank sends and receives in one round.
type dispatchRound struct {
	start, sent, received int     // this rank's rows [start, start+sent) leave, so many come
	runs                  []int32 // [ranks, held]: the rows that come, by rank and expert
	// The parts of all-to-all-v, in bytes: of rows, and of a float32 for each row.
	rowsOut, rowsIn, weightsOut, weightsIn []int
}

// rows returns how many rows go from one rank to another.
func (p *dispatchPlan) rows(from, to int) int {
	offsets := p.offsets[from*(p.ranks*p.held+1):]
	return int(offsets[(to+1)*p.held] - offsets[to*p.held])
}

// window returns which of n rows go in a round, when as many rows are before them in the queue.
func (p *dispatchPlan) window(round, before, n int) (from, to int) {
	within := func(at int) int { return min(max(at-before, 0), n) }
	return within(round * p.limit), within((round + 1) * p.limit)
}

// newDispatchPlan returns a plan for rows of the given size, of which a rank receives at most limit in a round.
func newDispatchPlan(ranks, me, held, limit, rowBytes int) *dispatchPlan {
	p := &dispatchPlan{ranks: ranks, me: me, held: held, limit: limit, rowBytes: rowBytes, offsets: make([]int32, ranks*(ranks*held+1))}
	p.grow(1)
	return p
}

// grow makes the number of rounds n, in the memory of earlier ones where there were as many.
func (p *dispatchPlan) grow(n int) {
	p.rounds = p.rounds[:min(n, cap(p.rounds))]
	for i := range n {
		if i == len(p.rounds) {
			p.rounds = append(p.rounds, dispatchRound{})
		}
		if p.rounds[i].runs == nil {
			sizes := make([]int, 4*p.ranks)
			part := func(i int) []int { return sizes[i*p.ranks : (i+1)*p.ranks : (i+1)*p.ranks] }
			p.rounds[i] = dispatchRound{runs: make([]int32, p.ranks*p.held), rowsOut: part(0), rowsIn: part(1), weightsOut: part(2), weightsIn: part(3)}
		}
	}
}

// plan fills in the rounds from the offsets. It allocates only where there are more of them than ever before.
func (p *dispatchPlan) plan() {
	n := 1
	for to := range p.ranks {
		n = max(n, (p.before(p.ranks, to)+p.limit-1)/p.limit)
	}
	p.grow(n)
	at := 0
	for i := range p.rounds {
		p.send(i, at)
		p.receive(i)
		at += p.rounds[i].sent
	}
	p.sortByRound()
}

// before returns how many rows the ranks before one have in the queue of another.
func (p *dispatchPlan) before(rank, to int) int {
	n := 0
	for from := range rank {
		n += p.rows(from, to)
	}
	return n
}

// send fills in what leaves in a round, when the given number of rows have left before.
func (p *dispatchPlan) send(round, start int) {
	r := &p.rounds[round]
	r.start, r.sent = start, 0
	for to := range p.ranks {
		from, end := p.window(round, p.before(p.me, to), p.rows(p.me, to))
		r.rowsOut[to], r.weightsOut[to] = (end-from)*p.rowBytes, (end-from)*weightBytes
		r.sent += end - from
	}
}

// receive fills in what comes in a round.
func (p *dispatchPlan) receive(round int) {
	r := &p.rounds[round]
	r.received = 0
	for from := range p.ranks {
		first, end := p.window(round, p.before(from, p.me), p.rows(from, p.me))
		r.rowsIn[from], r.weightsIn[from] = (end-first)*p.rowBytes, (end-first)*weightBytes
		r.received += end - first
		offsets := p.offsets[from*(p.ranks*p.held+1)+p.me*p.held:]
		for e := range p.held {
			a, b := int(offsets[e]-offsets[0]), int(offsets[e+1]-offsets[0])
			r.runs[from*p.held+e] = int32(max(0, min(b, end)-max(a, first)))
		}
	}
}

// sortByRound fills in first and shift: the rows for each rank are together and are cut by round.
func (p *dispatchPlan) sortByRound() {
	p.first, p.shift = p.first[:0], p.shift[:0]
	if len(p.rounds) == 1 {
		return
	}
	row := 0
	for to := range p.ranks {
		for _, r := range p.rounds {
			n := r.weightsOut[to] / weightBytes
			if n == 0 {
				continue
			}
			at := r.start
			for _, bytes := range r.weightsOut[:to] {
				at += bytes / weightBytes
			}
			p.first, p.shift = append(p.first, int32(row)), append(p.shift, int32(at-row))
			row += n
		}
	}
}

// weightBytes is the size of a router's weight.
const weightBytes = 4
