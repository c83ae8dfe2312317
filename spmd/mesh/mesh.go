// Package mesh places the ranks of a job in a grid of parallelisms and says which ranks communicate with which.
//
// The grid has four axes. Ranks are numbered with the tensor axis fastest, then context, data and pipeline: the axes that
// exchange most per step connect neighbouring ranks, which share a host. World = tensor x context x data x pipeline.
package mesh

import (
	"fmt"
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

// A Mesh is the grid as one rank sees it.
type Mesh struct {
	Rank int
	size [axes]int
}

// New returns the mesh of a rank; sizes are indexed by Axis and at least 1.
func New(rank int, tensor, context, data, pipeline int) (Mesh, error) {
	m := Mesh{Rank: rank, size: [axes]int{tensor, context, data, pipeline}}
	if rank < 0 || rank >= m.World() {
		return m, fmt.Errorf("mesh: rank %d is outside a mesh of %d ranks", rank, m.World())
	}
	return m, nil
}

// World returns the number of ranks.
func (m Mesh) World() int {
	n := 1
	for _, s := range m.size {
		n *= s
	}
	return n
}

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

// Group returns the ranks that differ from this one along one axis only, in order, this one included.
func (m Mesh) Group(a Axis) []int {
	ranks := make([]int, m.size[a])
	for i := range ranks {
		ranks[i] = m.Rank + (i-m.Coordinate(a))*m.stride(a)
	}
	return ranks
}

// String describes the grid, such as "4 ranks = data 4".
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
	return fmt.Sprintf("%d ranks = %s", m.World(), strings.Join(parts, " x "))
}
