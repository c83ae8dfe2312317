package collective

import (
	"math/bits"
	"time"
)

// A level is how fast messages travel between two members.
type level struct {
	latency  time.Duration // from one member's sending to the other's reading
	overhead time.Duration // for each message, during which a member can do nothing else
	rate     float64       // bytes per nanosecond that a member sends and receives at the same time
}

// The cost model's constants: connections inside a host, as measured over loopback, and between hosts, of ten gigabits that
// all members of a host share.
var (
	levelInside  = level{latency: 12 * time.Microsecond, overhead: 10 * time.Microsecond, rate: 1.5}
	levelBetween = level{latency: 30 * time.Microsecond, overhead: 10 * time.Microsecond, rate: 1.1}
)

// The same of an operation in a host's memory, where members outnumber cores: it is one step, for all bytes that a member reads.
const (
	memoryLatency = 10 * time.Microsecond
	memoryRate    = 10
)

// An account adds up an algorithm's costs for its busiest member.
type account struct {
	q question
	e Estimate
	t float64 // nanoseconds
}

// step adds a step in which a member sends some messages of n bytes together, between hosts or inside one. users is how
// many members of a host send between hosts at the same time.
func (a *account) step(messages, n int, between bool, users int) {
	l := levelInside
	rate := l.rate
	if between {
		l = levelBetween
		rate = l.rate / float64(users)
	}
	a.e.Steps++
	a.e.Messages += messages
	a.e.Bytes += n
	a.t += float64(l.latency) + float64(messages)*float64(l.overhead) + float64(n)/rate
}

// distance adds a step in which every member exchanges n bytes with the one at a distance.
func (a *account) distance(d, n int) {
	top := &a.q.topology
	inside := top.hosts == 1 || top.local > 0 && d < top.local
	a.step(1, n, !inside, max(1, top.local))
}

// everyone adds a step in which every member sends n bytes in all to all others.
func (a *account) everyone(n int) {
	p, top := a.q.members, &a.q.topology
	if top.hosts == 1 {
		a.step(p-1, n, false, 1)
		return
	}
	a.step(p-1, n, true, max(1, top.local))
}

// neighbours adds steps along a ring, in which one member of each host sends to the next host.
func (a *account) neighbours(steps, n int) {
	for range steps {
		a.step(1, n, a.q.topology.hosts > 1, 1)
	}
}

// estimate adds up what the busiest member does. Its formulas are those of the algorithms' comments.
func (q question) estimate(algorithm Algorithm) Estimate {
	a := account{q: q, e: Estimate{Operation: q.kind.String(), Algorithm: algorithm}}
	if q.members > 1 {
		switch q.kind {
		case opAllReduce, opReduceScatter, opReduce:
			a.reduction(algorithm)
		case opAllGather:
			a.gather(algorithm, q.bytes)
		case opBroadcast:
			a.broadcast(algorithm)
		case opScatter, opGather:
			a.scatter(algorithm)
		case opAllToAll, opAllToAllV:
			a.pairwise()
		default:
			for d := 1; d < q.members; d *= 2 {
				a.distance(d, 0)
			}
		}
	}
	a.e.Time = time.Duration(a.t)
	return a.e
}

func (a *account) reduction(algorithm Algorithm) {
	p, n, kind := a.q.members, a.q.bytes, a.q.kind
	core := 1 << (bits.Len(uint(p)) - 1)
	far := a.q.topology.hosts > 1
	switch algorithm {
	case Direct:
		a.everyone(n - n/p)
		switch kind {
		case opAllReduce:
			a.everyone(n - n/p)
		case opReduce: // what the root receives
			a.step(p-1, n-n/p, far, 1)
		}
		return
	case Ring:
		a.neighbours(p-1, n/p)
		if kind == opAllReduce {
			a.neighbours(p-1, n/p)
		}
		return
	case TwoLevel:
		if kind == opReduceScatter {
			a.twoLevelParts(n)
		} else {
			a.twoLevel(n)
		}
		return
	}
	if p > core { // what the members beyond the core send
		a.step(1, n, far, 1)
	}
	for d := 1; d < core; d *= 2 {
		switch algorithm {
		case Doubling:
			a.distance(d, n)
		case Tree: // what the root receives
			a.step(1, n, far, 1)
		case Halving:
			half := n / (2 * d)
			if kind == opReduceScatter { // whole parts
				half = n / p * ((p + 2*d - 1) / (2 * d))
			}
			a.distance(d, half)
		}
	}
	if algorithm == Halving && kind != opReduceScatter {
		for d := core / 2; d >= 1; d /= 2 {
			a.distance(d, n/(2*d))
		}
	}
	if p > core && kind != opReduce { // what they get back, which nobody sends who is busier than the others
		back := n
		if kind == opReduceScatter {
			back = n / p
		}
		a.step(0, 0, far, 1)
		a.t += float64(back) / levelInside.rate
	}
}

// inside adds an operation among the members on a host, in which each sends messages of n bytes together. In their memory it
// takes no messages.
func (a *account) inside(messages, n int) {
	if a.q.topology.memory {
		a.e.Steps++
		a.t += float64(memoryLatency) + float64(n)/memoryRate
		return
	}
	a.step(messages, n, false, 1)
}

// twoLevel is an all-reduce.
func (a *account) twoLevel(n int) {
	l := a.q.topology.local
	if l == 0 { // to the first of each host, across, and back
		a.inside(1, n)
		a.across(n, 1)
		a.inside(1, n)
		return
	}
	a.inside(l-1, n-n/l)
	a.across(n/l, l)
	a.inside(l-1, n-n/l)
}

// twoLevelParts is a reduce-scatter or an all-gather: an operation on each host's block inside each host, and one between
// members in the same place.
func (a *account) twoLevelParts(n int) {
	l, hosts := a.q.topology.local, a.q.topology.hosts
	for range hosts {
		a.inside(l-1, n/hosts-n/hosts/l)
	}
	a.step(hosts-1, n/l-n/l/hosts, true, l)
}

// across adds the upper level of a two-level all-reduce, in which users members of each host take part.
func (a *account) across(n, users int) {
	e := across(n, a.q.topology.hosts)
	a.e.Steps += e.Steps
	a.e.Messages += e.Messages
	a.e.Bytes += e.Bytes
	a.t += float64(e.Time) + float64(e.Bytes)*float64(users-1)/levelBetween.rate
}

// across returns the better algorithm for an all-reduce among one member of each host.
func across(n, hosts int) Estimate {
	q := question{kind: opAllReduce, bytes: n, members: hosts, topology: topology{hosts: hosts, local: 1}}
	doubling, halving := q.estimate(Doubling), q.estimate(Halving)
	if n <= maxDoubled && doubling.Time <= halving.Time {
		return doubling
	}
	return halving
}

func (a *account) gather(algorithm Algorithm, n int) {
	p := a.q.members
	switch algorithm {
	case Direct:
		a.everyone(n - n/p)
	case Ring:
		a.neighbours(p-1, n/p)
	case TwoLevel:
		a.twoLevelParts(n)
	default:
		for d := 1; d < p; d *= 2 {
			a.distance(d, n/p*min(d, p-d))
		}
	}
}

func (a *account) broadcast(algorithm Algorithm) {
	p, n, top := a.q.members, a.q.bytes, &a.q.topology
	tree := func(members int, between bool) { // the root sends to each of its children
		for d := 1; d < members; d *= 2 {
			a.step(1, n, between, 1)
		}
	}
	switch algorithm {
	case Tree:
		tree(p, top.hosts > 1)
	case Ring:
		a.step(1, n, top.hosts > 1, 1)
		segments := float64(min(n, defaultSegment))
		a.e.Steps = p - 1
		a.t += float64(p-2) * (float64(levelInside.latency) + segments/levelInside.rate)
	case TwoLevel:
		tree(top.hosts, true)
		tree(max(2, (p+top.hosts-1)/top.hosts), false)
	}
}

func (a *account) scatter(algorithm Algorithm) {
	p, n, far := a.q.members, a.q.bytes, a.q.topology.hosts > 1
	if algorithm == Direct {
		a.step(p-1, n-n/p, far, 1)
		return
	}
	for d := 1; d < p; d *= 2 {
		a.step(1, n/p*min(d, p-d), far, 1)
	}
	a.t += float64(n) / 2 / levelInside.rate // parts are copied on the way
}

func (a *account) pairwise() {
	p, n := a.q.members, a.q.bytes
	for range p - 1 {
		a.step(1, n/p, a.q.topology.hosts > 1, max(1, a.q.topology.local))
	}
}
