package train

import (
	"fmt"
	"runtime"
	"testing"
)

// TestStepAllocatesNothing makes steps of a small model and counts what they take from the Go heap.
func TestStepAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		threads   int
		tied      bool
		recompute string
	}{{1, true, "none"}, {2, false, "selective"}, {2, true, "full"}} {
		trainer := benchTrainer(t, `model_type = "qwen3"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
tie_word_embeddings = `+fmt.Sprint(c.tied), 2, 16, c.threads, "recompute.mode="+c.recompute,
			"data.eod=5", "data.reset_attention_mask=true", "data.reset_position_ids=true", "data.eod_mask_loss=true")
		next := 0
		step := func() {
			if _, _, err := trainer.step(next, false); err != nil {
				t.Fatal(err)
			}
			next++
		}
		for range 3 {
			step()
		}
		if n := testing.AllocsPerRun(20, step); n != 0 {
			t.Errorf("%+v: a step allocates %g times", c, n)
		}
		runtime.GC()
	}
}
