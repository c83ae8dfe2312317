package train_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// composedModels are trained in compositions of parallelisms: 4 layers, so that each stage of a pipeline has some. Other seeds have a
// step that amplifies any rounding: a spike of the norm (44 for qwen3_moe), or two scores of a token so close that rounding chooses between
// their experts, and then between the signs of two biases' changes (42 for deepseek_v3).
var composedModels = []struct {
	family    string
	experts   bool
	overrides []string
}{
	{"llama", false, []string{"model.overrides.num_attention_heads=8"}},
	{"qwen3_moe", true, []string{"moe.aux_loss_weight=0.01", "moe.z_loss_weight=0.001"}},
	{"deepseek_v3", true, []string{"run.seed=45", "moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01", "train.mtp_loss_weight=0.3"}},
}

// A composition is a number of ranks and how they split a model. What it does not split is left to data ranks.
type composition struct {
	name      string
	ranks     int
	overrides []string
	quick     string // the family for which it is compared in any case
}

// compositions have at least two parallelisms each, and all of them together every pair that can be had.
var compositions = []composition{
	{"data 2, pipeline 2, tensor 2", 8, []string{"parallel.pipeline=2", "parallel.tensor=2"}, "llama"},
	{"context 2, tensor 2, pipeline 2", 8, []string{"parallel.context=2", "parallel.tensor=2", "parallel.pipeline=2"}, "deepseek_v3"},
	{"data 4, experts over all of them", 4, []string{"parallel.expert=4"}, ""},
	{"data 16, 4 times the experts over 4", 16, []string{"parallel.expert=4"}, "qwen3_moe"},
	{"data 2, sequence 2, ZeRO 3", 4, []string{"parallel.tensor=2", "parallel.sequence_parallel=true", "parallel.zero_stage=3"}, ""},
	{"data 2, pipeline 4 by zb-h1, ZeRO 1", 8, []string{"parallel.pipeline=4", "parallel.pipeline_schedule=zb-h1", "parallel.zero_stage=1"}, ""},
	{"data 2, ulysses 2, sequence 2, ZeRO 2", 8, []string{"parallel.context=2", "parallel.context_algorithm=ulysses", "parallel.tensor=2",
		"parallel.sequence_parallel=true", "parallel.zero_stage=2"}, ""},
	{"sequence 2, pipeline 2 by interleaved-1f1b", 4, []string{"parallel.tensor=2", "parallel.sequence_parallel=true", "parallel.pipeline=2",
		"parallel.pipeline_schedule=interleaved-1f1b", "parallel.virtual_stages=2", "recompute.mode=selective"}, ""},
	{"data 2, context 2, pipeline 2 by zb-v", 8, []string{"parallel.context=2", "parallel.pipeline=2", "parallel.pipeline_schedule=zb-v", "recompute.mode=full"}, ""},
	{"hybrid 4, tensor 2", 8, []string{"parallel.context=4", "parallel.context_algorithm=hybrid", "parallel.ulysses=2", "parallel.tensor=2"}, ""},
	{"data 2, tensor 2, pipeline 2, experts over 4", 8, []string{"parallel.tensor=2", "parallel.pipeline=2", "parallel.expert=4"}, ""},
	{"data 4, experts over 2, ZeRO 3", 4, []string{"parallel.expert=2", "parallel.zero_stage=3"}, ""},
	{"data 2, context 2, sequence 2, experts over 8, ZeRO 1", 8, []string{"parallel.context=2", "parallel.tensor=2", "parallel.sequence_parallel=true",
		"parallel.expert=8", "parallel.zero_stage=1", "moe.dispatch_factor=1"}, ""},
	{"all of them", 16, []string{"parallel.context=2", "parallel.tensor=2", "parallel.sequence_parallel=true", "parallel.pipeline=2",
		"parallel.expert=4", "parallel.zero_stage=2", "recompute.mode=selective"}, ""},
}

// TestCompositions trains on ranks that split a model in several ways, and compares with one rank.
func TestCompositions(t *testing.T) {
	for _, m := range composedModels {
		t.Run(m.family, func(t *testing.T) {
			run := func(ranks int, overrides ...string) *memorySink {
				overrides = slices.Concat(m.overrides, []string{"model.overrides.num_hidden_layers=4", someSteps(), "data.sequence_length=32",
					"data.validation_interval=5", "data.validation_batches=1"}, overrides)
				return runRanks(t, layoutText(m.family, filepath.Join(t.TempDir(), "out"), 16), ranks, 1, overrides...)
			}
			alone := run(1)
			for _, c := range compositions {
				if c.quick != m.family && !*allLayouts {
					continue
				}
				overrides := slices.DeleteFunc(slices.Clone(c.overrides), func(o string) bool {
					return !m.experts && (strings.HasPrefix(o, "parallel.expert=") || strings.HasPrefix(o, "moe."))
				})
				nearNumbers(t, fmt.Sprintf("%s, %s on %d ranks", m.family, c.name, c.ranks), alone, run(c.ranks, overrides...))
			}
		})
	}
}
