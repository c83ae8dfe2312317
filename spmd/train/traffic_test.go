package train_test

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/spmd/train"
)

// TestTraffic counts what ranks send over TCP in a step, and compares it with the plan. The embedding's table is frozen, as the plan has
// all rows that a step may touch, unless the case says otherwise.
func TestTraffic(t *testing.T) {
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	deepseek := []string{"train.mtp_loss_weight=0.3"}
	for _, c := range []struct {
		family    string
		ranks     int
		overrides []string
		within    float64
	}{
		{"llama", 2, nil, 0.01},
		{"llama", 2, []string{"parallel.zero_stage=1", "train.freeze=*q_proj*"}, 0.1},
		{"llama", 2, []string{"parallel.zero_stage=1"}, 0.01},
		{"llama", 2, []string{"parallel.zero_stage=2"}, 0.01},
		{"llama", 2, []string{"parallel.zero_stage=2", "run.deterministic=run"}, 0.01},
		{"llama", 2, []string{"parallel.zero_stage=3"}, 0.01},
		{"llama", 4, []string{"parallel.zero_stage=3", "run.deterministic=run", "parallel.pipeline=2", "parallel.pipeline_schedule=zb-v",
			"model.overrides.num_hidden_layers=4"}, 0.01},
		{"llama", 2, []string{"parallel.context=2"}, 0.01},
		{"llama", 2, []string{"parallel.context=2", "recompute.mode=full"}, 0.01},
		{"llama", 2, []string{"parallel.context=2", "parallel.context_algorithm=ulysses"}, 0.01},
		{"deepseek_v3", 2, append([]string{"parallel.context=2", "parallel.context_algorithm=ulysses", "recompute.mode=selective"}, deepseek...), 0.01},
		{"deepseek_v3", 2, append([]string{"parallel.expert=2"}, deepseek...), 0.05}, // the load of experts is not quite even
		{"qwen3_moe", 2, []string{"parallel.expert=2", "parallel.tensor=2", "recompute.mode=full"}, 0.05},
	} {
		overrides := slices.Concat([]string{"data.sequence_length=96", "data.validation_interval=0", "collective.backend=tcp", "train.freeze=*embed_tokens*"}, c.overrides)
		run := func(steps int) int {
			text := layoutText(c.family, filepath.Join(t.TempDir(), "out"), 8)
			return runRanks(t, text, c.ranks, 1, append(overrides, fmt.Sprintf("run.stop_step=%d", steps))...).sent
		}
		sent := float64(run(3)-run(1)) / 2
		config, _ := loadConfig(t, layoutText(c.family, "out", 8), c.ranks, overrides...)
		var planned []train.Traffic
		all := 0
		for rank := range c.ranks {
			l, err := train.NewLayout(dev, config, rank, c.ranks)
			if err != nil {
				t.Fatal(err)
			}
			planned = append(planned, l.Traffic())
			all += planned[rank].Total()
		}
		off := sent/float64(all) - 1
		t.Logf("%s on %d ranks with %v: %+.1f %%", c.family, c.ranks, c.overrides, 100*off)
		if math.Abs(off) > c.within {
			t.Errorf("%s on %d ranks with %v sends %.0f bytes in a step, planned are %+v", c.family, c.ranks, c.overrides, sent, planned)
		}
	}
}
