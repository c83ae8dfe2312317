package mesh

import (
	"slices"
	"testing"
)

func TestGroupsPartitionTheWorld(t *testing.T) {
	const tensor, context, data, pipeline = 2, 3, 4, 2
	for a := Tensor; a <= Pipeline; a++ {
		seen := map[int]int{}
		for rank := range tensor * context * data * pipeline {
			m, err := New(rank, tensor, context, data, pipeline)
			if err != nil {
				t.Fatal(err)
			}
			g := m.Group(a)
			if len(g) != m.Size(a) || g[m.Coordinate(a)] != rank {
				t.Fatalf("rank %d: group %v along %v, size %d, coordinate %d", rank, g, a, m.Size(a), m.Coordinate(a))
			}
			for _, other := range g {
				o, _ := New(other, tensor, context, data, pipeline)
				if !slices.Equal(o.Group(a), g) {
					t.Errorf("ranks %d and %d disagree on their %v group", rank, other, a)
				}
			}
			seen[rank] += len(g)
		}
		for rank, n := range seen {
			if n != (Mesh{size: [axes]int{tensor, context, data, pipeline}}).Size(a) {
				t.Errorf("rank %d is in %d places along %v", rank, n, a)
			}
		}
	}
}

func TestTensorNeighboursAreAdjacent(t *testing.T) {
	m, err := New(5, 4, 1, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	if g := m.Group(Tensor); !slices.Equal(g, []int{4, 5, 6, 7}) {
		t.Errorf("tensor group of rank 5 is %v", g)
	}
	if g := m.Group(Data); !slices.Equal(g, []int{1, 5}) {
		t.Errorf("data group of rank 5 is %v", g)
	}
	if s := m.String(); s != "8 ranks = data 2 x tensor 4" {
		t.Errorf("String() = %q", s)
	}
	if _, err := New(8, 4, 1, 2, 1); err == nil {
		t.Error("rank 8 of 8 was accepted")
	}
}
