package config

import (
	"fmt"
	"strings"
)

// ContextSizes returns over how many ranks keys and values go round, and over how many ranks tokens are exchanged for heads.
// Their product is Parallel.Context.
func (c *Config) ContextSizes() (ring, ulysses int) {
	p := c.Parallel
	switch {
	case p.Context == 1 || p.ContextAlgorithm == "ring":
		return p.Context, 1
	case p.ContextAlgorithm == "ulysses":
		return 1, p.Context
	}
	return p.Context / p.Ulysses, p.Ulysses
}

// checkContext checks that context ranks can share the model's heads and the tokens of a sample.
func (l *loader) checkContext() {
	p := &l.config.Parallel
	if !l.usable("parallel.context", "parallel.context_algorithm", "parallel.ulysses", "parallel.tensor") {
		return
	}
	if p.Ulysses > 0 && (p.Context == 1 || p.ContextAlgorithm != "hybrid") {
		l.problem("parallel.ulysses", "is not used", `remove it, or set parallel.context, and parallel.context_algorithm to "hybrid"`)
		return
	}
	if p.Context == 1 {
		return
	}
	l.checkContextOrder()
	if p.ContextAlgorithm == "hybrid" && !l.checkDegree() {
		return
	}
	_, ulysses := l.config.ContextSizes()
	if !l.sharesHeads(ulysses, true) {
		key, legal := "parallel.context", l.degrees(0, true)
		if p.ContextAlgorithm == "hybrid" {
			key, legal = "parallel.ulysses", l.degrees(p.Context, true)
		}
		l.problem(key, fmt.Sprintf("%d ranks cannot share %s evenly", ulysses, l.heads()), alternatives("", legal)+`parallel.context_algorithm = "ring"`)
		return
	}
	l.checkSampleCut()
}

// checkContextOrder checks that gradients are added up in an order that does not depend on the number of data ranks: over a number of
// context ranks that is a power of two.
func (l *loader) checkContextOrder() {
	n := l.config.Parallel.Context
	if !l.usable("run.deterministic") || l.config.Run.Deterministic != "layout" || n&(n-1) == 0 {
		return
	}
	if l.set["run.deterministic"] {
		l.problem("run.deterministic", fmt.Sprintf(`"layout" needs a power of two of context ranks, not %d`, n), `use "run", the same bits on this number of ranks only`)
		return
	}
	l.config.Run.Deterministic = "run"
	l.note("run.deterministic", "%d context ranks are no power of two: falling back to \"run\", the same bits on this number of ranks only", n)
}

// checkDegree completes and checks parallel.ulysses, and reports whether there is a usable one.
func (l *loader) checkDegree() bool {
	p := &l.config.Parallel
	if p.Ulysses == 0 {
		legal := l.degrees(p.Context, false)
		if len(legal) == 0 {
			l.problem("parallel.context_algorithm", fmt.Sprintf(`"hybrid" takes groups of some of the %d context ranks, and none can share %s evenly without copies`, p.Context, l.heads()),
				alternatives("parallel.ulysses = ", l.degrees(p.Context, true))+`parallel.context_algorithm = "ring"`)
			return false
		}
		p.Ulysses = legal[len(legal)-1]
	}
	if u := p.Ulysses; p.Context%u != 0 || u == 1 || u == p.Context {
		l.problem("parallel.ulysses", fmt.Sprintf("%d is not a divisor of parallel.context = %d between 1 and that", u, p.Context),
			alternatives("", l.degrees(p.Context, true))+`parallel.context_algorithm = "ring" or "ulysses"`)
		return false
	}
	return true
}

// heads describes what the context ranks share, which is what one tensor rank has.
func (l *loader) heads() string {
	q, kv := l.headsPerRank()
	return fmt.Sprintf("%d heads of queries and %d of keys and values", q, kv)
}

func (l *loader) headsPerRank() (q, kv int) {
	a, tensor := l.config.Architecture, l.config.Parallel.Tensor
	if q = a.NumAttentionHeads / tensor; a.Latent != nil {
		return q, q
	}
	return q, max(a.NumKeyValueHeads/tensor, 1)
}

// sharesHeads reports whether ranks can share the heads, or those of keys and values with copies.
func (l *loader) sharesHeads(ranks int, copies bool) bool {
	q, kv := l.headsPerRank()
	return q%ranks == 0 && (kv%ranks == 0 || copies && ranks%kv == 0)
}

// degrees lists the numbers of ranks above 1 that can share the heads and, unless of is 0, are proper divisors of it.
func (l *loader) degrees(of int, copies bool) (list []int) {
	q, _ := l.headsPerRank()
	for u := 2; u <= q; u++ {
		if l.sharesHeads(u, copies) && (of == 0 || u < of && of%u == 0) {
			list = append(list, u)
		}
	}
	return list
}

// alternatives begins a remedy with the legal values of a key, if there are any.
func alternatives(key string, legal []int) string {
	if len(legal) == 0 {
		return "use "
	}
	return "use " + key + list(strings.Fields(strings.Trim(fmt.Sprint(legal), "[]"))) + ", or "
}

// checkSampleCut checks that the tokens of a sample fall into equal pieces.
func (l *loader) checkSampleCut() {
	if !l.usable("data.sequence_length") {
		return
	}
	ring, ulysses := l.config.ContextSizes()
	unit := ring * ulysses
	if ring > 1 && ulysses%2 == 1 {
		unit *= 2 // each of the ring has two pieces
	}
	if n := l.config.Data.SequenceLength; n%unit != 0 {
		l.problem("data.sequence_length", fmt.Sprintf("%d tokens cannot be cut for parallel.context = %d with context_algorithm = %q, which takes a multiple of %d",
			n, l.config.Parallel.Context, l.config.Parallel.ContextAlgorithm, unit), "use "+neighbours(n, unit))
	}
}
