package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// steps is how long the configuration's run is.
const steps = 40

// configuration is a Llama of 27 thousand parameters. Its 40 steps of 16 samples go through the text's 500 samples more than
// once, so that an order of samples that is not resumed right shows.
const configuration = `[run]
output_dir = "out"

[model.config]
model_type = "llama"
vocab_size = 257
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
tie_word_embeddings = true

[data]
format = "text"
paths = ["text"]
validation_paths = ["text/held-out.txt"]
validation_interval = 10
sequence_length = 32

[train]
steps = 40
global_batch_size = 16

[optimizer]
lr = 3e-3

[lr_schedule]
warmup_steps = 4

[checkpoint]
interval = 3
keep = 3
`

// A workspace is a directory with a configuration, run.toml, and the text that it trains on.
type workspace struct {
	t   *testing.T
	dir string
}

func newWorkspace(t *testing.T) *workspace {
	t.Helper()
	w := &workspace{t: t, dir: t.TempDir()}
	w.write("run.toml", configuration)
	for i, name := range []string{"a.txt", "b.txt", "more/c.txt", "held-out.txt"} {
		w.write("text/"+name, prose(uint64(i), 4000+1000*i))
	}
	return w
}

// prose returns text with something to learn: words that follow one another by simple rules.
func prose(seed uint64, size int) string {
	words := strings.Fields("the a model step loss rank tree bit lane group state seed text order sum of in to and is has")
	chance := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	for at := 0; b.Len() < size; {
		b.WriteString(words[at])
		at = (3*at + 1 + chance.IntN(4)) % len(words)
		b.WriteByte(" \n"[chance.IntN(9)/8])
	}
	return b.String()
}

// path returns the path of a file of the workspace.
func (w *workspace) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *workspace) write(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// launch starts run.toml on a number of ranks, with its results in the directory out.
func (w *workspace) launch(ranks int, out string, overrides ...string) *job {
	w.t.Helper()
	args := []string{"-n", strconv.Itoa(ranks), programs.spmd, "run.toml", "run.output_dir=" + out}
	return start(w.t, w.dir, programs.launch, append(args, overrides...)...)
}

// spmd starts spmd alone.
func (w *workspace) spmd(args ...string) *job {
	w.t.Helper()
	return start(w.t, w.dir, programs.spmd, args...)
}

// A row is what metrics.jsonl says of a step, its numbers as they are written.
type row struct {
	Step           int
	Loss           json.Number
	GradNorm       json.Number `json:"grad_norm"`
	LR             json.Number
	ValidationLoss json.Number `json:"validation_loss"`
	Perplexity     json.Number `json:"validation_perplexity"`
	Stall          json.Number `json:"checkpoint_stall_ms"`
}

// metrics are the rows of a run by their steps. The last row of a step counts.
type metrics struct {
	steps, validations map[int]row
	lines              int
}

// metrics reads the metrics of a run. Every number must be written in the shortest form that reads back to the same float64,
// so that two numbers are the same bits exactly if they are the same text.
func (w *workspace) metrics(out string) metrics {
	w.t.Helper()
	text, err := os.ReadFile(w.path(out, "metrics.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	m := metrics{steps: map[int]row{}, validations: map[int]row{}}
	for line := range bytes.Lines(text) {
		var r row
		if err := json.Unmarshal(line, &r); err != nil {
			w.t.Fatalf("%s/metrics.jsonl: %s: %v", out, line, err)
		}
		if r.Stall != "" {
			continue // how long steps waited for a checkpoint is no result
		}
		m.lines++
		numbers, rows := []json.Number{r.ValidationLoss}, m.validations
		if r.ValidationLoss == "" {
			numbers, rows = []json.Number{r.Loss, r.GradNorm, r.LR}, m.steps
		}
		for _, n := range numbers {
			if x, err := n.Float64(); err != nil || strconv.FormatFloat(x, 'g', -1, 64) != n.String() {
				w.t.Fatalf("%s/metrics.jsonl: row %d: %q is not the shortest form of a float64", out, m.lines, n)
			}
		}
		rows[r.Step] = r
	}
	return m
}

// last returns the last step.
func (m metrics) last() int {
	last := 0
	for step := range m.steps {
		last = max(last, step)
	}
	return last
}

// sameMetrics compares the numbers of two runs, which must have the same steps.
func (w *workspace) sameMetrics(want, got string) {
	w.t.Helper()
	a, b := w.metrics(want), w.metrics(got)
	if len(a.steps) != a.last() {
		w.t.Fatalf("%s has rows for %d of %d steps", want, len(a.steps), a.last())
	}
	for what, pair := range map[string][2]map[int]row{"step": {a.steps, b.steps}, "validation": {a.validations, b.validations}} {
		wanted, have := slices.Sorted(maps.Keys(pair[0])), slices.Sorted(maps.Keys(pair[1]))
		if !slices.Equal(wanted, have) {
			w.t.Errorf("%s has rows for %s %v, %s for %v", got, what, have, want, wanted)
		}
		for _, step := range wanted {
			if pair[0][step] != pair[1][step] {
				w.t.Errorf("%s: %s %d is %+v, in %s %+v", got, what, step, pair[1][step], want, pair[0][step])
				break
			}
		}
	}
}

// nearLosses compares the losses of two runs, up to a relative difference.
func (w *workspace) nearLosses(want, got string, most float64) {
	w.t.Helper()
	a, b := w.metrics(want), w.metrics(got)
	if len(a.steps) != len(b.steps) {
		w.t.Fatalf("%s has %d steps, %s %d", got, len(b.steps), want, len(a.steps))
	}
	for step, r := range a.steps {
		x, _ := r.Loss.Float64() // metrics has read it before
		y, _ := b.steps[step].Loss.Float64()
		if math.Abs(x-y) > most*x {
			w.t.Errorf("%s: step %d has the loss %v, in %s %v", got, step, y, want, x)
		}
	}
}

// sameFiles compares two directories of two runs byte for byte.
func (w *workspace) sameFiles(want, got string) {
	w.t.Helper()
	a, b := w.files(want), w.files(got)
	if names := slices.Sorted(maps.Keys(a)); len(names) == 0 || !slices.Equal(names, slices.Sorted(maps.Keys(b))) {
		w.t.Fatalf("%s holds %v, %s holds %v", want, names, got, slices.Sorted(maps.Keys(b)))
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if a[name] != b[name] {
			w.t.Errorf("%s and %s differ in %s", want, got, name)
		}
	}
}

// sameRun compares two finished runs: their numbers, their trained models, and the states of their last checkpoints, which other
// ranks may have written in other slices.
func (w *workspace) sameRun(want, got string) {
	w.t.Helper()
	w.sameMetrics(want, got)
	w.sameFiles(want+"/model", got+"/model")
	w.sameState(want, got)
}

// sameState compares what the last checkpoints of two runs hold.
func (w *workspace) sameState(want, got string) {
	w.t.Helper()
	for _, out := range []string{want, got} {
		w.spmd("export", out, out+".state", "--optimizer").expect(0)
	}
	w.sameFiles(want+".state", got+".state")
}

// latest returns the name of the newest complete checkpoint.
func (w *workspace) latest(out string) string {
	w.t.Helper()
	name, err := os.ReadFile(w.path(out, "checkpoints", "latest"))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// files returns the contents of all files below a directory. A directory that is not there has none.
func (w *workspace) files(dir string) map[string]string {
	w.t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(os.DirFS(w.dir), dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(w.path(path))
		found[strings.TrimPrefix(path, dir+"/")] = string(text)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return found
}
