package model

import (
	"slices"
	"strings"
)

// A Cost is the arithmetic that a layer does for a micro batch on this rank, in multiply-adds of products and of attention; what
// else it does grows with the number of its activations alone. Experts count as if their load were even.
type Cost struct{ Forward, Input, Weight int }

// Plus returns the sum.
func (c Cost) Plus(o Cost) Cost {
	return Cost{c.Forward + o.Forward, c.Input + o.Input, c.Weight + o.Weight}
}

// Total returns that of all passes.
func (c Cost) Total() int { return c.Forward + c.Input + c.Weight }

// Costs returns the cost of each layer. recompute is Placement.Layers.
func (m *Model) Costs(size Size, recompute []Recompute) []Cost {
	costs := make([]Cost, len(m.Layers))
	for i, l := range m.Layers {
		for _, b := range blocksOf(l) {
			costs[i] = costs[i].Plus(m.blockCost(b, size, recompute[i]))
		}
		if h, ok := l.(*head); ok {
			costs[i] = costs[i].Plus(m.headCost(h, size))
		}
	}
	return costs
}

// blockCost returns the cost of a transformer layer.
func (m *Model) blockCost(b *block, size Size, r Recompute) (c Cost) {
	again := 0 // what is computed again before the backward pass
	for _, u := range b.Uses() {
		n := size.Tokens() * m.rowsPerToken(b, u)
		c.Forward, c.Input = c.Forward+n, c.Input+n
		if u.trained() {
			c.Weight += n
		}
		last := strings.HasSuffix(u.Parameters[0].Name, ".down_proj.weight")
		if r == RecomputeFull && !last || r == RecomputeSelective && !last && !strings.HasSuffix(u.Parameters[0].Name, ".o_proj.weight") {
			again += n
		}
	}
	scores := m.attentionCost(size)
	c.Forward += scores
	c.Input += scores * 5 / 2 // the products of queries and keys once more, and two for each of the forward pass
	if r == RecomputeFull {
		again += scores
	}
	c.Input += again
	return c
}

// rowsPerToken returns the multiply-adds of a use's product for a token.
func (m *Model) rowsPerToken(b *block, u *Use) int {
	if len(u.shape) != 2 {
		return 0
	}
	if x, ok := b.feedForward.(*mixture); ok && (u == x.gateUp || u == x.down) {
		return x.Route.TopK * u.elements() / x.held
	}
	return u.elements()
}

// attentionCost returns that of the products of queries with keys, and of what attends with values; the causal half of them.
func (m *Model) attentionCost(size Size) int {
	c := m.Config
	width := 2 * c.HeadDim
	if l := c.Latent; l != nil {
		width = l.PlainDim + l.RotaryDim + l.ValueDim
	}
	return size.Tokens() * size.Whole() / 2 * width * c.NumAttentionHeads / m.Partition.tensor()
}

// headCost returns that of the output projection, whose gradients the forward pass computes, and of what modules of multi-token
// prediction have besides their transformer layer.
func (m *Model) headCost(h *head, size Size) (c Cost) {
	product := size.Tokens() * h.output.weight.elements() * (1 + len(h.predictors))
	c.Forward = 2 * product
	if h.output.weight.trained() {
		c.Forward += product
	}
	for _, p := range h.predictors {
		n := size.Tokens() * p.project.weight.elements()
		c = c.Plus(Cost{n, n, n})
	}
	return c
}

// Balanced cuts the transformer layers in chunks so that the most expensive one, with what it has of embedding and head, costs as little
// as possible, and returns the number of layers of each. Among several ways it takes the one whose earlier chunks are the longer ones.
func Balanced(costs []Cost, chunks int) []int {
	n := len(costs) - 2               // without embedding and head
	total := func(from, to int) int { // of transformer layers
		first, last := from+1, to+1
		if from == 0 {
			first = 0
		}
		if to == n {
			last = len(costs)
		}
		sum := 0
		for _, c := range costs[first:last] {
			sum += c.Total()
		}
		return sum
	}
	fits := func(most int) (counts []int) {
		at := 0
		for chunk := range chunks {
			to := at + 1
			for to < n-(chunks-1-chunk) && total(at, to+1) <= most {
				to++
			}
			if chunk == chunks-1 {
				to = n
			}
			if total(at, to) > most {
				return nil
			}
			counts, at = append(counts, to-at), to
		}
		return counts
	}
	var bounds []int // the cost of every run of layers: one of them is the answer
	for from := range n {
		for to := from + 1; to <= n; to++ {
			bounds = append(bounds, total(from, to))
		}
	}
	slices.Sort(bounds)
	i, _ := slices.BinarySearchFunc(bounds, 0, func(most, _ int) int {
		if fits(most) == nil {
			return -1
		}
		return 1
	})
	return fits(bounds[i])
}
