package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/spmd/config"
)

// TestPlan plans four stages of two data ranks, and compares what they send with what it must be.
func TestPlan(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.toml")
	if err := os.WriteFile(filepath.Join(dir, "text"), make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(path, []byte(`
run.output_dir = "`+dir+`/out"
data = { paths = "`+dir+`/text", sequence_length = 16 }
train = { steps = 10, global_batch_size = 12 }
optimizer.lr = 1e-3
parallel = { pipeline = 4, data = 2 }
[model.config]
model_type = "llama"
vocab_size = 257
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 6
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
tie_word_embeddings = true
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	c, problems := config.Load(config.LoadOptions{Path: path, World: 8, Getenv: func(string) string { return "" }})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	p, err := New(dev, c, 8)
	if err != nil {
		t.Fatal(err)
	}
	const boundary, rows = 16 * 32 * 4, 12 * 16 * 32 * 4 // a step of 192 tokens touches at most 192 rows of the table
	for i, want := range []int{6*boundary + rows, 12 * boundary, 12 * boundary, 6*boundary + rows} {
		if got := p.Stages[i].Traffic().Stages; got != want {
			t.Errorf("stage %d sends %d bytes to other stages, want %d", i, got, want)
		}
	}
	weights, operations := 0, 0.0
	for _, l := range p.Stages {
		gradients := l.Memory.Gradients / 3 // lanes 0 to 3 of 8 in 3 buffers
		if got := l.Traffic().Gradients; got > gradients || got < gradients*9/10 {
			t.Errorf("a rank with %d bytes of gradients sends %d to one other", gradients, got)
		}
		weights += l.Memory.Weights
		operations += l.Stage().Operations
	}
	if n := 4 * p.Stages[0].Model.NumParameters(); weights < n || weights > n*11/10 {
		t.Errorf("the stages have %d bytes of weights, the model has %d", weights, n)
	}
	// Forward and backward passes are six operations for each weight and token, and attention.
	if n := 6 * 96 * float64(p.Stages[0].Model.NumParameters()); operations < n || operations > n*3/2 {
		t.Errorf("the stages make %v operations, about %v are expected", operations, n)
	}
	var text strings.Builder
	if err := p.Write(&text, 1e9); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"embedding, 0-1", "5, head", "The 4 stages idle for", "A step takes about"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the plan does not say %q:\n%s", want, text.String())
		}
	}
}
