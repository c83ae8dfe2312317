package e2e

import (
	"strings"
	"testing"
)

// TestExport takes a run's state through every format and back.
func TestExport(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(2, "out", "optimizer.ema_decay=0.9").expect(0)
	export := func(args ...string) { t.Helper(); w.spmd(append([]string{"export"}, args...)...).expect(0) }

	// The last checkpoint is the trained model, whichever way it is named.
	for i, source := range []string{"out", "out/checkpoints", "out/checkpoints/latest", "out/checkpoints/" + w.latest("out"), "out/model"} {
		name := "exported" + string(rune('a'+i))
		export(source, name)
		w.sameFiles("out/model", name)
	}
	export("out", "averaged", "--ema")
	w.sameFiles("out/model-ema", "averaged")
	// Through MindSpore's formats nothing is lost.
	for _, options := range []string{"--format ckpt", "--format mindspore", "--format ckpt --names mindformers", "--format mindspore --names mindformers"} {
		name := "through" + strings.ReplaceAll(options, " ", "")
		export(append([]string{"out", name, "--optimizer"}, strings.Fields(options)...)...)
		export(name, name+".back")
		w.sameFiles("out/model", name+".back")
	}
	// A MindSpore directory is a model to train from.
	_, rest, _ := strings.Cut(configuration, "[data]")
	w.write("tune.toml", "[run]\noutput_dir = \"tuned\"\nmode = \"finetune\"\n[model]\npath = \"out/model\"\n[data]"+rest)
	w.spmd("tune.toml", "run.stop_step=2").expect(0)
	w.spmd("tune.toml", "run.stop_step=2", "run.output_dir=tuned2", "model.path=through--formatckpt--namesmindformers").expect(0)
	w.sameMetrics("tuned", "tuned2")

	export("out", "shards", "--dtype", "bfloat16", "--max-shard-size", "20KB", "--optimizer")
	files := w.files("shards")
	if files["model.safetensors.index.json"] == "" || files["optimizer.safetensors"] == "" || !strings.Contains(files["config.json"], `"bfloat16"`) {
		t.Errorf("shards hold %d files, config.json is %s", len(files), files["config.json"])
	}
	w.spmd("generate", "shards", "--prompt", "the ", "--tokens", "4").expect(0).says("the ")

	w.write("thesis/chapter.txt", "x")
	for args, says := range map[string]string{
		"out":                                "a source and an output directory",
		"out x --format pickle --dtype int8": "--dtype \"int8\" is none; use float32",
		"out x --names mindformers":          "add --format ckpt",
		"out x --max-shard-size huge":        "write it as 500MB",
		"out/model out/model":                "are the same",
		"absent x":                           "give a checkpoint",
		"text x":                             "checkpoint text",
		"out/model x --ema":                  "has no average of the weights",
		"out/model x --optimizer":            "has no optimizer state of this model; give a checkpoint",
		"out thesis":                         "move it away",
		"out x --tokenizer text":             "--tokenizer: ",
	} {
		w.spmd(append([]string{"export"}, strings.Fields(args)...)...).expect(2).says(says)
	}
	if got := w.files("x"); len(got) != 0 {
		t.Errorf("exports that were refused wrote %d files", len(got))
	}
}

// TestStateInMindSporesFormat stops a run with one format of the state and goes on with the other.
func TestStateInMindSporesFormat(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(1, "want").expect(0)
	w.launch(1, "out", "run.stop_step=10", "checkpoint.format=ckpt").expect(0)
	if state := w.files("out/checkpoints/" + w.latest("out"))["state-00000.ckpt"]; !strings.Contains(state, "adam_m.model.norm.weight") {
		t.Errorf("state-00000.ckpt has %d bytes, and not MindSpore's names", len(state))
	}
	w.launch(1, "out", "run.stop_step=20").expect(0)
	w.launch(1, "out", "checkpoint.format=ckpt").expect(0)
	w.sameMetrics("want", "out")
	w.sameFiles("want/model", "out/model")
}
