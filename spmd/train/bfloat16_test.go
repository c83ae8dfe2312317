package train_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/kernels/deferred"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/train"
)

// TestBFloat16FollowsFloat32 trains 100 steps in both types: all losses are within 1 %, and the memory is less.
func TestBFloat16FollowsFloat32(t *testing.T) {
	for _, family := range []string{"llama", "qwen3_moe"} {
		run := func(dtype string, more ...string) (*memorySink, train.Memory) {
			dev, err := cpu.New(cpu.Options{Threads: 1, BFloat16: true})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			c, load := loadConfig(t, goldenText(t, family, "corpus"), 1, append(more, "train.steps=100", "optimizer.lr=1e-3", "lr_schedule.min_lr=1e-4", "train.dtype="+dtype)...)
			layout, err := train.NewLayout(dev, c, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			return runAlone(t, c, load, dev, dev.NewInlineStream("compute")), layout.Memory
		}
		want, wide := run("float32")
		got, narrow := run("bfloat16")
		_, narrowest := run("bfloat16", "train.residual_dtype=bfloat16", "run.stop_step=1")
		worst, sum := 0.0, 0.0
		for i, w := range want.steps {
			d := math.Abs(got.steps[i].Loss-w.Loss) / w.Loss
			worst, sum = max(worst, d), sum+d
		}
		t.Logf("%s: relative difference of the losses at most %.4f, %.5f in the mean", family, worst, sum/100)
		if !(worst < 0.01) || sum == 0 {
			t.Errorf("%s: the losses differ by up to %v in all, of the float32 ones", family, worst)
		}
		if narrow.Weights != wide.Weights || narrow.Optimizer != wide.Optimizer || narrow.Gradients != wide.Gradients {
			t.Errorf("%s: weights, optimizer or gradients take other memory in bfloat16: %+v, %+v", family, narrow, wide)
		}
		if most := wide.Activations * 56 / 100; narrowest.Activations > most || narrowest.Scratch >= wide.Scratch {
			t.Errorf("%s: activations take %d bytes and scratch memory %d, in float32 %d and %d", family, narrowest.Activations, narrowest.Scratch, wide.Activations, wide.Scratch)
		}
		if most := wide.Activations * 68 / 100; narrow.Activations > most || narrow.Activations <= narrowest.Activations || narrow.Scratch >= wide.Scratch {
			t.Errorf("%s: with the residual in float32 activations take %d bytes and scratch memory %d, in float32 %d and %d", family, narrow.Activations, narrow.Scratch, wide.Activations, wide.Scratch)
		}
	}
}

// TestGoldenBFloat16 holds runs of all families, and of adapters, against the curves of PyTorch in float32. The device is the one
// that faults on a missing synchronisation.
func TestGoldenBFloat16(t *testing.T) {
	check := func(name, family string, overrides ...string) {
		t.Run(name, func(t *testing.T) {
			dev, err := deferred.New(cpu.Options{Threads: 1, BFloat16: true})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			c, load := loadConfig(t, goldenText(t, family, "corpus"), 1, append(overrides, "train.dtype=bfloat16", "run.stop_step=12", "checkpoint.async=false")...)
			got := runAlone(t, c, load, dev, dev.NewStream("compute"))
			worst := 0.0
			for i, w := range readCurve(t, name).Steps[:len(got.steps)] {
				d := math.Abs(got.steps[i].Loss-w.Loss) / w.Loss
				if !(d < 2e-3) {
					t.Errorf("step %d: the loss is %v, in float32 %v", i+1, got.steps[i].Loss, w.Loss)
				}
				worst = max(worst, d)
			}
			if worst < 1e-5 {
				t.Errorf("the losses are those of float32, to %v: nothing is rounded", worst)
			}
		})
	}
	for _, family := range families {
		check(family, family, familyOverrides[family]...)
	}
	check("deepseek_v3-lora", "deepseek_v3", loraGolden("deepseek_v3", "lora.base_dtype=bfloat16")...)
	check("qwen3-lora", "qwen3", loraGolden("qwen3")...)
}

// TestBFloat16GivesTheSameBits trains on several ranks and threads, computing again what is not kept, and goes on after a stop.
func TestBFloat16GivesTheSameBits(t *testing.T) {
	for family, overrides := range map[string][]string{
		"llama":       nil,
		"deepseek_v3": {"moe.bias_update_rate=0.01", "train.mtp_loss_weight=0.3"},
		"qwen3_moe":   {"train.residual_dtype=bfloat16"},
		"qwen3":       append([]string{"data.paths=testdata/golden/documents", "model.init=auto", "lora.rank=2", "lora.dropout=0.1"}, documentMasks...),
	} {
		dir := t.TempDir()
		run := func(name string, ranks, threads int, more ...string) *memorySink {
			all := slices.Concat(overrides, []string{"train.dtype=bfloat16", "train.steps=4"}, more)
			return runRanks(t, layoutText(family, filepath.Join(dir, name), 8), ranks, threads, all...)
		}
		same := func(name string, want, got *memorySink) {
			t.Helper()
			what := fmt.Sprintf("%s, %s", family, name)
			sameNumbers(t, what, want.steps, got.steps)
			written := "model"
			if family == "qwen3" {
				written = "adapter"
			}
			sameFiles(t, what, filepath.Join(dir, "one", written), filepath.Join(dir, name, written))
		}
		want := run("one", 1, 1)
		for _, l := range []struct {
			name           string
			ranks, threads int
			more           []string
		}{
			{"two ranks", 2, 1, []string{"recompute.mode=full"}}, {"four ranks", 4, 1, nil}, {"threads", 1, 3, []string{"recompute.mode=selective"}},
			{"stages", 2, 1, []string{"parallel.pipeline=2", "parallel.pipeline_schedule=zb-h1"}},
		} {
			same(l.name, want, run(l.name, l.ranks, l.threads, l.more...))
		}
		first := run("resumed", 2, 1, "run.stop_step=2")
		second := run("resumed", 1, 2)
		second.steps = append(first.steps, second.steps...)
		same("resumed", want, second)
	}
}

// TestBFloat16BetweenRanks exchanges activations in bfloat16 inside layers. Ranks add up other sums than one rank, so the losses are
// near, and the same each time.
func TestBFloat16BetweenRanks(t *testing.T) {
	for run, layouts := range map[int][][]string{
		0: {{"parallel.context=2"}},
		1: {{"parallel.tensor=2"}, {"parallel.context=2", "parallel.context_algorithm=ulysses"}},
		2: {{"parallel.expert=2"}, {"parallel.tensor=2", "parallel.sequence_parallel=true", "train.residual_dtype=bfloat16"}, {"parallel.tensor=2", "parallel.sequence_parallel=true"}},
		3: {{"parallel.context=2", "parallel.expert=2"}, {"parallel.tensor=2"}},
	} {
		short := []string{"train.dtype=bfloat16", "train.steps=4", "data.validation_interval=0"}
		want := contextRun(t, run, 1, 1, short...)
		for _, l := range layouts {
			got := contextRun(t, run, 2, 1, append(short, l...)...)
			for i, w := range want.steps {
				if d := math.Abs(got.steps[i].Loss-w.Loss) / w.Loss; !(d < 2e-3) {
					t.Errorf("%s, %q: the loss of step %d is %v, on one rank %v", contextRuns[run].family, l, w.Step, got.steps[i].Loss, w.Loss)
				}
			}
			again := contextRun(t, run, 2, 2, slices.Concat(short, l, []string{"recompute.mode=full"})...)
			sameNumbers(t, fmt.Sprintf("%s, %q, again", contextRuns[run].family, l), got.steps, again.steps)
		}
	}
}

// TestBFloat16Model reads the model that a run has written: in bfloat16, but for what Transformers keeps in float32.
func TestBFloat16Model(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	runRanks(t, layoutText("deepseek_v3", out, 8), 1, 2, "train.dtype=bfloat16")
	config, err := os.ReadFile(filepath.Join(out, "model", "config.json"))
	if err != nil || !bytes.Contains(config, []byte(`dtype": "bfloat16"`)) {
		t.Errorf("config.json: %s, %v", config, err)
	}
	w, err := checkpoint.OpenWeights(filepath.Join(out, "model"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, name := range w.Names() {
		want := "BF16"
		if filepath.Ext(name) == ".e_score_correction_bias" {
			want = "F32"
		}
		if got := w.DType(name); string(got) != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	again := runRanks(t, layoutText("deepseek_v3", out+"-2", 8), 1, 2, "model.init=auto", "model.path="+filepath.Join(out, "model"))
	if len(again.steps) == 0 || again.steps[0].Loss > 6 {
		t.Errorf("the model does not train: %+v", again.steps)
	}
}
