package train_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/kernels/deferred"
	"lockstep/spmd/checkpoint"
)

// loraGolden turns the configuration of the golden runs into that of the ones with PEFT: the adapters are on parts of what the
// blocks keep as one matrix.
func loraGolden(family string, more ...string) []string {
	targets := `["q_proj", "v_proj", "gate_proj", "down_proj", "o_proj"]`
	if family == "deepseek_v3" {
		targets = `["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]`
	}
	return append([]string{"lora.rank=4", "lora.alpha=8", "lora.target_modules=" + targets,
		"lora.init=testdata/golden/" + family + "-lora"}, more...)
}

// runLoRA runs the golden configuration of a family with overrides on one rank.
func runLoRA(t *testing.T, family string, overrides []string) (sink *memorySink, output string) {
	t.Helper()
	dev, err := cpu.New(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	c, load := loadConfig(t, goldenText(t, family, "corpus"), 1, overrides...)
	return runAlone(t, c, load, dev, dev.NewInlineStream("compute")), c.Run.OutputDir
}

func TestGoldenLoRA(t *testing.T) {
	for _, family := range []string{"llama", "qwen3", "deepseek_v3"} {
		for _, more := range [][]string{nil, {"recompute.mode=full"}, {"recompute.mode=selective"}} {
			sink, _ := runLoRA(t, family, loraGolden(family, more...))
			checkCurve(t, family+"-lora", sink.steps)
		}
	}
}

// TestLoRADeferred trains on the device that faults on a missing synchronisation, with dropout and a model in bfloat16.
func TestLoRADeferred(t *testing.T) {
	dev, err := deferred.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	overrides := loraGolden("qwen3", "train.steps=3", "lr_schedule.warmup_steps=1", "lora.dropout=0.2", "lora.base_dtype=bfloat16")
	c, load := loadConfig(t, goldenText(t, "qwen3", "corpus"), 1, overrides...)
	got := runAlone(t, c, load, dev, dev.NewStream("compute"))
	want, _ := runLoRA(t, "qwen3", overrides)
	sameNumbers(t, "LoRA", want.steps, got.steps)
}

// TestLoRAInBFloat16 keeps the model in half the memory; the curve is that of rounded weights.
func TestLoRAInBFloat16(t *testing.T) {
	want, _ := runLoRA(t, "llama", loraGolden("llama"))
	got, _ := runLoRA(t, "llama", loraGolden("llama", "lora.base_dtype=bfloat16"))
	for i, w := range want.steps {
		if d := math.Abs(got.steps[i].Loss-w.Loss) / w.Loss; d > 2e-3 || d == 0 {
			t.Errorf("step %d: the loss is %v, with float32 %v", i+1, got.steps[i].Loss, w.Loss)
		}
	}
}

// TestLoRADropout drops the same elements whatever the micro batches and the ranks are, and others than with another seed.
func TestLoRADropout(t *testing.T) {
	overrides := loraGolden("qwen3", "train.steps=4", "lr_schedule.warmup_steps=1", "lora.dropout=0.3")
	want, _ := runLoRA(t, "qwen3", overrides)
	plain, _ := runLoRA(t, "qwen3", loraGolden("qwen3", "train.steps=4", "lr_schedule.warmup_steps=1"))
	if want.steps[2].Loss == plain.steps[2].Loss { // before, B is zero
		t.Error("dropout changes nothing")
	}
	other, _ := runLoRA(t, "qwen3", append(slices.Clone(overrides), "run.seed=7"))
	if other.steps[2].Loss == want.steps[2].Loss {
		t.Error("another seed drops the same elements")
	}
	whole, _ := runLoRA(t, "qwen3", append(slices.Clone(overrides), "train.micro_batch_size=8", "run.deterministic=run"))
	for i, w := range want.steps {
		if d := math.Abs(whole.steps[i].Loss-w.Loss) / w.Loss; d > 1e-5 {
			t.Errorf("step %d: the loss in one micro batch is %v, in four %v", i+1, whole.steps[i].Loss, w.Loss)
		}
	}
	ranks := runRanks(t, goldenText(t, "qwen3", "corpus"), 4, 1, overrides...)
	sameNumbers(t, "4 ranks", want.steps, ranks.steps)
	again, _ := runLoRA(t, "qwen3", append(slices.Clone(overrides), "recompute.mode=full"))
	sameNumbers(t, "LoRA", want.steps, again.steps)
}

// TestLoRAResumes stops a run and goes on: checkpoints hold the adapters alone, the adapter comes out as PEFT has it, and the
// frozen model must be the same.
func TestLoRAResumes(t *testing.T) {
	want, complete := runLoRA(t, "llama", loraGolden("llama"))
	out := filepath.Join(t.TempDir(), "out")
	first, _ := runLoRA(t, "llama", loraGolden("llama", "run.output_dir="+out, "run.stop_step=9"))
	if files, err := filepath.Glob(filepath.Join(out, "checkpoints/step-00000009/*.safetensors")); err != nil || len(files) != 1 {
		t.Fatal(files, err)
	} else if text, err := os.ReadFile(files[0]); err != nil || !strings.Contains(string(text), `"weight/model.layers.0.self_attn.q_proj.lora_A.weight"`) || strings.Contains(string(text), "norm") {
		t.Errorf("the checkpoint has %d bytes, %v", len(text), err)
	}
	rest, _ := runLoRA(t, "llama", loraGolden("llama", "run.output_dir="+out))
	sameNumbers(t, "LoRA", want.steps, append(first.steps, rest.steps...))
	for _, name := range []string{"adapter_model.safetensors", "adapter_config.json"} {
		a, err := os.ReadFile(filepath.Join(complete, "adapter", name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(out, "adapter", name)); err != nil || string(a) != string(b) {
			t.Errorf("%s differs after a resume, or %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "model")); err == nil {
		t.Error("there is a model beside the adapter")
	}
	a, err := checkpoint.OpenAdapter(filepath.Join(out, "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if fmt.Sprintf("%+v", a.Config) != "{Rank:4 Alpha:8 RSLoRA:false Dropout:0 TargetModules:[down_proj gate_proj o_proj q_proj v_proj] BaseModel:testdata/golden/llama}" {
		t.Errorf("the adapter is %+v", a.Config)
	}
}

// TestFreeze trains parts of a model. What is frozen stays to the bit, and takes no optimizer state; a run of everything but the
// upper layers stops its backward pass there.
func TestFreeze(t *testing.T) {
	whole, _ := runLoRA(t, "qwen2", nil)
	for _, c := range []struct{ freeze, trained string }{
		{`["model.embed_tokens.weight", "model.layers.0.*", "model.layers.1.*"]`, "model.layers.2.mlp.down_proj.weight"},
		{`["*.k_proj.*", "*norm*"]`, "model.layers.0.self_attn.q_proj.weight"}, // parts of a fused matrix
	} {
		sink, out := runLoRA(t, "qwen2", []string{"train.freeze=" + c.freeze, "checkpoint.interval=7"})
		if sink.steps[0].Loss != whole.steps[0].Loss || !(sink.steps[0].GradNorm < whole.steps[0].GradNorm) || sink.steps[9].Loss >= sink.steps[0].Loss {
			t.Errorf("%s: step 1 has %v, without %v; step 10 has %v", c.freeze, sink.steps[0], whole.steps[0], sink.steps[9])
		}
		before, err := checkpoint.OpenWeights("testdata/golden/qwen2")
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close()
		after, err := checkpoint.OpenWeights(filepath.Join(out, "model"))
		if err != nil {
			t.Fatal(err)
		}
		defer after.Close()
		if !slices.Equal(before.Names(), after.Names()) {
			t.Fatalf("the model has %v", after.Names())
		}
		for _, name := range before.Names() {
			frozen := false
			for _, pattern := range strings.Split(strings.Trim(c.freeze, "[]"), ", ") {
				ok, _ := filepath.Match(strings.Trim(pattern, `"`), name)
				frozen = frozen || ok
			}
			if same := sameTensor(t, before, after, name); same != frozen {
				t.Errorf("%s: %s is the same: %v", c.freeze, name, same)
			}
		}
		state, err := checkpoint.OpenReadOnly(filepath.Join(out, "checkpoints"), nil).Newest()
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		if _, ok := state.Weights("exp_avg/").Shape(c.trained); !ok {
			t.Errorf("%s: no state for %s", c.freeze, c.trained)
		}
		if n := len(state.Weights("weight/").Names()); n >= len(before.Names()) {
			t.Errorf("%s: the checkpoint holds all %d weights", c.freeze, n)
		}
	}
}

func sameTensor(t *testing.T, a, b *checkpoint.Weights, name string) bool {
	t.Helper()
	shape, _ := a.Shape(name)
	n := 1
	for _, d := range shape {
		n *= d
	}
	x, y := make([]float32, n), make([]float32, n)
	if err := a.ReadFloat32(name, 0, x); err != nil {
		t.Fatal(err)
	}
	if err := b.ReadFloat32(name, 0, y); err != nil {
		t.Fatal(err)
	}
	return slices.Equal(x, y)
}
