package train_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/deferred"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint/safetensors"
)

// optimizerRuns are the curves that tools/compare_optimizers.py --golden has made with torch.optim.
func optimizerRuns() []string {
	var runs []string
	for _, o := range []string{"adamw", "muon", "muon-rms", "adafactor", "adafactor-slow"} {
		runs = append(runs, "llama-"+o, "qwen3_moe-"+o)
	}
	return runs
}

// TestGoldenOptimizers holds 50 steps of each optimizer against PyTorch's: every loss within 1e-5.
func TestGoldenOptimizers(t *testing.T) {
	for _, name := range optimizerRuns() {
		t.Run(name, func(t *testing.T) {
			dev, err := cpu.New(cpu.Options{Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			checkOptimizer(t, name, dev, dev.NewInlineStream("compute"))
		})
	}
}

// TestOptimizersDeferred runs them where a missing synchronisation or a host read fails.
func TestOptimizersDeferred(t *testing.T) {
	dev, err := deferred.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for _, name := range []string{"qwen3_moe-muon", "llama-adafactor"} {
		checkOptimizer(t, name, dev, dev.NewStream("compute"), "optimizer.ema_decay=0.9")
	}
}

// checkOptimizer trains with the keys of [optimizer] that are recorded in the curve, and compares.
func checkOptimizer(t *testing.T, name string, dev kernels.Device, s device.Stream, overrides ...string) {
	t.Helper()
	text, err := os.ReadFile("testdata/golden/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		curve
		Optimizer map[string]any `json:"optimizer"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	overrides = append(overrides, fmt.Sprintf("train.steps=%d", len(want.Steps)), fmt.Sprintf("lr_schedule.min_lr=%v", want.Optimizer["lr"].(float64)/10))
	for key, value := range want.Optimizer {
		written, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		overrides = append(overrides, fmt.Sprintf("optimizer.%s=%s", key, written))
	}
	family := name[:slices.Index([]byte(name), '-')]
	if family == "qwen3_moe" {
		overrides = append(overrides, "moe.aux_loss=none")
	}
	c, load := loadConfig(t, goldenText(t, family, "corpus"), 1, overrides...)
	got, worst := runAlone(t, c, load, dev, s).steps, 0.0
	if len(got) != len(want.Steps) {
		t.Fatalf("%s: %d steps, want %d", name, len(got), len(want.Steps))
	}
	for i, w := range want.Steps {
		d := math.Abs(got[i].Loss-w.Loss) / w.Loss
		worst = max(worst, d)
		if !(d <= 1e-5) {
			t.Fatalf("%s, step %d: the loss is %v, PyTorch's %v: relative difference %.1e", name, i+1, got[i].Loss, w.Loss, d)
		}
	}
	t.Logf("%s: worst relative difference of the loss %.1e", name, worst)
}

// optimizerKeys are the configurations of layouts and resumption.
var optimizerKeys = map[string][]string{
	"muon":      {"optimizer.type=muon", "optimizer.adamw_lr=1e-3", "optimizer.ema_decay=0.7", "optimizer.ema_validation=true"},
	"adafactor": {"optimizer.type=adafactor", "optimizer.lr=0.01", "optimizer.ema_decay=0.7"},
}

// TestOptimizersOnLayouts trains on several ranks and threads, stops and goes on from both formats of the state: the same bits,
// in what is reported, in the model and in the averaged model.
func TestOptimizersOnLayouts(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(optimizerKeys)) {
		for _, family := range []string{"qwen3", "deepseek_v3"} {
			dir, keys := t.TempDir(), optimizerKeys[name]
			run := func(out string, ranks, threads int, more ...string) *memorySink {
				return runRanks(t, layoutText(family, filepath.Join(dir, out), 8), ranks, threads, slices.Concat(keys, more)...)
			}
			want := run("want", 1, 1)
			first := run("stopped", 2, 1, "run.stop_step=2", "checkpoint.format=ckpt")
			first.steps = append(first.steps, run("stopped", 1, 2, "run.stop_step=4", "checkpoint.interval=3").steps...)
			first.steps = append(first.steps, run("stopped", 4, 1).steps...)
			for what, got := range map[string]*memorySink{"split": run("split", 4, 2), "stopped": first} {
				sameNumbers(t, name+", "+what, want.steps, got.steps)
				for _, model := range []string{"model", "model-ema"} {
					sameFiles(t, name+", "+what, filepath.Join(dir, "want", model), filepath.Join(dir, what, model))
				}
			}
		}
	}
}

// TestAverage compares the averaged weights with the average of the weights of all steps, and their validation loss with that
// of the averaged model.
func TestAverage(t *testing.T) {
	dir, decay := t.TempDir(), 0.7
	run := func(out string, more ...string) *memorySink {
		return runRanks(t, layoutText("llama", filepath.Join(dir, out), 8), 1, 1, more...)
	}
	const name = "model.layers.1.mlp.down_proj.weight"
	average := weights(t, "testdata/golden/llama/model.safetensors", name)
	got := run("want", "model.init=auto", "optimizer.ema_decay=0.7", "optimizer.ema_validation=true", "checkpoint.interval=1")
	for step := 1; step <= 5; step++ {
		state := filepath.Join(dir, "want", "checkpoints", fmt.Sprintf("step-%08d", step), "state-00000.safetensors")
		for i, v := range weights(t, state, "weight/"+name) {
			average[i] += (1 - decay) * (v - average[i])
		}
	}
	for i, v := range weights(t, filepath.Join(dir, "want", "model-ema", "model.safetensors"), name) {
		if math.Abs(v-average[i]) > 1e-7 {
			t.Fatalf("element %d of the averaged %s is %v, want %v", i, name, v, average[i])
		}
	}
	alone := run("evaluated", "run.mode=evaluate", "model.path="+filepath.Join(dir, "want", "model-ema"), "model.init=auto")
	if last := got.validations[len(got.validations)-1]; last.Loss != alone.validations[0].Loss {
		t.Errorf("the validation loss is %v, that of model-ema %v", last.Loss, alone.validations[0].Loss)
	}
}

// weights reads a tensor of a safetensors file.
func weights(t *testing.T, path, name string) []float64 {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, ok := f.Span(name)
	if !ok {
		t.Fatalf("%s has no %s", path, name)
	}
	data := f.Bytes()[at.At : at.At+at.Len]
	values := make([]float32, len(data)/4)
	copy(device.BytesOf(values), data)
	wide := make([]float64, len(values))
	for i, v := range values {
		wide[i] = float64(v)
	}
	return wide
}
