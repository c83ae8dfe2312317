package train_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/spmd/monitor"
)

// sameLoad compares the counts of assignments, which no layout changes.
func sameLoad(t *testing.T, what string, want, got []monitor.Step) {
	t.Helper()
	for i, w := range want {
		if g := got[i].Experts; g.MaxLoad != w.Experts.MaxLoad || g.MinLoad != w.Experts.MinLoad {
			t.Errorf("%s: step %d loads experts with %g to %g of the mean, want %g to %g", what, w.Step, g.MinLoad, g.MaxLoad, w.Experts.MinLoad, w.Experts.MaxLoad)
			return
		}
	}
}

// expertRuns are runs of models with experts: of all that depends on them something is in one of them.
var expertRuns = []struct {
	family    string
	overrides []string
}{
	// With the usual seed two scores of one token are so close that rounding chooses between their experts.
	{"qwen3_moe", []string{"run.seed=44"}},
	{"deepseek_v3", []string{"moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01", "moe.z_loss_weight=0.001",
		"train.mtp_loss_weight=0.3", "model.overrides.num_nextn_predict_layers=2"}},
}

// An expertLayout is a number of ranks, over how many of them experts are spread, and overrides.
type expertLayout struct {
	ranks, experts int
	overrides      []string
}

func expertLayouts() (layouts []expertLayout, overrides []string) {
	layouts = []expertLayout{{2, 2, []string{"recompute.mode=selective", "moe.dispatch_factor=1"}}, {4, 4, []string{"parallel.tensor=2", "parallel.sequence_parallel=true"}}}
	if !*allLayouts {
		return layouts, []string{"data.sequence_length=24", "train.steps=4", "train.micro_batch_size=2"}
	}
	return append(layouts, []expertLayout{{4, 2, []string{"recompute.mode=full", "moe.dispatch_factor=1"}}, {2, 2, nil}, {8, 8, nil},
		{4, 4, []string{"moe.dispatch_factor=1"}}, {8, 4, nil}, {4, 4, []string{"parallel.tensor=4", "moe.dispatch_factor=1"}}, {8, 4, []string{"parallel.tensor=2"}},
		{8, 4, []string{"parallel.context=2"}}, {8, 8, []string{"parallel.context=2", "parallel.tensor=2", "recompute.mode=full"}},
	}...), []string{"data.sequence_length=24", "train.steps=20"}
}

// TestExpertsOverRanks spreads experts over ranks and compares with one rank, and with a repeat.
func TestExpertsOverRanks(t *testing.T) {
	layouts, short := expertLayouts()
	for _, c := range expertRuns {
		t.Run(c.family, func(t *testing.T) {
			dir := t.TempDir()
			run := func(name string, ranks int, overrides ...string) *memorySink {
				overrides = slices.Concat(c.overrides, short, overrides)
				return runRanks(t, layoutText(c.family, filepath.Join(dir, name), 8), ranks, 1, overrides...)
			}
			want := run("one", 1)
			for i, l := range layouts {
				what := fmt.Sprintf("%s, experts over %d of %d ranks %s", c.family, l.experts, l.ranks, l.overrides)
				overrides := append(l.overrides, fmt.Sprintf("parallel.expert=%d", l.experts))
				got := run(what, l.ranks, overrides...)
				nearNumbers(t, what, want, got)
				sameLoad(t, what, want.steps[:1], got.steps[:1])
				rounds := slices.MaxFunc(got.steps, func(a, b monitor.Step) int { return a.Experts.Rounds - b.Experts.Rounds }).Experts.Rounds
				if rounds == 0 || rounds == 1 && slices.Contains(l.overrides, "moe.dispatch_factor=1") {
					t.Errorf("%s: %d rounds", what, rounds)
				}
				if i == 0 || *allLayouts {
					sameNumbers(t, what+", again", got.steps, run(what+", again", l.ranks, overrides...).steps)
				}
			}
		})
	}
}

// TestExpertsResumeInOtherLayouts stops a run and goes on with experts over other ranks, twice.
func TestExpertsResumeInOtherLayouts(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, ranks int, overrides ...string) []monitor.Step {
		return runRanks(t, layoutText("deepseek_v3", filepath.Join(dir, name), 4), ranks, 1, append(overrides, "moe.bias_update_rate=0.01", "train.steps=6")...).steps
	}
	want := run("unbroken", 1)
	got := run("broken", 4, "parallel.expert=4", "run.stop_step=2")
	got = append(got, run("broken", 1, "run.stop_step=4")...)
	got = append(got, run("broken", 4, "parallel.expert=2")...)
	nearNumbers(t, "resumed", &memorySink{steps: want}, &memorySink{steps: got})
	a, b := files(t, filepath.Join(dir, "unbroken", "model")), files(t, filepath.Join(dir, "broken", "model"))
	for name := range a {
		if len(a[name]) != len(b[name]) {
			t.Errorf("%s of the model has %d bytes, on one rank %d", name, len(b[name]), len(a[name]))
		}
	}
}

// TestExpertsOverRanksInRounds trains on a text of which all tokens go to the same experts.
func TestExpertsOverRanksInRounds(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("a", 4096)), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(name string, ranks int, overrides ...string) *memorySink {
		return runRanks(t, layoutText("qwen3_moe", filepath.Join(dir, name), 8), ranks, 1, append(overrides, "data.format=text", "data.tokenizer=bytes",
			fmt.Sprintf("data.paths=[%q]", text), "train.steps=3")...)
	}
	want := run("one", 1)
	got := run("four", 4, "parallel.expert=4", "moe.dispatch_factor=1")
	nearNumbers(t, "a text of one letter", want, got)
	if rounds := got.steps[0].Experts.Rounds; rounds < 2 {
		t.Errorf("%d rounds, though 4 ranks send all their tokens to 3 experts", rounds)
	}
}

// TestExpertsOverRanksWaitForEachOther runs on a device on which work that has not waited for what it needs fails.
func TestExpertsOverRanksWaitForEachOther(t *testing.T) {
	for _, c := range expertRuns {
		dir := t.TempDir()
		run := func(name string, open opener) *memorySink {
			return runRanksOn(t, open, layoutText(c.family, filepath.Join(dir, name), 8), 4, 1, append(c.overrides, "parallel.expert=4", "moe.dispatch_factor=1",
				"train.steps=1", "recompute.mode=full", "recompute.layers=2")...)
		}
		sameNumbers(t, c.family+" on the deferred device", run("cpu", openCPU).steps, run("deferred", openDeferred).steps)
	}
}

// TestGoldenExperts drops assignments over a capacity, which is what megatron-core would drop, and balances the load of whole
// batches.
func TestGoldenExperts(t *testing.T) {
	for name, overrides := range map[string][]string{
		"capacity-probs":    {"moe.aux_loss=none", "moe.capacity_factor=1"},
		"capacity-position": {"moe.aux_loss=none", "moe.capacity_factor=1", "moe.drop_policy=position"},
		"global":            {"moe.aux_loss=global", "moe.aux_loss_weight=0.02"},
	} {
		t.Run(name, func(t *testing.T) {
			dev, err := cpu.New(cpu.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			c, load := loadConfig(t, goldenText(t, "qwen3_moe", "corpus"), 1, overrides...)
			checkCurve(t, "qwen3_moe-"+name, runAlone(t, c, load, dev, dev.NewInlineStream("compute")).steps)
		})
	}
}

// TestPaddingHasNoExperts trains on the same documents, one in each sample, with little padding and with much.
func TestPaddingHasNoExperts(t *testing.T) {
	dir := t.TempDir()
	var lines []string
	for i := range 60 {
		lines = append(lines, fmt.Sprintf(`{"text": %q}`, strings.Repeat("some text, and then ", 2)[i%7:i%7+17+i%6]))
	}
	path := filepath.Join(dir, "lines.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(length int) *memorySink {
		return runRanks(t, layoutText("qwen3_moe", filepath.Join(dir, fmt.Sprint(length)), 8), 1, 1, "data.format=jsonl", "data.tokenizer=bytes", fmt.Sprintf("data.paths=[%q]", path),
			"data.packing=best-fit", "data.shuffle=false", "data.validation_split=0", "data.validation_interval=0", fmt.Sprintf("data.sequence_length=%d", length), "moe.aux_loss_weight=0.1")
	}
	want, got := run(24), run(32)
	nearNumbers(t, "with more padding", want, got)
	sameLoad(t, "with more padding", want.steps, got.steps)
	if want.steps[0].Tokens != got.steps[0].Tokens {
		t.Fatalf("%d and %d tokens: the samples are not the same documents", want.steps[0].Tokens, got.steps[0].Tokens)
	}
}

// expertLoRA are the overrides of a run with adapters on experts.
var expertLoRA = []string{"moe.aux_loss=none", "lora.rank=3", "lora.alpha=6", "lora.init=testdata/golden/qwen3_moe-lora",
	`lora.target_modules=["experts.*.gate_proj", "experts.*.up_proj", "experts.*.down_proj"]`}

// TestGoldenExpertLoRA trains adapters of experts on one rank, and on ranks that share the experts or their width.
func TestGoldenExpertLoRA(t *testing.T) {
	alone := func(overrides ...string) *memorySink {
		sink, _ := runLoRA(t, "qwen3_moe", append(overrides, expertLoRA...))
		return sink
	}
	want := alone()
	checkCurve(t, "qwen3_moe-lora", want.steps)
	sameNumbers(t, "full recomputation", want.steps, alone("recompute.mode=full").steps)
	for ranks, overrides := range map[int][]string{2: {"parallel.tensor=2"}, 4: {"parallel.expert=4", "moe.dispatch_factor=1", "recompute.mode=selective"}} {
		got := runRanks(t, goldenText(t, "qwen3_moe", "corpus"), ranks, 1, append(overrides, expertLoRA...)...)
		nearNumbers(t, fmt.Sprintf("%d ranks", ranks), want, got)
	}
}
