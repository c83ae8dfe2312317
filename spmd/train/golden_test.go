package train_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/deferred"
	"lockstep/kernels/device"
	"lockstep/spmd/config"
	"lockstep/spmd/monitor"
	"lockstep/spmd/train"
)

// The golden runs were made with PyTorch and Transformers by reference.py; testdata/golden/README.md has the commands.

// goldenConfig is the configuration of the golden runs; %s are the model's directory, the data's prefix, the output.
const goldenConfig = `
[run]
output_dir = %q
[model]
path = %q
[data]
format = "megatron"
paths = [%q]
sequence_length = 45
shuffle = false
[train]
steps = 24
global_batch_size = 8
micro_batch_size = 2
clip_grad_norm = 0.5
[optimizer]
lr = 3e-3
[lr_schedule]
warmup_steps = 5
min_lr = 3e-4
`

// curve is what reference.py writes.
type curve struct {
	Steps []struct {
		Loss     float64 `json:"loss"`
		GradNorm float64 `json:"grad_norm"`
		LR       float64 `json:"lr"`
		AuxLoss  float64 `json:"aux_loss"`
		ZLoss    float64 `json:"z_loss"`
		MTPLoss  float64 `json:"mtp_loss"`
		Dropped  float64 `json:"dropped"`
	} `json:"steps"`
}

// memorySink keeps the records of a run.
type memorySink struct {
	steps       []monitor.Step
	validations []monitor.Validation
	checkpoints []monitor.Checkpoint
	sent        int // bytes, by all ranks over the network
}

func (m *memorySink) Step(s monitor.Step) error { m.steps = append(m.steps, s); return nil }

func (m *memorySink) Validation(v monitor.Validation) error {
	m.validations = append(m.validations, v)
	return nil
}

func (m *memorySink) Checkpoint(c monitor.Checkpoint) error {
	m.checkpoints = append(m.checkpoints, c)
	return nil
}

func (m *memorySink) Close() error { return nil }

// loadConfig writes and loads a configuration.
func loadConfig(t *testing.T, text string, world int, overrides ...string) (*config.Config, config.LoadOptions) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	o := config.LoadOptions{Path: path, World: world, Overrides: overrides, Getenv: func(string) string { return "" }}
	c, problems := config.Load(o)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return c, o
}

func goldenText(t *testing.T, family, corpus string) string {
	return fmt.Sprintf(goldenConfig, filepath.Join(t.TempDir(), "out"), "testdata/golden/"+family, "testdata/golden/"+corpus)
}

// documentMasks keep the documents of a sample apart.
var documentMasks = []string{"data.eod=256", "data.reset_attention_mask=true", "data.reset_position_ids=true", "data.eod_mask_loss=true"}

// goldenDocuments turns the configuration of the golden runs into that of the ones on documents.
var goldenDocuments = append([]string{"optimizer.lr=1e-3", "lr_schedule.min_lr=1e-4"}, documentMasks...)

// runAlone trains a configuration on one rank and returns its records.
func runAlone(t *testing.T, c *config.Config, load config.LoadOptions, dev kernels.Device, s device.Stream) *memorySink {
	t.Helper()
	world, err := collective.Join(context.Background(), collective.Options{Place: collective.Place{Size: 1, LocalSize: 1}, NewStream: dev.NewStream})
	if err != nil {
		t.Fatal(err)
	}
	defer world.Close()
	sink := &memorySink{}
	layout, err := train.NewLayout(dev, c, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := train.PrepareData(t.Context(), c, load, nil); err != nil {
		t.Fatal(err)
	}
	tr, err := train.New(layout, train.Options{Load: load, Device: dev, Stream: s, World: world, SumFloat32: cpu.SumFloat32, SumBFloat16: cpu.SumBFloat16, SumFloat64: cpu.SumFloat64,
		Sink: sink, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if err := tr.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	return sink
}

// readCurve reads the reference of the given name.
func readCurve(t *testing.T, name string) (c curve) {
	t.Helper()
	text, err := os.ReadFile("testdata/golden/" + name + ".json")
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// checkCurve holds a run against the reference's of the given name.
func checkCurve(t *testing.T, name string, got []monitor.Step) {
	t.Helper()
	want := readCurve(t, name)
	if len(got) != len(want.Steps) {
		t.Fatalf("%d steps, want %d", len(got), len(want.Steps))
	}
	kinds := [7]string{"loss", "grad_norm", "lr", "aux_loss", "z_loss", "mtp_loss", "dropped"}
	worst := [7]float64{}
	for i, w := range want.Steps {
		for k, v := range [7][2]float64{{got[i].Loss, w.Loss}, {got[i].GradNorm, w.GradNorm}, {got[i].LR, w.LR},
			{got[i].Experts.BalanceLoss, w.AuxLoss}, {got[i].Experts.ZLoss, w.ZLoss}, {got[i].PredictionLoss, w.MTPLoss}, {got[i].Experts.Dropped, w.Dropped}} {
			d := math.Abs(v[0]-v[1]) / max(math.Abs(v[1]), 1e-12)
			if v[1] == 0 {
				d = math.Abs(v[0])
			}
			worst[k] = max(worst[k], d)
			if limit := [7]float64{2e-5, 2e-4, 1e-15, 2e-5, 2e-5, 2e-5, 1e-12}[k]; !(d <= limit) {
				t.Errorf("step %d: %s is %v, the reference's %v: relative difference %.1e", i+1, kinds[k], v[0], v[1], d)
			}
		}
	}
	t.Logf("worst relative differences of %v: %.1e", kinds, worst)
}

var families = []string{"llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3", "deepseek_v3_plain", "deepseek_v3_mtp"}

// familyOverrides complete the configuration of some golden runs.
var familyOverrides = map[string][]string{
	"qwen3_moe": {"moe.aux_loss_weight=0.02"},
	"deepseek_v3_mtp": {"train.mtp_loss_weight=0.3", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.02", "moe.z_loss_weight=0.01",
		"moe.bias_update_rate=0.01"},
}

func TestGolden(t *testing.T) {
	for _, family := range families {
		for _, set := range cpu.KernelSets() {
			t.Run(family+"/"+set, func(t *testing.T) {
				dev, err := cpu.New(cpu.Options{Threads: 2, KernelSet: set})
				if err != nil {
					t.Fatal(err)
				}
				defer dev.Close()
				c, load := loadConfig(t, goldenText(t, family, "corpus"), 1, familyOverrides[family]...)
				sink := runAlone(t, c, load, dev, dev.NewInlineStream("compute"))
				checkCurve(t, family, sink.steps)
			})
		}
	}
}

// TestGoldenDocuments trains on samples of many short documents that do not see each other. The label tokens of a step are
// those whose input does not end a document.
func TestGoldenDocuments(t *testing.T) {
	for _, family := range []string{"llama", "qwen3"} {
		for _, set := range cpu.KernelSets() {
			t.Run(family+"/"+set, func(t *testing.T) {
				dev, err := cpu.New(cpu.Options{Threads: 2, KernelSet: set})
				if err != nil {
					t.Fatal(err)
				}
				defer dev.Close()
				c, load := loadConfig(t, goldenText(t, family, "documents"), 1, goldenDocuments...)
				sink := runAlone(t, c, load, dev, dev.NewInlineStream("compute"))
				checkCurve(t, family+"-documents", sink.steps)
				if n := sink.steps[0].Tokens; n <= 0 || n >= c.TokensPerStep() {
					t.Errorf("%d of %d tokens have a label", n, c.TokensPerStep())
				}
			})
		}
	}
}

// TestGoldenDeferred trains on the device that faults on a host read and on a missing synchronisation, with and without
// recomputation.
func TestGoldenDeferred(t *testing.T) {
	dev, err := deferred.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	c, load := loadConfig(t, goldenText(t, "qwen3", "corpus"), 1)
	sink := runAlone(t, c, load, dev, dev.NewStream("compute"))
	checkCurve(t, "qwen3", sink.steps)
	c, load = loadConfig(t, goldenText(t, "qwen3", "documents"), 1, append([]string{"recompute.mode=full"}, goldenDocuments...)...)
	sink = runAlone(t, c, load, dev, dev.NewStream("compute"))
	checkCurve(t, "qwen3-documents", sink.steps)
}
