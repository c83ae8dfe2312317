package e2e

import (
	"strings"
	"testing"
)

// TestLoRA fine-tunes a model by adapters as a user would: train, stop, go on, export, merge, sample.
func TestLoRA(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(1, "base").expect(0)
	_, rest, _ := strings.Cut(configuration, "[data]")
	w.write("lora.toml", "[run]\nmode = \"finetune\"\n[model]\npath = \"base/model\"\n[lora]\nrank = 4\ntarget_modules = [\"q_proj\", \"*_proj\"]\n[data]"+rest)
	run := func(ranks, out string, overrides ...string) *job {
		t.Helper()
		return start(t, w.dir, programs.launch, append([]string{"-n", ranks, programs.spmd, "lora.toml", "run.output_dir=" + out}, overrides...)...)
	}
	run("1", "want").expect(0).says("LoRA of rank 4 on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj")
	run("2", "out", "run.stop_step=20").expect(0)
	run("4", "out").expect(0)
	w.sameMetrics("want", "out")
	w.sameFiles("want/adapter", "out/adapter")
	if m := w.metrics("out"); m.validations[40].ValidationLoss >= m.validations[0].ValidationLoss {
		t.Errorf("LoRA took the loss from %s to %s", m.validations[0].ValidationLoss, m.validations[40].ValidationLoss)
	}

	export := func(args ...string) { t.Helper(); w.spmd(append([]string{"export"}, args...)...).expect(0) }
	export("out", "adapter")
	w.sameFiles("out/adapter", "adapter")
	export("out", "merged", "--merge")
	export("adapter", "merged2", "--merge")
	w.sameFiles("merged", "merged2")
	generate := func(args ...string) string {
		t.Helper()
		return w.spmd(append([]string{"generate", "--prompt", "the ", "--tokens", "50", "--seed", "3"}, args...)...).expect(0).out.String()
	}
	adapted := generate("out/adapter")
	if merged := generate("merged"); !strings.HasPrefix(adapted, "the ") || merged != adapted {
		t.Errorf("the model with its adapter wrote %q, merged %q", adapted, merged)
	}
	if base := generate("base/model"); base == adapted {
		t.Errorf("with and without the adapter the model wrote %q", base)
	}
	if based := generate("adapter", "--base", "merged"); based == adapted {
		t.Errorf("--base changed nothing of %q", based)
	}
	w.spmd("generate", "merged", "--base", "base/model").expect(2).says("is no adapter")
	w.spmd("generate", "adapter", "--base", "absent").expect(2).says("--base DIR")
	// The merged model has the loss of the model with its adapter, but for the rounding of the sum.
	w.write("evaluate.toml", "[run]\nmode = \"evaluate\"\n[data]"+rest)
	evaluate := func(out string, overrides ...string) float64 {
		t.Helper()
		w.spmd(append([]string{"evaluate.toml", "run.output_dir=" + out}, overrides...)...).expect(0)
		loss, err := w.metrics(out).validations[0].ValidationLoss.Float64()
		if err != nil {
			t.Fatal(err)
		}
		return loss
	}
	with := evaluate("evaluated", "model.path=base/model", "lora.rank=4", "lora.init=adapter")
	merged := evaluate("evaluated2", "model.path=merged")
	if d := with/merged - 1; d > 1e-6 || d < -1e-6 {
		t.Errorf("the loss with the adapter is %v, merged %v", with, merged)
	}
	// A changed model is not the one that the checkpoint belongs to.
	run("1", "out", "train.steps=50", "model.path=merged").expect(2).says("weights (contents)")
	run("1", "out", "train.steps=50", "lora.alpha=8").expect(2).says("lora.alpha was 16, now 8")
	for args, says := range map[string]string{
		"out x --format ckpt":              "holds an adapter",
		"adapter x":                        "add --merge",
		"base x --merge":                   "has no LoRA adapter",
		"out x --merge --optimizer":        "no optimizer state of this model",
		"adapter x --merge --base adapter": "--base DIR",
	} {
		w.spmd(append([]string{"export"}, strings.Fields(args)...)...).expect(2).says(says)
	}
}

// TestFrozen trains a part of a model, and exports the checkpoint with the rest.
func TestFrozen(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(1, "base").expect(0)
	_, rest, _ := strings.Cut(configuration, "[data]")
	w.write("tune.toml", "[run]\noutput_dir = \"out\"\n[model]\npath = \"base/model\"\n[data]"+rest)
	w.write("base/model/generation_config.json", `{"eos_token_id": [256]}`)
	w.spmd("tune.toml", `train.freeze=["model.embed_tokens.*", "model.layers.0.*"]`).expect(0).says("all but model.embed_tokens.*, model.layers.0.*")
	w.spmd("export", "out", "exported").expect(0)
	w.sameFiles("out/model", "exported")
	if got := w.files("out/model")["generation_config.json"]; got != `{"eos_token_id": [256]}` {
		t.Errorf("generation_config.json is %q", got)
	}
	w.spmd("tune.toml", "train.freeze=model.layer.*", "run.output_dir=x").expect(2).says("matches no parameter")
	w.spmd("tune.toml", "train.freeze=*", "run.output_dir=x").expect(2).says("all parameters are frozen")
}
