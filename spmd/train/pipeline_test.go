package train_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/spmd/monitor"
)

// allPipelines makes the tests of pipelines run every schedule on up to eight ranks, and with all other parallelism.
var allPipelines = flag.Bool("pipelines", false, "test every pipeline schedule with 2, 4 and 8 stages and 4 to 16 micro batches")

// A pipelineCase is a model and the layouts of ranks that train it, which all give the numbers of one rank.
type pipelineCase struct {
	family               string
	layers, microBatches int
	overrides            []string
	runs                 []pipelineRun
}

// A pipelineRun is a layout with stages.
type pipelineRun struct {
	schedule     string
	stages, data int
	overrides    []string
}

// pipelineCases covers with few runs: every schedule, tied and untied tables, experts with a loss over all layers, modules of
// multi-token prediction whose table is on another rank, documents, uneven stages, recomputation, and data ranks beside the stages.
func pipelineCases() []pipelineCase {
	two := []string{"parallel.virtual_stages=2"}
	deepseek := []string{"moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01", "train.mtp_loss_weight=0.3",
		"model.overrides.num_nextn_predict_layers=2"}
	return []pipelineCase{
		{"llama", 4, 4, nil, []pipelineRun{{"gpipe", 4, 1, nil}, {"zb-h1", 2, 2, nil}, {"dualpipe-v", 2, 1, []string{"recompute.mode=full"}}, {"interleaved-1f1b", 2, 1, two}}},
		{"qwen3", 3, 8, append([]string{"data.paths=testdata/golden/documents"}, documentMasks...),
			[]pipelineRun{{"1f1b", 2, 2, nil}, {"zb-h1", 3, 1, []string{"parallel.stage_layers=[0,3,0]", "recompute.mode=selective"}}}},
		{"qwen3_moe", 4, 4, nil, []pipelineRun{{"1f1b", 4, 1, nil}, {"zb-v", 2, 1, nil}}},
		{"qwen3_moe", 3, 4, append([]string{"data.paths=testdata/golden/documents", "data.packing=best-fit"}, documentMasks...), []pipelineRun{{"1f1b", 3, 1, nil}}},
		{"deepseek_v3", 3, 4, deepseek, []pipelineRun{{"1f1b", 3, 1, nil}}},
		{"deepseek_v3", 2, 4, append(deepseek, "model.overrides.tie_word_embeddings=true", "train.dtype=bfloat16"), []pipelineRun{{"1f1b", 2, 1, nil}}},
	}
}

// everyPipeline returns a case for each model and number of micro batches with all schedules on 2, 4 and 8 ranks.
func everyPipeline() (cases []pipelineCase) {
	for _, family := range []string{"llama", "qwen3", "qwen3_moe", "deepseek_v3"} {
		for _, microBatches := range []int{4, 8, 16} {
			c := pipelineCase{family: family, layers: 8, microBatches: microBatches}
			for _, stages := range []int{2, 4, 8} {
				for _, data := range []int{1, 2, 4} {
					if stages*data > 8 || microBatches/data < 2 {
						continue
					}
					for _, schedule := range []string{"gpipe", "1f1b", "zb-h1", "zb-v", "dualpipe-v", "interleaved-1f1b"} {
						chunks := map[string]int{"zb-v": 2, "dualpipe-v": 2, "interleaved-1f1b": 2}[schedule]
						if max(1, chunks)*stages > c.layers || schedule == "dualpipe-v" && microBatches/data < 2*stages {
							continue
						}
						r := pipelineRun{schedule: schedule, stages: stages, data: data}
						if schedule == "interleaved-1f1b" {
							r.overrides = []string{"parallel.virtual_stages=2"}
						}
						c.runs = append(c.runs, r)
					}
				}
			}
			cases = append(cases, c)
		}
	}
	return cases
}

// TestPipelinesGiveTheSameBits trains models of each kind through stages of ranks.
func TestPipelinesGiveTheSameBits(t *testing.T) {
	cases := pipelineCases()
	if *allPipelines {
		cases = append(cases, everyPipeline()...)
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s with %d layers and %d micro batches", c.family, c.layers, c.microBatches), func(t *testing.T) {
			dir := t.TempDir()
			overrides := append(c.overrides, fmt.Sprintf("model.overrides.num_hidden_layers=%d", c.layers), "train.steps=3", "data.validation_interval=2")
			want := runRanks(t, layoutText(c.family, filepath.Join(dir, "one"), c.microBatches), 1, 1, overrides...)
			for i, r := range c.runs {
				what := fmt.Sprintf("%s with %d micro batches by %s on %d stages x %d data ranks %v", c.family, c.microBatches, r.schedule, r.stages, r.data, r.overrides)
				got := runRanks(t, layoutText(c.family, filepath.Join(dir, fmt.Sprint(i)), c.microBatches), r.stages*r.data, 1, slices.Concat(overrides, r.overrides,
					[]string{"parallel.pipeline=" + fmt.Sprint(r.stages), "parallel.pipeline_schedule=" + r.schedule})...)
				sameNumbers(t, what, want.steps, got.steps)
				if !slices.Equal(got.validations, want.validations) {
					t.Errorf("%s: validation %+v, want %+v", what, got.validations, want.validations)
				}
				sameFiles(t, what, filepath.Join(dir, "one", "model"), filepath.Join(dir, fmt.Sprint(i), "model"))
			}
		})
	}
}

// TestPipelineWaits runs stages on a device on which work that has not waited for what it needs fails.
func TestPipelineWaits(t *testing.T) {
	for _, c := range []struct {
		family, schedule string
		overrides        []string
	}{
		{"qwen3_moe", "zb-v", nil},
		{"deepseek_v3", "1f1b", []string{"model.overrides.tie_word_embeddings=true", "train.mtp_loss_weight=0.3", "model.overrides.num_nextn_predict_layers=1"}},
		{"llama", "dualpipe-v", []string{"recompute.mode=full"}},
	} {
		dir := t.TempDir()
		run := func(name string, open opener) []monitor.Step {
			return runRanksOn(t, open, layoutText(c.family, filepath.Join(dir, name), 4), 2, 1, append(c.overrides, "parallel.pipeline=2",
				"parallel.pipeline_schedule="+c.schedule, "model.overrides.num_hidden_layers=4", "train.steps=2")...).steps
		}
		sameNumbers(t, c.family+" by "+c.schedule, run("cpu", openCPU), run("deferred", openDeferred))
	}
}

// TestPipelineWithOtherParallelism trains on stages of ranks that share matrices, samples and experts as well: stages change no bit of
// what those give.
func TestPipelineWithOtherParallelism(t *testing.T) {
	type stage struct {
		family    string
		ranks     int
		overrides []string
	}
	cases, schedules := []stage{{"llama", 2, []string{"parallel.tensor=2", "parallel.sequence_parallel=true"}}}, []string{"zb-h1"}
	if *allPipelines {
		schedules = append(schedules, "dualpipe-v")
		cases = append(cases, stage{"qwen3", 2, []string{"parallel.context=2"}}, stage{"qwen3_moe", 2, []string{"parallel.expert=2"}},
			stage{"deepseek_v3", 4, []string{"parallel.tensor=2", "parallel.context=2", "parallel.expert=4", "train.mtp_loss_weight=0.3",
				"model.overrides.num_nextn_predict_layers=1"}})
	}
	for _, c := range cases {
		dir := t.TempDir()
		run := func(stages int, schedule string) *memorySink {
			return runRanks(t, layoutText(c.family, filepath.Join(dir, fmt.Sprint(stages, schedule)), 8), stages*c.ranks, 1, append(c.overrides, "data.sequence_length=24",
				"model.overrides.num_hidden_layers=4", "train.steps=3", "data.validation_interval=2", fmt.Sprintf("parallel.pipeline=%d", stages), "parallel.pipeline_schedule="+schedule)...)
		}
		want := run(1, "1f1b")
		for _, schedule := range schedules {
			got := run(2, schedule)
			what := fmt.Sprintf("%s with %v by %s", c.family, c.overrides, schedule)
			sameNumbers(t, what, want.steps, got.steps)
			if !slices.Equal(got.validations, want.validations) {
				t.Errorf("%s: validation %+v, want %+v", what, got.validations, want.validations)
			}
		}
	}
}
