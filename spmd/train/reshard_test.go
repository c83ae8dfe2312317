package train_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// reshardings are layouts of ranks that a checkpoint may come from and go to. Those with the same arithmetic have the same bits.
var reshardings = []struct {
	ranks      int
	arithmetic string
	overrides  []string
}{
	{1, "one rank", nil},
	{4, "one rank", []string{"checkpoint.format=ckpt"}},
	{2, "one rank", []string{"parallel.pipeline=2", "parallel.pipeline_schedule=zb-h1"}},
	{6, "one rank", []string{"parallel.pipeline=3"}},
	{2, "one rank", []string{"parallel.zero_stage=1"}},
	{4, "one rank", []string{"parallel.zero_stage=2", "parallel.pipeline=2"}},
	{4, "one rank", []string{"parallel.zero_stage=3"}},
	{4, "tensor 2", []string{"parallel.tensor=2", "parallel.pipeline=2"}},
	{4, "tensor 4", []string{"parallel.tensor=4", "checkpoint.async=false"}}, // more than there are key-value heads
	{8, "tensor 2 sequence", []string{"parallel.tensor=2", "parallel.sequence_parallel=true", "parallel.zero_stage=3"}},
	{4, "ring 2", []string{"parallel.context=2", "parallel.zero_stage=1"}},
	{4, "ulysses 2, tensor 2", []string{"parallel.context=2", "parallel.tensor=2", "parallel.context_algorithm=ulysses"}},
	{2, "experts 2", []string{"parallel.expert=2"}},
	{8, "experts 4", []string{"parallel.expert=4", "parallel.pipeline=2"}},
	{4, "ring 2, experts 4", []string{"parallel.context=2", "parallel.expert=4", "parallel.zero_stage=2"}},
}

// TestCheckpointsGoIntoAnyLayout stops runs in every layout and goes on from their checkpoints in every other: to the bits of the
// run that was not stopped where the arithmetic is one rank's, to rounding else.
func TestCheckpointsGoIntoAnyLayout(t *testing.T) {
	dir := t.TempDir()
	run := func(t *testing.T, name string, i int, overrides ...string) *memorySink {
		l := reshardings[i]
		text := layoutText("qwen3_moe", filepath.Join(dir, name), 8)
		return runRanks(t, text, l.ranks, 1, slices.Concat([]string{"data.validation_interval=0", "data.sequence_length=24", "moe.z_loss_weight=0.001"}, l.overrides, overrides)...)
	}
	want := run(t, "unbroken", 0)
	for from, l := range reshardings {
		if from%4 > 0 && !*allLayouts {
			continue
		}
		t.Run(fmt.Sprint(from, " ", l.arithmetic), func(t *testing.T) {
			run(t, fmt.Sprint(from), from, "run.stop_step=3", "checkpoint.interval=2")
			for to, other := range reshardings {
				if to != (from+7)%len(reshardings) && !*allLayouts {
					continue
				}
				what := fmt.Sprintf("%d, %s on %d ranks, to %d, %s on %d", from, l.arithmetic, l.ranks, to, other.arithmetic, other.ranks)
				got := run(t, what, to, fmt.Sprintf("checkpoint.resume=%s", filepath.Join(dir, fmt.Sprint(from), "checkpoints", "step-00000003")))
				rest := &memorySink{steps: want.steps[3:], validations: want.validations[1:]} // the first is before the first step
				if l.arithmetic == "one rank" && other.arithmetic == "one rank" {
					sameNumbers(t, what, rest.steps, got.steps)
					sameFiles(t, what, filepath.Join(dir, "unbroken", "model"), filepath.Join(dir, what, "model"))
				} else {
					nearNumbers(t, what, rest, got)
				}
			}
		})
	}
}

// TestResumeOnOtherRanksWithoutLayoutDeterminism goes on with another number of data ranks where that changes the bits.
func TestResumeOnOtherRanksWithoutLayoutDeterminism(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	text := layoutText("qwen2", out, 8)
	first := runRanks(t, text, 2, 1, "run.deterministic=run", "run.stop_step=2")
	second := runRanks(t, text, 4, 1, "run.deterministic=run")
	if len(first.steps) != 2 || len(second.steps) != 3 || second.steps[0].Step != 3 {
		t.Errorf("%d steps, and then %+v", len(first.steps), second.steps)
	}
}
