package mesh

import (
	"slices"
	"testing"
)

var sizes = Sizes{Tensor: 2, Context: 3, Data: 4, Pipeline: 2, Expert: 4}

// all returns the mesh as each rank sees it.
func all(t *testing.T, s Sizes) (list []Mesh) {
	for rank := range s.Tensor * s.Context * s.Data * s.Pipeline {
		m, err := New(rank, s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

func TestGroupsPartitionTheWorld(t *testing.T) {
	world := all(t, sizes)
	groups := map[string]func(Mesh) (ranks []int, at, size int){
		"experts":         func(m Mesh) ([]int, int, int) { return m.ExpertGroup(), m.ExpertCoordinate(), 4 },
		"expert replicas": func(m Mesh) ([]int, int, int) { return m.ExpertReplicas(), m.Rank % 24 / 4, 6 },
		"context neighbours": func(m Mesh) ([]int, int, int) {
			near, _ := m.ContextGroups(3)
			return near, m.Coordinate(Context), 3
		},
		"context ranks of one place": func(m Mesh) ([]int, int, int) {
			_, far := m.ContextGroups(1)
			return far, m.Coordinate(Context), 3
		},
		"replicas": func(m Mesh) ([]int, int, int) {
			return m.Replicas(), m.Coordinate(Context)*4 + m.Coordinate(Data), 12
		},
		"tensor replicas": func(m Mesh) ([]int, int, int) {
			return m.TensorReplicas(2), m.Coordinate(Tensor)*12 + m.Coordinate(Context)*4 + m.Coordinate(Data), 24
		},
		"one tensor rank's replicas": func(m Mesh) ([]int, int, int) {
			return m.TensorReplicas(1), m.Coordinate(Context)*4 + m.Coordinate(Data), 12
		},
	}
	for a := Tensor; a <= Pipeline; a++ {
		groups[a.String()] = func(m Mesh) ([]int, int, int) { return m.Ranks(a), m.Coordinate(a), m.Size(a) }
	}
	for name, group := range groups {
		for _, m := range world {
			g, at, size := group(m)
			if len(g) != size || g[at] != m.Rank {
				t.Fatalf("rank %d: group %v of %s, size %d, position %d", m.Rank, g, name, size, at)
			}
			for _, other := range g {
				if o, _, _ := group(world[other]); !slices.Equal(o, g) {
					t.Errorf("ranks %d and %d disagree on their group of %s", m.Rank, other, name)
				}
			}
		}
	}
}

func TestTensorNeighboursAreAdjacent(t *testing.T) {
	m, err := New(5, Sizes{4, 1, 2, 1, 8})
	if err != nil {
		t.Fatal(err)
	}
	if g := m.Ranks(Tensor); !slices.Equal(g, []int{4, 5, 6, 7}) {
		t.Errorf("tensor group of rank 5 is %v", g)
	}
	if g := m.Ranks(Data); !slices.Equal(g, []int{1, 5}) {
		t.Errorf("data group of rank 5 is %v", g)
	}
	if s := m.String(); s != "8 ranks = data 2 x tensor 4, experts over 8" {
		t.Errorf("String() = %q", s)
	}
}

func TestImpossibleMeshes(t *testing.T) {
	if _, err := New(8, Sizes{4, 1, 2, 1, 1}); err == nil {
		t.Error("rank 8 of 8 was accepted")
	}
	if _, err := New(0, Sizes{2, 1, 3, 2, 4}); err == nil {
		t.Error("experts over 4 of 6 ranks were accepted")
	}
}
