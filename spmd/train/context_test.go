package train_test

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/spmd/train"
)

// contextRuns are trainings that need something of the tokens before and behind.
var contextRuns = []struct {
	family    string
	overrides []string
}{
	{"llama", []string{"model.init=auto", "lora.rank=3", "lora.dropout=0.2", "lora.target_modules=*_proj"}},
	// With the usual rate there are spikes that amplify any rounding: two lanes differ from one by 3e-5 in one of them.
	{"llama", append([]string{"data.paths=testdata/golden/documents", "optimizer.lr=1e-3"}, documentMasks...)},
	{"qwen3_moe", []string{"moe.z_loss_weight=0.001"}},
	{"deepseek_v3", append([]string{"data.paths=testdata/golden/documents", "moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01",
		"train.mtp_loss_weight=0.3"}, documentMasks...)},
}

// contextRun makes one of them with samples of 32 tokens, two in a micro batch.
func contextRun(t *testing.T, run, ranks, threads int, overrides ...string) *memorySink {
	t.Helper()
	return contextRunOn(t, openCPU, run, ranks, threads, overrides...)
}

func contextRunOn(t *testing.T, open opener, run, ranks, threads int, overrides ...string) *memorySink {
	t.Helper()
	c := contextRuns[run]
	steps := "train.steps=8"
	if *allLayouts {
		steps = "train.steps=20"
	}
	overrides = slices.Concat(c.overrides, []string{steps, "data.sequence_length=32", "train.micro_batch_size=2", "data.validation_interval=5"}, overrides)
	return runRanksOn(t, open, layoutText(c.family, filepath.Join(t.TempDir(), "out"), 4), ranks, threads, overrides...)
}

// TestContextRanks trains with samples shared by several ranks, and compares with one rank.
func TestContextRanks(t *testing.T) {
	// Four ranks cannot share the six heads of this llama, nor tensor ranks what its adapters drop; and it has no experts.
	const all, latent, even = "all", "deepseek_v3", "but llama"
	for i, c := range contextRuns {
		t.Run(fmt.Sprint(i, " ", c.family), func(t *testing.T) {
			alone := contextRun(t, i, 1, 1)
			for _, l := range []struct {
				quick     string // the families for which it is tested in any case
				possible  string
				ranks     int
				overrides []string
			}{
				{all, all, 2, []string{"parallel.context=2"}},
				{all, all, 2, []string{"parallel.context=2", "parallel.context_algorithm=ulysses"}},
				{latent, all, 4, []string{"parallel.context=4", "parallel.context_algorithm=hybrid"}},
				{"", all, 4, []string{"parallel.context=4"}},
				{"", even, 4, []string{"parallel.context=4", "parallel.context_algorithm=ulysses"}},
				{"", even, 4, []string{"parallel.context=2", "parallel.tensor=2", "parallel.sequence_parallel=true"}},
				{latent, even, 2, []string{"parallel.context=2", "parallel.expert=2"}},
				{"", all, 4, []string{"parallel.context=2", "parallel.pipeline=2"}},
				{"", even, 8, []string{"parallel.context=2", "parallel.tensor=2", "parallel.pipeline=2"}},
				{"", all, 8, []string{"parallel.context=8"}},
				{"", all, 8, []string{"parallel.context=4", "parallel.context_algorithm=hybrid", "parallel.data=2"}},
			} {
				if l.quick != all && l.quick != c.family && !*allLayouts || l.possible == even && c.family == "llama" {
					continue
				}
				nearNumbers(t, fmt.Sprintf("%s, %q with %q", c.family, c.overrides, l.overrides), alone, contextRun(t, i, l.ranks, 1, l.overrides...))
			}
		})
	}
}

// TestContextRanksBits trains with shared samples again, with other threads and data ranks, with less of it on each rank, and computing activations
// again: to the same bits.
func TestContextRanksBits(t *testing.T) {
	for _, algorithm := range []string{"ring", "ulysses"} {
		shared := []string{"parallel.context=2", "parallel.context_algorithm=" + algorithm, "train.steps=3"}
		want := contextRun(t, 3, 2, 1, shared...)
		for what, overrides := range map[string][]string{"again": nil, "ZeRO 3": {"parallel.zero_stage=3"}, "selective": {"recompute.mode=selective"}, "full": {"recompute.mode=full"}} {
			sameNumbers(t, algorithm+", "+what, want.steps, contextRun(t, 3, 2, 2, append(slices.Clone(shared), overrides...)...).steps)
		}
		sameNumbers(t, algorithm+", data 2, ZeRO 2", want.steps, contextRun(t, 3, 4, 1, append(slices.Clone(shared), "parallel.zero_stage=2")...).steps)
	}
}

// TestContextRanksWait runs on a device on which work that has not waited for what it needs fails. A ring of four uses each of its
// buffers twice.
func TestContextRanksWait(t *testing.T) {
	for _, more := range [][]string{{"parallel.context=4"}, {"parallel.context=4", "parallel.context_algorithm=hybrid", "recompute.mode=full"}} {
		overrides := append([]string{"train.steps=1", "data.validation_interval=0"}, more...)
		sameNumbers(t, fmt.Sprintf("%q on the deferred device", more), contextRun(t, 3, 4, 1, overrides...).steps, contextRunOn(t, openDeferred, 3, 4, 1, overrides...).steps)
	}
}

// TestContextRanksResume goes on with other numbers of ranks that share samples.
func TestContextRanksResume(t *testing.T) {
	dir := t.TempDir()
	run := func(out string, ranks int, overrides ...string) *memorySink {
		overrides = slices.Concat(contextRuns[3].overrides, []string{"train.steps=6", "data.sequence_length=32"}, overrides)
		return runRanks(t, layoutText("deepseek_v3", filepath.Join(dir, out), 4), ranks, 1, overrides...)
	}
	want, got := run("alone", 1), &memorySink{}
	for _, part := range []*memorySink{run("out", 2, "run.stop_step=2", "parallel.context=2"), run("out", 1, "run.stop_step=4"),
		run("out", 2, "parallel.context=2", "parallel.context_algorithm=ulysses")} {
		got.steps, got.validations = append(got.steps, part.steps...), append(got.validations, part.validations...)
	}
	nearNumbers(t, "a run that goes on", want, got)
}

// TestContextRanksBFloat16 trains with activations that are rounded, to which the sums of a ring add some.
func TestContextRanksBFloat16(t *testing.T) {
	half := []string{"train.dtype=bfloat16", "train.steps=8", "data.validation_interval=0"}
	want := contextRun(t, 3, 1, 1, half...).steps
	for _, more := range [][]string{{"parallel.context=2"}, {"parallel.context=2", "parallel.context_algorithm=ulysses"}} {
		got := contextRun(t, 3, 2, 1, append(more, half...)...).steps
		for i, w := range want {
			if d := math.Abs(got[i].Loss-w.Loss) / w.Loss; d > 1e-3 {
				t.Errorf("%q: step %d has the loss %v, on one rank %v", more, i+1, got[i].Loss, w.Loss)
			}
		}
	}
}

// TestContextRanksSaveMemory checks that ranks which share samples keep their tokens alone, and say how they share them.
func TestContextRanksSaveMemory(t *testing.T) {
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	layout := func(ranks int, overrides ...string) *train.Layout {
		c, _ := loadConfig(t, layoutText("qwen3_moe", filepath.Join(t.TempDir(), "out"), 8), ranks, append(overrides, "data.sequence_length=256")...)
		l, err := train.NewLayout(dev, c, 0, ranks)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	alone := layout(1).Memory.Activations
	for _, c := range []struct {
		ranks     int
		overrides []string
		more      float64 // of what half the memory would be: what Ulysses ranks get, and the result as attention has left it
		says      string
	}{
		{2, []string{"parallel.context=2"}, 0.01, "a ring of 2"},
		{2, []string{"parallel.context=2", "parallel.context_algorithm=ulysses"}, 0.15, "ulysses over 2"},
		{4, []string{"parallel.context=4", "parallel.context_algorithm=hybrid"}, 0.2, "ulysses over 2, in a ring of 2"},
	} {
		ranks := c.ranks
		l := layout(ranks, c.overrides...)
		if got, most := l.Memory.Activations, (1+c.more)*float64(alone)/float64(ranks); float64(got) > most {
			t.Errorf("%q: %d bytes of activations, %d on one rank", c.overrides, got, alone)
		}
		var b bytes.Buffer
		l.Describe(&b)
		want := fmt.Sprintf("context    each sample over %d ranks, %s: %d tokens on each\n", ranks, c.says, 256/ranks)
		if !bytes.Contains(b.Bytes(), []byte(want)) {
			t.Errorf("got\n%s\nwant the line %q", b.String(), want)
		}
	}
}
