package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// mistakes are five different ones. Each replaces a line of the configuration; want is the problem that is shown, behind
// file and line: the key, what is wrong, and the remedy.
var mistakes = []struct{ line, wrong, want string }{
	{`hidden_size = 32`, `hidden_size = 30`, "model.config.hidden_size: 30 is no multiple of num_attention_heads = 4; use 32, or set head_dim"},
	{`paths = ["text"]`, `paths = ["texts"]`, `data.paths: data path "texts": there is no `},
	{`sequence_length = 32`, `sequense_length = 32`, "data.sequense_length: unknown key; did you mean sequence_length?"},
	{`steps = 40`, `steps = "forty"`, `train.steps: expected an integer, not the string "forty"; set it to an integer, at least 1`},
	{`global_batch_size = 16`, `global_batch_size = 14`, "train.global_batch_size: 14 is not a multiple of micro_batch_size x data ranks = 1 x 4; use 12 or 16"},
}

// TestMistakes gives a configuration with five different mistakes to four ranks: all are shown, once, before anything is
// written.
func TestMistakes(t *testing.T) {
	w := newWorkspace(t)
	text := configuration
	for _, m := range mistakes {
		text = strings.Replace(text, "\n"+m.line+"\n", "\n"+m.wrong+"\n", 1)
	}
	w.write("run.toml", text)
	before := w.files(".")
	began := time.Now()
	j := w.launch(4, "out").expect(2)
	elapsed := time.Since(began)
	t.Logf("refused in %v", elapsed)
	if elapsed > 5*time.Second {
		t.Errorf("it took %v to refuse a configuration", elapsed)
	}
	for _, m := range mistakes {
		line := 1 + strings.Count(text[:strings.Index(text, "\n"+m.wrong+"\n")+1], "\n")
		want := fmt.Sprintf("run.toml:%d: %s", line, m.want)
		if got := strings.Count(j.String(), want); got != 1 {
			t.Errorf("%q is shown %d times in:\n%s", want, got, j)
		}
	}
	for line := range strings.Lines(j.String()) {
		if what, remedy, ok := strings.Cut(strings.TrimSpace(line), "; "); !ok || what == "" || remedy == "" {
			t.Errorf("a line without a remedy: %q", line)
		}
	}
	if after := w.files("."); !maps.Equal(before, after) {
		t.Errorf("a refused run wrote something: there were %d files, now there are %d", len(before), len(after))
	}

	// The command that starts nothing says the same.
	checked := w.spmd("check", "run.toml", "-n", "4").expect(2)
	if checked.String() != j.String() {
		t.Errorf("check says:\n%s\nthe run said:\n%s", checked, j)
	}
}

// TestMistakesOnTheCommandLine are told apart from those of the file.
func TestMistakesOnTheCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(2, "out", "optimizer.lr=fast", "trian.steps=3").expect(2).says("command line: optimizer.lr: ", "command line: trian: unknown section; did you mean [train]?")
	w.launch(3, "out", "run.gradient_lanes=8").expect(2).says("command line: run.gradient_lanes: 8 lanes cannot be shared evenly by 3 data ranks; ")
	if got := w.files("out"); len(got) != 0 {
		t.Errorf("a refused run wrote %d files", len(got))
	}
}
