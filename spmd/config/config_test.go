package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
	"lockstep/spmd/optim"
)

var update = flag.Bool("update", false, "write the golden files and docs/config.md anew")

// options returns how a test configuration is loaded: its first line may be "#! [-n WORLD] [section.key=value ...]".
func options(t *testing.T, path string) LoadOptions {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := LoadOptions{Path: path, Getenv: func(string) string { return "" }, Goroot: func() (string, error) { return "", errors.New("no Go here") }}
	line, _, _ := strings.Cut(string(text), "\n")
	arguments, ok := strings.CutPrefix(line, "#! ")
	if !ok {
		return o
	}
	o.Overrides = strings.Fields(arguments)
	if o.Overrides[0] == "-n" {
		if o.World, err = strconv.Atoi(o.Overrides[1]); err != nil {
			t.Fatal(err)
		}
		o.Overrides = o.Overrides[2:]
	}
	return o
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// TestProblems compares all problems of wrong configurations with golden files.
func TestProblems(t *testing.T) {
	paths, err := filepath.Glob("testdata/problems/*.toml")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d configurations, %v", len(paths), err)
	}
	directory, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".toml"), func(t *testing.T) {
			config, problems := Load(options(t, path))
			if config != nil || len(problems) == 0 {
				t.Errorf("a configuration and %d problems", len(problems))
			}
			for _, p := range problems {
				if p.What == "" || p.Remedy == "" && !strings.Contains(p.What, ";") {
					t.Errorf("no remedy: %s", p)
				}
			}
			// Messages about the data have absolute paths.
			text := strings.ReplaceAll(problems.String(), directory+"/", "")
			golden(t, strings.TrimSuffix(path, ".toml")+".golden", []byte(text))
		})
	}
	if _, err := os.Stat("testdata/no_such_output"); err == nil {
		t.Error("a check has made the output directory")
	}
}

// load loads testdata/valid.toml with overrides, which must be without a problem.
func load(t *testing.T, world int, overrides ...string) *Config {
	t.Helper()
	o := options(t, "testdata/valid.toml")
	o.World, o.Overrides = world, overrides
	c, problems := Load(o)
	if len(problems) > 0 {
		t.Fatalf("%q: %v", overrides, problems)
	}
	return c
}

func TestLoad(t *testing.T) {
	start := time.Now()
	c := load(t, 0)
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
	want := Default()
	want.Run.OutputDir = "testdata/no_such_output"
	want.Model.Path = "testdata/model"
	want.Data.Paths, want.Data.SequenceLength, want.Data.Tokenizer, want.Data.EOD = []string{"testdata/text"}, 16, "bytes", 256
	want.Train.Steps, want.Train.GlobalBatchSize = 10, 8
	want.Optimizer.LR, want.MoE.AuxLoss, want.Tokenizer = 1e-3, "none", tokenizer.Bytes{}
	if c.Architecture == nil || c.Architecture.HiddenSize != 32 {
		t.Errorf("architecture %+v", c.Architecture)
	}
	want.Architecture = c.Architecture
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	if c.MicroBatches() != 8 || c.TokensPerStep() != 128 {
		t.Errorf("%d micro batches, %d tokens per step", c.MicroBatches(), c.TokensPerStep())
	}
}

func TestOverrides(t *testing.T) {
	c := load(t, 0, "train.steps=20", "run.output_dir=2026", "data.shuffle=false", "optimizer.betas=[0.8, 0.9]", "data.paths=testdata/text/one.txt",
		"recompute.mode=full", "recompute.layers=1", "collective.timeout=90s", "model.overrides.num_hidden_layers=3", `model.overrides.rope_scaling={rope_type="linear", factor=2.0}`,
		"train.steps=30", " optimizer.lr = 1 ")
	if c.Train.Steps != 30 || c.Run.OutputDir != "2026" || c.Data.Shuffle || c.Optimizer.Betas != [2]float64{0.8, 0.9} ||
		!reflect.DeepEqual(c.Data.Paths, []string{"testdata/text/one.txt"}) || c.Collective.Timeout != 90*time.Second || c.Optimizer.LR != 1 {
		t.Errorf("got %+v", c)
	}
	if c.Recompute.Mode != "full" || !reflect.DeepEqual(c.Recompute.Layers, []string{"1"}) {
		t.Errorf("got %+v", c.Recompute)
	}
	if c.Architecture.NumHiddenLayers != 3 || c.Architecture.RoPE.Factor != 2 {
		t.Errorf("got %+v", c.Architecture)
	}
}

func TestDataRanks(t *testing.T) {
	for _, test := range []struct {
		world         int
		overrides     []string
		data          int
		deterministic string
		notes         int
	}{
		{0, nil, 0, "layout", 0},
		{1, nil, 1, "layout", 0},
		{8, nil, 8, "layout", 0},
		{8, []string{"parallel.data=8"}, 8, "layout", 0},
		{0, []string{"parallel.data=2"}, 2, "layout", 0},
		{3, []string{"train.global_batch_size=12"}, 3, "run", 1},
		{16, []string{"train.global_batch_size=16"}, 16, "run", 1},
		{8, []string{"parallel.context=2"}, 4, "layout", 0},
		{12, []string{"parallel.context=3", "data.sequence_length=18"}, 4, "run", 1},
		{16, []string{"train.global_batch_size=16", "run.gradient_lanes=16"}, 16, "layout", 0},
		{16, []string{"train.global_batch_size=16", "run.gradient_lanes=1", "run.deterministic=off"}, 16, "off", 0},
	} {
		c := load(t, test.world, test.overrides...)
		if c.Parallel.Data != test.data || c.Run.Deterministic != test.deterministic || len(c.Notes) != test.notes {
			t.Errorf("%d ranks, %q: data %d, %s, notes %q", test.world, test.overrides, c.Parallel.Data, c.Run.Deterministic, c.Notes)
		}
	}
}

func TestEvaluateNeedsNoTraining(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/model/config.json")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), text)
	c0, modelProblems := model.ReadConfig(dir, nil)
	if len(modelProblems) > 0 {
		t.Fatal(modelProblems)
	}
	writeWeights := func(parameters []*model.Parameter) {
		var tensors []safetensors.Tensor
		for _, p := range parameters {
			tensors = append(tensors, safetensors.Tensor{Name: p.Name, DType: safetensors.F32, Shape: p.Shape, Data: safetensors.Bytes(make([]byte, 4*p.Len()))})
		}
		var file bytes.Buffer
		if err := safetensors.Write(&file, tensors, nil); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "model.safetensors"), file.Bytes())
	}
	parameters := model.New(c0, model.Partition{}).Parameters
	writeWeights(parameters)
	o := LoadOptions{Path: filepath.Join(dir, "c.toml")}
	write(t, o.Path, []byte(`
		run = { output_dir = "testdata/no_such_output", mode = "evaluate" }
		model.path = `+quote(dir)+`
		data = { validation_paths = ["testdata/text/*.txt"], sequence_length = 16 }
		train.global_batch_size = 2`))
	c, problems := Load(o)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if _, ok := c.ValidationData(o); !ok {
		t.Error("no validation data")
	}
	resolved := o
	resolved.Path = filepath.Join(dir, "config.resolved.toml")
	write(t, resolved.Path, c.Resolved())
	if again, problems := Load(resolved); len(problems) > 0 || again.Train.Steps != 0 {
		t.Errorf("the resolved configuration: %v", problems)
	}
	o.Overrides = []string{"run.mode=pretrain"}
	if _, problems := Load(o); len(problems) != 3 { // steps, lr, data.paths
		t.Errorf("got %v", problems)
	}
	parameters[2].Name += ".x"
	writeWeights(parameters)
	if _, problems := Load(resolved); len(problems) != 1 || problems[0].Key != "model.path" ||
		!strings.Contains(problems[0].What, "k_proj.weight [16 32] is missing") || !strings.Contains(problems[0].What, "k_proj.weight.x [16 32] is not part of this model") {
		t.Errorf("another model's weights: %v", problems)
	}
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 20); err != nil {
		t.Fatal(err)
	}
	if _, problems := Load(resolved); len(problems) != 1 || problems[0].Key != "model.path" {
		t.Errorf("cut weights: %v", problems)
	}
}

func TestFinetuneWithoutWeightsNotes(t *testing.T) {
	c := load(t, 1, "run.mode=finetune")
	if len(c.Notes) != 1 || !strings.HasPrefix(c.Notes[0], "testdata/valid.toml:5: model.path: ") {
		t.Errorf("notes %q", c.Notes)
	}
	if c := load(t, 1, "run.mode=finetune", "model.init=random"); len(c.Notes) != 0 {
		t.Errorf("notes %q", c.Notes)
	}
}

func TestGoroot(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "a.go"), bytes.Repeat([]byte("package a\n"), 10))
	o := options(t, "testdata/valid.toml")
	o.Overrides = []string{"data.paths=$GOROOT/*.go"}
	if _, problems := Load(o); len(problems) != 1 || !strings.Contains(problems[0].What, "no Go here") {
		t.Errorf("got %v", problems)
	}
	o.Goroot = func() (string, error) { return root, nil }
	if _, problems := Load(o); len(problems) > 0 {
		t.Error(problems)
	}
	o.Goroot = nil
	o.Getenv = func(name string) string { return map[string]string{"GOROOT": root}[name] }
	if _, problems := Load(o); len(problems) > 0 {
		t.Error(problems)
	}
}

func TestFilesThatAreNoConfiguration(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.toml")
	write(t, large, make([]byte, maxFileSize+1))
	for _, test := range []struct{ path, want string }{
		{dir, "is not a regular file"},
		{large, "more than the 262144"},
		{filepath.Join(dir, "none.toml"), "no such file"},
	} {
		_, problems := Load(LoadOptions{Path: test.path})
		if len(problems) != 1 || !strings.Contains(problems[0].What, test.want) || problems[0].File != test.path {
			t.Errorf("%s: got %v", test.path, problems)
		}
	}
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestResolved(t *testing.T) {
	for _, overrides := range [][]string{
		nil,
		{"model.overrides.rope_scaling={rope_type='linear', factor=2.0}", `model.overrides."=x"=1`, "data.paths=['testdata/text/one.txt', 'testdata/text/*.txt']"},
		{`model.config={model_type="llama", vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, eos_token_id=[1, 2]}`, "model.path="},
		{"lr_schedule.type=wsd", "lr_schedule.decay_steps=2", "lr_schedule.min_lr=1e-5", "optimizer.eps=1e-300", "collective.timeout=1h0.5s"},
		{"data.validation_split=0.5", "data.validation_interval=3", "data.eod=7", "data.eod_mask_loss=true", "data.reset_attention_mask=true", "data.reset_position_ids=true", "run.seed=9223372036854775807", "checkpoint.resume=none"},
		{`data.blend=[{weight=1, paths="testdata/text"}, {weight=2.5, paths=["testdata/text/one.txt"]}]`, "data.paths=[]", "data.packing=best-fit", "data.overlong=split", "data.reset_position_ids=false"},
	} {
		c := load(t, 2, overrides...)
		path := filepath.Join(t.TempDir(), "config.resolved.toml")
		write(t, path, c.Resolved())
		again, problems := Load(LoadOptions{Path: path, World: 2})
		if len(problems) > 0 {
			t.Fatalf("%q: %v\n%s", overrides, problems, c.Resolved())
		}
		if !reflect.DeepEqual(again, c) {
			t.Errorf("%q: got\n%s\nwant\n%s", overrides, again.Resolved(), c.Resolved())
		}
	}
	golden(t, "testdata/resolved.golden", load(t, 2).Resolved())
}

func TestNearest(t *testing.T) {
	candidates := []string{"steps", "global_batch_size", "micro_batch_size", "lr"}
	for name, want := range map[string]string{
		"step": "steps", "stpes": "steps", "Steps": "steps", "global_batchsize": "global_batch_size", "macro_batch_size": "micro_batch_size",
		"l": "lr", "xyz": "", "learning_rate": "", "": "",
	} {
		if got, ok := nearest(name, candidates); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"abc", "", 3}, {"abcdefgh", "x", 5}} {
		if got := editDistance(test.a, test.b, 5); got != test.want {
			t.Errorf("%q, %q: got %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestIntervals(t *testing.T) {
	for _, test := range []struct {
		tag, words string
		in, out    []float64
	}{
		{"", "", []float64{-1e300, 1e300}, nil},
		{"[1,)", "at least 1", []float64{1, 1e300}, []float64{0}},
		{"(0,)", "more than 0", []float64{1e-300}, []float64{0, -1}},
		{"[0,1)", "at least 0 and less than 1", []float64{0, 0.5}, []float64{1, -1}},
		{"[1,65536]", "from 1 to 65536", []float64{1, 65536}, []float64{0, 65537}},
		{"(,3]", "at most 3", []float64{-5, 3}, []float64{4}},
	} {
		i := parseInterval(test.tag)
		if i.String() != test.words {
			t.Errorf("%s: %q, want %q", test.tag, i, test.words)
		}
		for _, x := range test.in {
			if !i.contains(x) {
				t.Errorf("%s excludes %v", test.tag, x)
			}
		}
		for _, x := range test.out {
			if i.contains(x) {
				t.Errorf("%s includes %v", test.tag, x)
			}
		}
	}
}

// TestSchedule checks that what passes the checks here is what package optim takes, and no more.
func TestSchedule(t *testing.T) {
	for _, overrides := range [][]string{
		{"lr_schedule.min_lr=1e-3"},
		{"lr_schedule.type=linear", "lr_schedule.warmup_steps=10"},
		{"lr_schedule.type=constant", "lr_schedule.warmup_steps=3"},
		{"lr_schedule.type=cosine-restarts", "lr_schedule.num_cycles=3"},
		{"lr_schedule.type=polynomial", "lr_schedule.power=0.5"},
		{"lr_schedule.type=wsd", "lr_schedule.warmup_steps=4", "lr_schedule.decay_steps=6"},
	} {
		if _, err := optim.NewSchedule(load(t, 0, overrides...).Schedule()); err != nil {
			t.Errorf("%q: %v", overrides, err)
		}
	}
	for _, overrides := range [][]string{
		{"lr_schedule.type=constant", "lr_schedule.min_lr=1e-4"},
		{"lr_schedule.type=wsd", "lr_schedule.warmup_steps=4", "lr_schedule.decay_steps=7"},
		{"lr_schedule.type=wsd", "lr_schedule.warmup_steps=4", "lr_schedule.decay_steps=0"},
		{"lr_schedule.power=0"}, {"lr_schedule.type=cosine-restarts", "lr_schedule.num_cycles=-1"},
	} {
		o := options(t, "testdata/valid.toml")
		o.Overrides = overrides
		if _, problems := Load(o); len(problems) != 1 {
			t.Errorf("%q: %v", overrides, problems)
		}
	}
}

// TestQuickstart checks the first configuration that a user runs, on the ranks that its comment names and on others.
func TestQuickstart(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"sort", "strings", "net/url"} {
		if err := os.MkdirAll(filepath.Join(root, "src", dir), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, "src", dir, "a.go"), bytes.Repeat([]byte("package a\n"), 1000))
	}
	for _, world := range []int{0, 1, 2, 4, 8} {
		o := LoadOptions{Path: "../../configs/quickstart.toml", World: world, Goroot: func() (string, error) { return root, nil }}
		o.Overrides = []string{"run.output_dir=" + filepath.Join(t.TempDir(), "out")}
		c, problems := Load(o)
		if len(problems) > 0 {
			t.Errorf("%d ranks: %v", world, problems)
		} else if len(c.Notes) > 0 {
			t.Errorf("%d ranks: notes %q", world, c.Notes)
		}
	}
}
