package collective

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/kernels/device"
)

// An Algorithm is a way to carry out an operation. What each does is in the file of the operation.
type Algorithm uint8

// The algorithms. Auto, the zero value, leaves the choice to the cost model.
const (
	Auto Algorithm = iota
	Direct
	Doubling
	Halving
	Ring
	Tree
	Pairwise
	TwoLevel
	algorithms // one past the last
)

var algorithmNames = [algorithms]string{"auto", "direct", "doubling", "halving", "ring", "tree", "pairwise", "two-level"}

// String returns the name that ParseAlgorithm takes.
func (a Algorithm) String() string {
	if a >= algorithms {
		return fmt.Sprintf("algorithm(%d)", uint8(a))
	}
	return algorithmNames[a]
}

// ParseAlgorithm returns the algorithm of a name such as "halving".
func ParseAlgorithm(name string) (Algorithm, error) {
	if i := slices.Index(algorithmNames[:], name); i >= 0 {
		return Algorithm(i), nil
	}
	return Auto, fmt.Errorf("%q is no algorithm; there are %s", name, strings.Join(algorithmNames[:], ", "))
}

// maxDoubled is the largest buffer that all-reduce exchanges whole: it takes scratch memory of the buffer's size.
const maxDoubled = 256 << 10

// maxExact is the largest group in which narrow sums are rounded once: the direct algorithms, which fold all versions at
// once, connect every member with every other.
const maxExact = 64

// An Estimate is what the cost model expects of an algorithm. Messages and Bytes are what the busiest member sends or what it
// receives, whichever is more; what members read in common memory does not count.
type Estimate struct {
	Operation string
	Algorithm Algorithm
	Steps     int // messages that follow one another
	Messages  int
	Bytes     int
	Time      time.Duration
}

// A Case is what the cost model is asked about.
type Case struct {
	Operation string // such as "all-reduce"
	Members   int
	Hosts     int // the members lie on hosts in equal numbers, neighbours together
	Bytes     int // of the buffer, all parts together
	// Memory says that the members on each of several hosts share its memory. (Groups on one host that do need no algorithm.)
	Memory bool
	// AnyOrder is Options.AnyOrder.
	AnyOrder bool
}

// Estimates returns the algorithms that the case allows, the one that a group would choose first.
func Estimates(c Case) ([]Estimate, error) {
	kind := operationKind(slices.Index(operationNames[:], c.Operation))
	if c.Operation == "" || c.Members < 1 || c.Hosts < 1 || c.Members%c.Hosts != 0 || c.Bytes < 0 || kind == opTransfer || kind >= operationKinds {
		return nil, fmt.Errorf("no algorithm for %s of %d bytes over %d members on %d hosts", c.Operation, c.Bytes, c.Members, c.Hosts)
	}
	hosts := make([]int, c.Members)
	for i := range hosts {
		hosts[i] = i / (c.Members / c.Hosts)
	}
	q := question{kind: kind, bytes: c.Bytes, members: c.Members, topology: newTopology(hosts), anyOrder: c.AnyOrder}
	q.topology.memory = c.Memory
	var all []Estimate
	for a := range q.candidates().all {
		all = append(all, q.estimate(a))
	}
	slices.SortStableFunc(all, func(a, b Estimate) int { return int(a.Time - b.Time) })
	return all, nil
}

// A question is what the choice of an algorithm depends on. It is the same on all members.
type question struct {
	kind     operationKind
	bytes    int
	members  int
	topology topology
	anyOrder bool // whether reductions may be in another order than the tree's
	narrow   bool // whether partial sums must not be rounded
}

// choose returns the algorithm for an operation.
func (g *group) choose(w *work) (Algorithm, error) {
	q := question{kind: w.kind, bytes: w.total, members: len(g.ranks), topology: g.topology, anyOrder: g.world.o.AnyOrder}
	narrow := w.reduction.DType == device.BFloat16 || w.reduction.DType == device.Float16
	q.narrow = w.kind.reduces() && w.reduction.Op == Sum && narrow && q.members <= maxExact
	return g.world.pick(q)
}

// pick returns the algorithm that the user forces, where the operation has it, else the fastest.
func (w *World) pick(q question) (Algorithm, error) {
	allowed := q.candidates()
	if forced := w.o.Algorithm; forced != Auto && !q.narrow && q.members > 1 {
		anyOrder := q
		anyOrder.anyOrder = true
		switch {
		case allowed.has(forced):
			return forced, nil
		case anyOrder.candidates().has(forced):
			return Auto, fmt.Errorf("%v by %v would change the order of the sum, which must be the aligned tree's; use another algorithm or allow any order", q.kind, forced)
		}
	}
	var best Estimate
	for a := range allowed.all {
		if e := q.estimate(a); best.Algorithm == Auto || e.Time < best.Time {
			best = e
		}
	}
	return best.Algorithm, nil
}

// An algorithmSet has a bit for each algorithm in it.
type algorithmSet uint

func setOf(algorithms ...Algorithm) (s algorithmSet) {
	for _, a := range algorithms {
		s |= 1 << a
	}
	return s
}

func (s algorithmSet) has(a Algorithm) bool { return s>>a&1 != 0 }

// all yields the algorithms in the set, in the order of their constants.
func (s algorithmSet) all(yield func(Algorithm) bool) {
	for a := Auto; a < algorithms; a++ {
		if s.has(a) && !yield(a) {
			return
		}
	}
}

// candidates returns the algorithms that give the right result.
func (q question) candidates() algorithmSet {
	spans := q.topology.hosts > 1 && q.topology.hosts < q.members
	switch q.kind {
	case opAllReduce, opReduceScatter, opReduce:
		return q.reducing(spans)
	case opAllGather:
		if spans && q.topology.blocks {
			return setOf(Doubling, Direct, Ring, TwoLevel)
		}
		return setOf(Doubling, Direct, Ring)
	case opBroadcast:
		if spans {
			return setOf(Tree, Ring, TwoLevel)
		}
		return setOf(Tree, Ring)
	case opScatter, opGather:
		return setOf(Tree, Direct)
	case opAllToAll, opAllToAllV:
		return setOf(Pairwise)
	}
	return setOf(Doubling) // barrier, host data
}

// reducing returns the candidates of a reduction, in a group that may have several members on each of several hosts.
func (q question) reducing(spans bool) algorithmSet {
	s := setOf(Halving, Direct)
	switch {
	case q.narrow:
		return setOf(Direct)
	case q.kind == opReduce:
		return s | setOf(Tree)
	case q.anyOrder:
		s |= setOf(Ring)
	}
	if q.kind == opAllReduce && q.bytes <= maxDoubled {
		s |= setOf(Doubling)
	}
	if spans && (q.topology.aligned || q.anyOrder && (q.topology.blocks || q.kind == opAllReduce)) {
		s |= setOf(TwoLevel)
	}
	return s
}

// acrossAlgorithm returns the algorithm of the upper level of a two-level all-reduce of n bytes.
func (g *group) acrossAlgorithm(n int) Algorithm {
	return across(n, g.topology.hosts).Algorithm
}
