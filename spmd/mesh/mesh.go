// Package mesh places the ranks of a job in a grid of parallelisms and says which ranks communicate with which.
//
// The grid has four axes. Ranks are numbered with the tensor axis fastest, then context, data and pipeline: the axes that
// exchange most per step connect neighbouring ranks, which share a host. World = tensor x context x data x pipeline.
//
// Experts have no axis of their own: they are spread over ranks that hold the same layers. The ranks of a pipeline stage are
// cut into blocks of neighbours; a block holds all experts, and the ranks at the same place in all blocks hold the same ones.
package mesh

import (
	"fmt"
	"slices"
	"strings"
)

// An Axis is a kind of parallelism.
type Axis int

// The axes, fastest first.
const (
	Tensor Axis = iota
	Context
	Data
	Pipeline
	axes
)

var names = [axes]string{"tensor", "context", "data", "pipeline"}

// String returns the axis's key in [parallel].
func (a Axis) String() string { return names[a] }

// Sizes are the numbers of ranks along the axes, and how many of them share the experts; all are at least 1.
type Sizes struct{ Tensor, Context, Data, Pipeline, Expert int }

// A Mesh is the grid as one rank sees it.
type Mesh struct {
	Rank   int
	size   [axes]int
	expert int
}

// New returns the mesh of a rank.
func New(rank int, s Sizes) (Mesh, error) {
	m := Mesh{Rank: rank, size: [axes]int{s.Tensor, s.Context, s.Data, s.Pipeline}, expert: s.Expert}
	if rank < 0 || rank >= m.World() {
		return m, fmt.Errorf("mesh: rank %d is outside a mesh of %d ranks", rank, m.World())
	}
	if stage := m.stride(Pipeline); s.Expert < 1 || stage%s.Expert != 0 {
		return m, fmt.Errorf("mesh: experts cannot be spread over %d of the %d ranks that hold the same layers", s.Expert, stage)
	}
	return m, nil
}

// World returns the number of ranks.
func (m Mesh) World() int { return m.stride(axes) }

// Size returns the number of ranks along an axis.
func (m Mesh) Size(a Axis) int { return m.size[a] }

// Coordinate returns this rank's position along an axis.
func (m Mesh) Coordinate(a Axis) int { return m.Rank / m.stride(a) % m.size[a] }

// stride returns the distance in rank numbers between neighbours along an axis.
func (m Mesh) stride(a Axis) int {
	n := 1
	for _, s := range m.size[:a] {
		n *= s
	}
	return n
}

// With returns the mesh as the rank sees it that has another position along an axis, and is where this one is along the others.
func (m Mesh) With(a Axis, coordinate int) Mesh {
	m.Rank += (coordinate - m.Coordinate(a)) * m.stride(a)
	return m
}

// Ranks returns the ranks that differ from this one along the given axes only, in order, this one included.
func (m Mesh) Ranks(along ...Axis) []int {
	ranks := []int{m.Rank}
	for _, a := range along {
		var more []int
		for _, r := range ranks {
			for i := range m.size[a] {
				more = append(more, r+m.With(a, i).Rank-m.Rank)
			}
		}
		ranks = more
	}
	slices.Sort(ranks)
	return ranks
}

// ContextGroups cuts the ranks that share samples, Ranks(Context), in groups of the given number of neighbours, which divides them:
// this rank's group, and the ranks that are at its place in theirs.
func (m Mesh) ContextGroups(size int) (neighbours, others []int) {
	at := m.Coordinate(Context)
	for i := range size {
		neighbours = append(neighbours, m.With(Context, at-at%size+i).Rank)
	}
	for i := range m.size[Context] / size {
		others = append(others, m.With(Context, at%size+i*size).Rank)
	}
	return neighbours, others
}

// Replicas returns the ranks that hold the same dense weights as this one and work on other tokens: those that add up
// their gradients. They are the data ranks of the first context rank, then those of the next, and so on: a sum in this order
// adds up over data ranks first, as one data rank does over its micro batches.
func (m Mesh) Replicas() []int {
	var ranks []int
	for c := range m.size[Context] {
		ranks = append(ranks, m.With(Context, c).Ranks(Data)...)
	}
	return ranks
}

// TensorReplicas returns the ranks that hold the same weights where each n neighbours of a tensor group have them in common: the
// Replicas of the first of these n, then those of the next, and so on. A sum in this order adds up over Replicas first, as one
// does that is not shared.
func (m Mesh) TensorReplicas(n int) []int {
	var ranks []int
	first := m.Coordinate(Tensor) / n * n
	for i := range n {
		ranks = append(ranks, m.With(Tensor, first+i).Replicas()...)
	}
	return ranks
}

// ExpertSize returns over how many ranks the experts are spread, ExpertCoordinate which of their parts this rank holds.
func (m Mesh) ExpertSize() int { return m.expert }

// ExpertCoordinate returns this rank's position in its ExpertGroup.
func (m Mesh) ExpertCoordinate() int { return m.Rank % m.expert }

// ExpertGroup returns the ranks that together hold all experts, and send each other tokens.
func (m Mesh) ExpertGroup() []int {
	ranks := make([]int, m.expert)
	for i := range ranks {
		ranks[i] = m.Rank - m.ExpertCoordinate() + i
	}
	return ranks
}

// ExpertReplicas returns the ranks that hold the same experts as this one: those that add up their gradients.
func (m Mesh) ExpertReplicas() []int {
	stage := m.stride(Pipeline)
	first := m.Rank/stage*stage + m.ExpertCoordinate()
	ranks := make([]int, stage/m.expert)
	for i := range ranks {
		ranks[i] = first + i*m.expert
	}
	return ranks
}

// String describes the grid, such as "8 ranks = data 4 x tensor 2, experts over 4".
func (m Mesh) String() string {
	var parts []string
	for a := axes - 1; a >= 0; a-- {
		if m.size[a] > 1 {
			parts = append(parts, fmt.Sprintf("%s %d", a, m.size[a]))
		}
	}
	if len(parts) == 0 {
		return "1 rank"
	}
	text := fmt.Sprintf("%d ranks = %s", m.World(), strings.Join(parts, " x "))
	if m.expert > 1 {
		text += fmt.Sprintf(", experts over %d", m.expert)
	}
	return text
}
