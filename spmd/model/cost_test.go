package model_test

import (
	"slices"
	"testing"

	"lockstep/spmd/model"
)

// TestCosts compares the costs of a model with its known numbers of multiply-adds.
func TestCosts(t *testing.T) {
	c, problems := model.ParseConfig(map[string]any{"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": false})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	m := model.New(c, model.Partition{})
	const tokens, length = 2 * 32, 32
	size := model.Size{Batch: 2, Sequence: length}
	qkv, o, mlp := (64+2*32)*64, 64*64, 3*64*128
	scores := tokens * length / 2 * 64 * 2
	block := model.Cost{Forward: tokens*(qkv+o+mlp) + scores, Input: tokens*(qkv+o+mlp) + scores*5/2, Weight: tokens * (qkv + o + mlp)}
	head := model.Cost{Forward: 3 * tokens * 64 * 1000}
	if got, want := m.Costs(size, make([]model.Recompute, 4)), []model.Cost{{}, block, block, head}; !slices.Equal(got, want) {
		t.Errorf("costs %+v, want %+v", got, want)
	}
	full := block
	full.Input += tokens*(qkv+o+mlp*2/3) + scores
	selective := block
	selective.Input += tokens * (qkv + mlp*2/3)
	got := m.Costs(size, []model.Recompute{0, model.RecomputeFull, model.RecomputeSelective, 0})
	if want := []model.Cost{{}, full, selective, head}; !slices.Equal(got, want) {
		t.Errorf("costs %+v, want %+v", got, want)
	}
}

func TestBalanced(t *testing.T) {
	one := model.Cost{Forward: 1, Input: 1, Weight: 1}
	costs := func(blocks int, head int) []model.Cost {
		list := append([]model.Cost{{}}, slices.Repeat([]model.Cost{one}, blocks)...)
		return append(list, model.Cost{Forward: head})
	}
	for _, c := range []struct {
		costs  []model.Cost
		chunks int
		want   []int
	}{
		{costs(8, 0), 4, []int{2, 2, 2, 2}},
		{costs(8, 6), 2, []int{5, 3}},
		{costs(8, 6), 4, []int{3, 3, 1, 1}},
		{costs(8, 100), 4, []int{5, 1, 1, 1}},
		{costs(3, 0), 1, []int{3}},
	} {
		if got := model.Balanced(c.costs, c.chunks); !slices.Equal(got, c.want) {
			t.Errorf("%d layers with a head of %d in %d chunks: %v, want %v", len(c.costs)-2, c.costs[len(c.costs)-1].Forward, c.chunks, got, c.want)
		}
	}
}
