package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPipelineProblems gives testdata/valid.toml, a model of two layers with 8 micro batches, layouts of stages that it cannot have.
func TestPipelineProblems(t *testing.T) {
	table := filepath.Join(t.TempDir(), "table.csv")
	if err := os.WriteFile(table, []byte("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.csv")
	if err := os.WriteFile(bad, []byte("0F0,0B0\n1B0,1F0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		world     int
		overrides string
		want      []string
	}{
		{3, "parallel.pipeline=2", []string{"parallel.pipeline: 2 does not divide the 3 ranks of the job that are left for it; use 1 or 3"}},
		{4, "parallel.pipeline=4", []string{"parallel.pipeline: 4 chunks of layers are more than the model's 2 layers; use at most 2"}},
		{2, "parallel.pipeline=2 parallel.pipeline_schedule=zbv", []string{`did you mean "zb-v"?`}},
		{2, "parallel.pipeline=2 parallel.pipeline_schedule=interleaved-1f1b", []string{"parallel.virtual_stages: \"interleaved-1f1b\" needs 2 or more chunks"}},
		{2, "parallel.pipeline=2 parallel.virtual_stages=2", []string{`parallel.virtual_stages: "1f1b" has 1 on each rank, not 2`}},
		{1, "parallel.pipeline_schedule=dualpipe-v train.global_batch_size=1", []string{`"dualpipe-v" of 1 stages needs 2 micro batches on each data rank, and the batch has 1; use train.global_batch_size = 2 or more`}},
		{2, "parallel.pipeline=2 parallel.stage_layers=[2]", []string{"parallel.stage_layers: has 1 numbers for 2 chunks"}},
		{2, "parallel.pipeline=2 parallel.stage_layers=[2,1]", []string{"parallel.stage_layers: makes 3 layers, and the model has 2; use numbers that make 2"}},
		{3, "parallel.pipeline=3 parallel.stage_layers=[1,0,1]", []string{"parallel.stage_layers: chunk 1 has no layer, and neither embedding nor head"}},
		{3, "parallel.pipeline=3 parallel.stage_layers=auto", []string{"parallel.pipeline: 3 chunks of layers are more than the model's 2"}},
		{2, "parallel.pipeline=2 parallel.stage_layers=[1,x]", []string{"parallel.stage_layers"}},
		{2, "parallel.pipeline=2 parallel.pipeline_schedule=" + table, []string{"train.global_batch_size: 8 is 8 micro batches on each data rank, but " + table + " has 2; use 2"}},
		{3, "parallel.pipeline=3 parallel.stage_layers=[1,1,0] train.global_batch_size=2 parallel.pipeline_schedule=" + table,
			[]string{"parallel.pipeline: 3 stages, but " + table + " has rows for 2; use 2"}},
		{2, "parallel.pipeline=2 parallel.pipeline_schedule=" + bad, []string{"deadlocks: rank 0 waits at action 1 (0B0)"}},
	} {
		o := options(t, "testdata/valid.toml")
		o.World, o.Overrides = c.world, strings.Fields(c.overrides)
		_, problems := Load(o)
		for _, want := range c.want {
			if !strings.Contains(problems.String(), want) {
				t.Errorf("%d ranks, %s: %vwant %q", c.world, c.overrides, problems, want)
			}
		}
	}
}

func TestPipelineConfigurations(t *testing.T) {
	table := filepath.Join(t.TempDir(), "table.csv")
	if err := os.WriteFile(table, []byte("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		overrides     []string
		chunks, lists int
		layers        []int
	}{
		{[]string{"parallel.pipeline=2"}, 2, 2, []int{1, 1}},
		{[]string{"parallel.pipeline=2", "parallel.stage_layers=[0,2]"}, 2, 2, []int{0, 2}},
		{[]string{"parallel.pipeline_schedule=zb-v"}, 2, 1, []int{1, 1}},
		{[]string{"parallel.pipeline=2", "train.global_batch_size=2", "parallel.pipeline_schedule=" + table}, 2, 2, []int{1, 1}},
	} {
		config := load(t, 2, c.overrides...)
		s := config.Schedules(config.MicroBatches() / config.Parallel.Data)
		if n := s.NumChunks(); n != c.chunks || len(s) != c.lists {
			t.Errorf("%q: %d chunks on %d ranks, want %d on %d", c.overrides, n, len(s), c.chunks, c.lists)
		}
		if layers := config.ChunkLayers(c.chunks, nil); !slices.Equal(layers, c.layers) {
			t.Errorf("%q: chunks of %v layers, want %v", c.overrides, layers, c.layers)
		}
	}
}
