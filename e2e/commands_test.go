package e2e

import (
	"math"
	"strings"
	"testing"
)

// TestModel trains a model and uses it as a user would: sampling and evaluation.
func TestModel(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(2, "out").expect(0)

	generate := func(args ...string) string {
		t.Helper()
		return w.spmd(append([]string{"generate", "out/model", "--prompt", "the ", "--tokens", "60"}, args...)...).expect(0).out.String()
	}
	text := generate("--seed", "7", "--threads", "1")
	if !strings.HasPrefix(text, "the ") || len(text) < 10 {
		t.Errorf("generate wrote %q", text)
	}
	for _, source := range []string{"out", "out/checkpoints/latest"} { // the trained model, whichever way it is named
		same := w.spmd("generate", source, "--prompt", "the ", "--tokens", "60", "--seed", "7").expect(0).out.String()
		if same != text {
			t.Errorf("generate wrote %q from %s, and %q from the model", same, source, text)
		}
	}
	if again := generate("--seed", "7", "--threads", "2"); again != text {
		t.Errorf("the same seed gave %q and %q", text, again)
	}
	if other := generate("--seed", "8"); other == text {
		t.Errorf("another seed gave the same text: %q", text)
	}
	if greedy := generate("--seed", "7", "--temperature", "0"); greedy != generate("--seed", "8", "--temperature", "0") {
		t.Error("the likeliest tokens depend on the seed")
	}

	if one := generate("--seed", "8", "--top-p", "1e-9"); one != generate("--temperature", "0") {
		t.Errorf("of the likeliest token alone another text came: %q", one)
	}

	// The model, loaded from its directory, has the loss that it had when the run ended, whatever the number of ranks.
	_, rest, _ := strings.Cut(configuration, "[data]")
	w.write("evaluate.toml", "[run]\nmode = \"evaluate\"\noutput_dir = \"evaluated\"\n[model]\npath = \"out/model\"\n[data]"+rest)
	start(t, w.dir, programs.launch, "-n", "4", programs.spmd, "evaluate.toml").expect(0)
	want, got := w.metrics("out").validations[steps], w.metrics("evaluated").validations[0]
	if want.ValidationLoss == "" || got.ValidationLoss != want.ValidationLoss {
		t.Errorf("the evaluation's loss is %q, that at the end of the run %q", got.ValidationLoss, want.ValidationLoss)
	}
	loss, _ := got.ValidationLoss.Float64()
	if perplexity, err := got.Perplexity.Float64(); err != nil || perplexity != math.Exp(loss) {
		t.Errorf("the perplexity is %q with a loss of %v", got.Perplexity, loss)
	}
}

// TestChat trains on conversations and has the model answer one.
func TestChat(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.write("template.jinja", "{% for m in messages %}{{ m.role + ' ' + m.content + '. ' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}")
	w.write("chat.jsonl", strings.Repeat(`{"messages": [{"role": "user", "content": "is a rank in the group"}, {"role": "assistant", "content": "a rank is in the group"}]}`+"\n", 40))
	chat := []string{"data.format=chat", "data.paths=chat.jsonl", "data.chat_template=template.jinja", "data.validation_paths=[]", "data.validation_interval=0"}
	w.launch(1, "out", append(chat, "train.steps=12")...).expect(0)
	w.spmd("export", "out", "exported").expect(0)
	w.sameFiles("out/model", "exported")

	generate := func(args ...string) string {
		t.Helper()
		return w.spmd(append([]string{"generate", "out/model", "--tokens", "20", "--seed", "3"}, args...)...).expect(0).out.String()
	}
	w.write("messages.json", `[{"role": "system", "content": "s"}, {"role": "user", "content": "is a"}]`)
	w.write("other.jinja", "{{ messages[0].content }}")
	for text, args := range map[string][]string{
		"user is a. assistant ":           {"--chat", "--prompt", "is a"},
		"system s. user is a. assistant ": {"--messages", "messages.json"},
		"is a <b>":                        {"--chat", "--prompt", "is a <b>", "--chat-template", "other.jinja"},
	} {
		if got, want := generate(args...), generate("--prompt", text); text+got != want {
			t.Errorf("%v: the answer is %q, after the same text it is %q", args, got, want)
		}
	}
	for args, wrong := range map[string]struct {
		status int
		says   string
	}{
		"--chat":                                   {2, "--chat wants a --prompt"},
		"--prompt a --messages messages.json":      {2, "two prompts"},
		"--prompt a --chat-template other.jinja":   {2, "leave it out"},
		"--prompt a --chat --chat-template absent": {1, "absent"},
		"--messages absent":                        {1, "absent"},
		"--messages chat.jsonl":                    {1, "more than one value"},
	} {
		w.spmd(append([]string{"generate", "out/model"}, strings.Fields(args)...)...).expect(wrong.status).says(wrong.says)
	}
	w.launch(1, "plain", "train.steps=4").expect(0)
	w.spmd("generate", "plain/model", "--chat", "--prompt", "a").expect(1).says("--chat-template names")
}

// TestResolvedConfiguration uses what check prints, and what a run writes, as configurations.
func TestResolvedConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	resolved := w.spmd("check", "run.toml", "optimizer.weight_decay=0.01").expect(0).out.String()
	if got := w.files("out"); len(got) != 0 {
		t.Errorf("check wrote %d files", len(got))
	}
	w.write("resolved.toml", resolved)
	if again := w.spmd("check", "resolved.toml").expect(0).out.String(); again != resolved {
		t.Errorf("check of what check printed:\n%s\nwant:\n%s", again, resolved)
	}
	w.launch(2, "want", "optimizer.weight_decay=0.01").expect(0)
	w.spmd("resolved.toml", "run.output_dir=out").expect(0)
	w.sameRun("want", "out")
	w.spmd("want/config.resolved.toml", "run.output_dir=again", "parallel.data=1").expect(0)
	w.sameRun("want", "again")
}

// TestExitStatus holds what the README says of exit statuses. See TestLostRank for ranks that are killed and TestFailingRun
// for runs that fail.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.write("no.toml", "steps = [\n")
	for _, c := range []struct {
		program string
		args    string
		status  int
		says    string
	}{
		{programs.spmd, "--help", 0, "spmd CONFIG.toml"},
		{programs.spmd, "--version", 0, "spmd "},
		{programs.spmd, "check run.toml", 0, "The configuration is sound"},
		{programs.spmd, "check run.toml -n 8", 0, "8 ranks = data 8"},
		{programs.spmd, "", 2, "spmd CONFIG.toml"},
		{programs.spmd, "absent.toml", 2, "absent.toml: "},
		{programs.spmd, "no.toml", 2, "no.toml:"},
		{programs.spmd, "run.toml train.steps", 2, "train.steps"},
		{programs.spmd, "check", 2, "usage"},
		{programs.spmd, "plan run.toml -n 2 parallel.pipeline=2 --schedule", 0, "rank 1  |"},
		{programs.spmd, "plan run.toml", 2, "usage"},
		{programs.spmd, "plan run.toml -n 3 parallel.pipeline=2", 2, "parallel.pipeline: 2 does not divide the 3 ranks"},
		{programs.spmd, "plan --help", 0, "--svg FILE"},
		{programs.spmd, "check run.toml --fast", 2, "--fast"},
		{programs.spmd, "generate", 2, "wants a model"},
		{programs.spmd, "generate absent --tokens 0", 2, "--tokens"},
		{programs.spmd, "generate absent --top-p 1.1", 2, "--top-p"},
		{programs.spmd, "generate absent --prompt a", 2, "absent: no such file or directory; give a checkpoint"},
		{programs.spmd, "generate text --prompt a", 2, "checkpoint text"},
		{programs.spmd, "export --help", 0, "SOURCE is a checkpoint"},
		{programs.launch, "--help", 0, "launch -n N"},
		{programs.launch, "", 2, "-n N"},
		{programs.launch, "-n 2 absent/program", 2, "absent/program"},
		{programs.launch, "-n 2 " + programs.spmd + " absent.toml", 2, "absent.toml: "},
	} {
		start(t, w.dir, c.program, strings.Fields(c.args)...).expect(c.status).says(c.says)
	}
	if got := w.files("out"); len(got) != 0 {
		t.Errorf("commands that start nothing wrote %d files", len(got))
	}
}
