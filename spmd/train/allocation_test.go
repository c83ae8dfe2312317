package train

import (
	"fmt"
	"runtime"
	"testing"
)

// expertKeys complete the config.json of a small model with experts.
var expertKeys = map[string]string{
	"qwen3_moe": `
num_experts = 6
num_experts_per_tok = 2
moe_intermediate_size = 12`,
	"deepseek_v3": `
n_routed_experts = 8
num_experts_per_tok = 2
n_group = 4
topk_group = 2
moe_intermediate_size = 12
first_k_dense_replace = 1
q_lora_rank = 12
kv_lora_rank = 8
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 6`,
}

// TestStepAllocatesNothing makes steps of a small model and counts what they take from the Go heap.
func TestStepAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		threads   int
		tied      bool
		recompute string
		family    string
		optimizer string
	}{{1, true, "none", "qwen3", "adamw"}, {2, false, "selective", "qwen3", "adamw"}, {2, true, "full", "qwen3", "muon"},
		{2, false, "none", "deepseek_v3", "adafactor"}, {1, true, "full", "qwen3_moe", "muon"}} {
		more := map[string][]string{"muon": {"optimizer.adjust_lr_fn=match_rms_adamw", "optimizer.ema_decay=0.9"}}[c.optimizer]
		trainer := benchTrainer(t, `model_type = "`+c.family+`"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = `+map[string]string{"qwen3": "2", "qwen3_moe": "2", "deepseek_v3": "4"}[c.family]+`
head_dim = 8
tie_word_embeddings = `+fmt.Sprint(c.tied)+expertKeys[c.family], 2, 16, c.threads, append(more, "optimizer.type="+c.optimizer,
			"recompute.mode="+c.recompute, "data.eod=5", "data.reset_attention_mask=true", "data.reset_position_ids=true", "data.eod_mask_loss=true")...)
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
