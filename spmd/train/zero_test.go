package train_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/spmd/monitor"
)

// sharedRuns are trainings that between them have everything that ranks share: tables that the head is tied to and not, experts,
// modules of multi-token prediction, weights that are frozen, all optimizers, and averaged weights. The buckets are so small that
// each has a layer or a few.
var sharedRuns = []struct {
	family    string
	overrides []string
}{
	{"llama", []string{"parallel.bucket_mb=0.02"}},
	{"llama", []string{"parallel.bucket_mb=0.05", "model.overrides.tie_word_embeddings=true", "optimizer.ema_decay=0.7", "optimizer.ema_validation=true"}},
	{"qwen3_moe", slices.Concat([]string{"parallel.bucket_mb=0.05"}, optimizerKeys["muon"])},
	{"qwen3", slices.Concat([]string{"parallel.bucket_mb=0.02"}, optimizerKeys["adafactor"])},
	{"deepseek_v3", []string{"parallel.bucket_mb=0.1", "moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01",
		"train.mtp_loss_weight=0.3", "model.overrides.num_nextn_predict_layers=2", "optimizer.ema_decay=0.7"}},
	{"llama", []string{"model.init=auto", "lora.rank=3", "lora.dropout=0.2", "lora.target_modules=*_proj", "lora.base_dtype=bfloat16", "parallel.bucket_mb=0.002"}},
	{"qwen3", []string{"train.freeze=*.self_attn.[qk]_proj.weight", "model.overrides.tie_word_embeddings=true", "parallel.bucket_mb=0.02"}},
	{"deepseek_v3", []string{"train.freeze=*.mlp.*", "optimizer.type=muon", "optimizer.adamw_lr=1e-3"}},
}

// sharedRun makes one of them.
func sharedRun(t *testing.T, run int, out string, ranks int, overrides ...string) *memorySink {
	t.Helper()
	c := sharedRuns[run]
	overrides = slices.Concat(c.overrides, []string{"train.steps=20", "data.validation_interval=10", "data.validation_batches=1"}, overrides)
	return runRanks(t, layoutText(c.family, out, 8), ranks, 1, overrides...)
}

// TestZeROGivesTheSameBits trains with everything that ranks may share, exchanged during the passes and after them.
func TestZeROGivesTheSameBits(t *testing.T) {
	for i, c := range sharedRuns {
		t.Run(fmt.Sprint(i, " ", c.family), func(t *testing.T) {
			dir := t.TempDir()
			want := sharedRun(t, i, filepath.Join(dir, "want"), 1)
			for _, stage := range []int{1, 2, 3} {
				for n, ranks := range []int{2, 4, 8} {
					if n != (i+stage)%2 && !*allLayouts {
						continue
					}
					out, overlap := fmt.Sprintf("%d-%d", stage, ranks), (i+n)%2 == 0
					got := sharedRun(t, i, filepath.Join(dir, out), ranks, fmt.Sprintf("parallel.zero_stage=%d", stage), fmt.Sprintf("parallel.overlap=%v", overlap))
					what := fmt.Sprintf("%s with %v on %d ranks, ZeRO %d", c.family, c.overrides, ranks, stage)
					sameNumbers(t, what, want.steps, got.steps)
					if !slices.Equal(got.validations, want.validations) {
						t.Errorf("%s: validation %+v, want %+v", what, got.validations, want.validations)
					}
					sameModels(t, what, filepath.Join(dir, "want"), filepath.Join(dir, out))
				}
			}
		})
	}
}

// TestZeROWithOtherParallelisms shares weights that tensor and context ranks, and ranks with the same experts, hold: the same bits as
// with the same ranks that share nothing.
func TestZeROWithOtherParallelisms(t *testing.T) {
	for _, c := range []struct {
		run, ranks int
		overrides  []string
	}{
		{0, 4, []string{"parallel.tensor=2", "parallel.sequence_parallel=true", "train.micro_batch_size=2"}},
		{4, 4, []string{"parallel.expert=2"}},
		{2, 4, []string{"parallel.expert=2"}},
		{1, 4, []string{"parallel.context=2", "data.sequence_length=32"}},
		{1, 4, []string{"parallel.pipeline=2", "parallel.pipeline_schedule=zb-v", "model.overrides.num_hidden_layers=4"}},
		{4, 4, []string{"parallel.pipeline=2", "parallel.pipeline_schedule=dualpipe-v", "model.overrides.num_hidden_layers=4"}},
		{0, 4, []string{"parallel.pipeline=2"}},
	} {
		dir := t.TempDir()
		want := sharedRun(t, c.run, filepath.Join(dir, "0"), c.ranks, append(c.overrides, "train.steps=5")...)
		for stage := 1; stage <= 3; stage++ {
			out := filepath.Join(dir, fmt.Sprint(stage))
			got := sharedRun(t, c.run, out, c.ranks, append(c.overrides, "train.steps=5", fmt.Sprintf("parallel.zero_stage=%d", stage))...)
			what := fmt.Sprintf("%s with %v, ZeRO %d", sharedRuns[c.run].family, c.overrides, stage)
			sameNumbers(t, what, want.steps, got.steps)
			sameModels(t, what, filepath.Join(dir, "0"), out)
		}
	}
}

// sameModels compares what two runs have written of their trained models.
func sameModels(t *testing.T, what, want, got string) {
	t.Helper()
	found := 0
	for _, name := range []string{"model", "model-ema", "adapter"} {
		if names, _ := filepath.Glob(filepath.Join(want, name, "*")); names != nil {
			sameFiles(t, what, filepath.Join(want, name), filepath.Join(got, name))
			found++
		}
	}
	if found == 0 {
		t.Errorf("%s: there is no model in %s", what, want)
	}
}

// TestZeRORepeats trains twice where the order of sums is that of the layout: gradients are exchanged after each micro batch.
func TestZeRORepeats(t *testing.T) {
	for _, run := range []int{1, 4} {
		dir := t.TempDir()
		alone := sharedRun(t, run, filepath.Join(dir, "alone"), 1, "run.deterministic=run")
		for _, stage := range []int{2, 3} {
			var runs []*memorySink
			for n := range 2 {
				out := filepath.Join(dir, fmt.Sprintf("%d-%d", stage, n))
				runs = append(runs, sharedRun(t, run, out, 2, "run.deterministic=run", fmt.Sprintf("parallel.zero_stage=%d", stage)))
			}
			what := fmt.Sprintf("%s, ZeRO %d", sharedRuns[run].family, stage)
			sameNumbers(t, what, runs[0].steps, runs[1].steps)
			nearNumbers(t, what, alone, runs[0])
		}
	}
}

// TestZeROResumes stops and goes on with other numbers of ranks, which share other things.
func TestZeROResumes(t *testing.T) {
	for _, run := range []int{1, 2, 3, 4} {
		dir := t.TempDir()
		want := sharedRun(t, run, filepath.Join(dir, "want"), 1)
		var steps []int
		got := &memorySink{}
		for i, ranks := range []int{2, 4, 1, 2} {
			part := sharedRun(t, run, filepath.Join(dir, "got"), ranks, fmt.Sprintf("parallel.zero_stage=%d", []int{3, 1, 0, 2}[i]),
				fmt.Sprintf("run.stop_step=%d", 5*i+5), "checkpoint.interval=3")
			steps = append(steps, len(part.steps))
			got.steps = append(got.steps, part.steps...)
		}
		if !slices.Equal(steps, []int{5, 5, 5, 5}) {
			t.Errorf("the parts of the run made %v steps", steps)
		}
		what := fmt.Sprintf("%s with %v, resumed", sharedRuns[run].family, sharedRuns[run].overrides)
		sameNumbers(t, what, want.steps, got.steps)
		sameModels(t, what, filepath.Join(dir, "want"), filepath.Join(dir, "got"))
	}
}

// TestOverlapGivesTheSameBits exchanges gradients during the backward pass and after it.
func TestOverlapGivesTheSameBits(t *testing.T) {
	for i, c := range sharedRuns[:3] {
		dir := t.TempDir()
		want := sharedRun(t, i, filepath.Join(dir, "want"), 1)
		for _, overlap := range []bool{false, true} {
			out := filepath.Join(dir, fmt.Sprint(overlap))
			got := sharedRun(t, i, out, 2, fmt.Sprintf("parallel.overlap=%v", overlap))
			what := fmt.Sprintf("%s on 2 ranks, overlap %v", c.family, overlap)
			sameNumbers(t, what, want.steps, got.steps)
			sameModels(t, what, filepath.Join(dir, "want"), out)
		}
	}
}

// TestZeRODeferred runs it where a missing synchronisation or a host read fails.
func TestZeRODeferred(t *testing.T) {
	for _, run := range []int{1, 2, 4} {
		c, dir := sharedRuns[run], t.TempDir()
		on := func(out string, open opener, more ...string) []monitor.Step {
			overrides := slices.Concat(c.overrides, []string{"train.steps=3", "run.deterministic=run"}, more)
			return runRanksOn(t, open, layoutText(c.family, filepath.Join(dir, out), 4), 2, 1, overrides...).steps
		}
		for stage := range 4 {
			more := fmt.Sprintf("parallel.zero_stage=%d", stage)
			sameNumbers(t, c.family+", "+more, on("cpu"+more, openCPU, more), on("deferred"+more, openDeferred, more))
		}
	}
}
