package train_test

import (
	"fmt"
	"path/filepath"
	"testing"
)

// shardedFamilies are models that between them have everything that is cut for data ranks: tables that the head is tied to and
// not, experts, and modules of multi-token prediction. The buckets are so small that each has a layer or a few.
var shardedFamilies = []struct {
	family    string
	overrides []string
}{
	{"llama", []string{"parallel.bucket_mb=0.02"}},
	{"llama", []string{"model.overrides.tie_word_embeddings=true", "parallel.bucket_mb=0.05"}},
	{"qwen3_moe", []string{"parallel.bucket_mb=0.05"}},
	{"deepseek_v3", []string{"parallel.bucket_mb=0.1", "moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01",
		"train.mtp_loss_weight=0.3", "model.overrides.num_nextn_predict_layers=2"}},
}

// TestOverlapGivesTheSameBits exchanges gradients during the backward pass and after it.
func TestOverlapGivesTheSameBits(t *testing.T) {
	for _, c := range shardedFamilies {
		dir := t.TempDir()
		run := func(out string, ranks int, more ...string) *memorySink {
			return runRanks(t, layoutText(c.family, filepath.Join(dir, out), 8), ranks, 1, append(c.overrides, more...)...)
		}
		want := run("want", 1)
		for _, ranks := range []int{2, 4} {
			for _, overlap := range []bool{false, true} {
				out := fmt.Sprintf("%d-%v", ranks, overlap)
				got := run(out, ranks, fmt.Sprintf("parallel.overlap=%v", overlap))
				what := fmt.Sprintf("%s on %d ranks, overlap %v", c.family, ranks, overlap)
				sameNumbers(t, what, want.steps, got.steps)
				sameFiles(t, what, filepath.Join(dir, "want", "model"), filepath.Join(dir, out, "model"))
			}
		}
	}
}
