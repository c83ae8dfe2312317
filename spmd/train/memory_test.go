package train_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/spmd/train"
)

// smolLM2 is the shape of configs/smollm2-135m.toml without the tie, so that the head's table is a bucket of its own.
const smolLM2 = `
[model.config]
model_type = "llama"
vocab_size = 49152
hidden_size = 576
intermediate_size = 1536
num_hidden_layers = 30
num_attention_heads = 9
num_key_value_heads = 3
max_position_embeddings = 8192
tie_word_embeddings = false
[run]
output_dir = %q
deterministic = "run"
[data]
format = "megatron"
paths = ["testdata/golden/corpus"]
sequence_length = 16
[train]
steps = 10
global_batch_size = 64
[optimizer]
lr = 3e-4
`

// TestZeROMemory holds the plan against the formulas of the paper, for P parameters on d ranks in float32: the optimizer's two moments are
// 8P/d bytes from stage 1 on, gradients 4P/d from stage 2 on, and weights 4P/d in stage 3, each with at most two buckets or
// layers besides.
func TestZeROMemory(t *testing.T) {
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	const (
		table  = 49152 * 576
		layer  = 2*576*576 + 2*576*192 + 3*576*1536 + 2*576
		all    = 2*table + 30*layer + 576
		rows   = 64 * 16 * 576                  // of the embedding's table that a step touches: its gradient
		dense  = all - table                    // the gradients of everything else
		bucket = 4 << 20                        // elements
		slack  = 273 * kernels.SquaredNormBlock // each parameter begins on a block, and so do ranks' parts
	)
	layout := func(ranks, stage int) *train.Layout {
		c, _ := loadConfig(t, fmt.Sprintf(smolLM2, filepath.Join(t.TempDir(), "out")), ranks, fmt.Sprintf("parallel.zero_stage=%d", stage),
			fmt.Sprintf("parallel.bucket_mb=%d", 4*bucket>>20))
		l, err := train.NewLayout(dev, c, 0, ranks)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, d := range []int{2, 4, 8, 64} {
		for stage := range 4 {
			within := func(what string, bytes, elements, more int) {
				t.Helper()
				if bytes < 4*elements || bytes > 4*(elements+more) {
					t.Errorf("ZeRO %d on %d ranks: %s of %d bytes; want %d, and at most %d more", stage, d, what, bytes, 4*elements, 4*more)
				}
			}
			shared := func(from, elements int) int {
				if stage >= from {
					return elements / d
				}
				return elements
			}
			m := layout(d, stage).Memory
			within("optimizer", m.Optimizer, shared(1, 2*all)-2*slack, 4*slack+1<<20)
			turns := 0
			if stage == 3 {
				turns = table + table // the embedding and the head take turns with layers, which are smaller
			}
			within("weights", m.Weights, shared(3, all)-slack, 2*slack+turns)
			buckets := rows
			if stage >= 2 {
				buckets += table + bucket // the head's gradient, which is the largest bucket, and one of layers
			}
			within("gradients", m.Gradients, shared(2, dense)-slack, 2*slack+buckets)
		}
	}
	if l := layout(1, 0); l.Model.NumParameters() != all {
		t.Errorf("the model has %d parameters, this test counts %d", l.Model.NumParameters(), all)
	}
}
