package generate

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// small returns a model of a family with random weights, with adapters where lora is given, on a device with some threads.
func small(t *testing.T, family string, lora *model.LoRA, threads int) (*model.Model, *cpu.Device, device.Stream) {
	t.Helper()
	keys := map[string]any{"model_type": family, "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
		"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64, "initializer_range": 0.4,
		"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 9}
	if strings.HasPrefix(family, "deepseek") {
		maps.Copy(keys, map[string]any{"num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
			"q_lora_rank": 10, "kv_lora_rank": 7, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 6})
	}
	c, problems := model.ParseConfig(keys)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	s := dev.NewInlineStream("compute")
	m := model.New(c, model.Partition{})
	if lora != nil {
		if err := m.Tune(model.Tuning{LoRA: lora}); err != nil {
			t.Fatal(err)
		}
	}
	storage, err := dev.Alloc(4*m.WeightElements() + m.FrozenBytes())
	if err != nil {
		t.Fatal(err)
	}
	frozen := kernels.NewTensor(storage, 4*m.WeightElements(), device.Uint8, m.FrozenBytes())
	if err := m.Bind(kernels.NewTensor(storage, 0, device.Float32, m.WeightElements()), frozen); err != nil {
		t.Fatal(err)
	}
	if err := m.Initialize(dev, s, nil, 5); err != nil {
		t.Fatal(err)
	}
	if lora != nil {
		if err := m.InitializeAdapter(dev, s, varied{}); err != nil {
			t.Fatal(err)
		}
	}
	return m, dev, s
}

// varied gives adapters values that differ; at the start of a training B is zero.
type varied struct{ model.WeightSource }

func (varied) ReadFloat32(name string, first int, dst []float32) error {
	for i := range dst {
		dst[i] = float32((len(name)+7*first+3*i)%11-5) / 8
	}
	return nil
}

// take returns all tokens that follow prompt.
func take(t *testing.T, m *model.Model, dev *cpu.Device, s device.Stream, prompt []int32, o Options) (ids []int32) {
	t.Helper()
	err := Tokens(m, dev, s, prompt, o, func(id int32) error { ids = append(ids, id); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestGreedyWithoutCache generates with the cache of keys and values, and again by reading the whole text anew for each token.
func TestGreedyWithoutCache(t *testing.T) {
	prompt := []int32{3, 1, 4, 1, 5}
	for _, family := range model.Families() {
		var plain []int32
		for _, lora := range []*model.LoRA{nil, {Rank: 2, Alpha: 4, Dropout: dropout(family), Targets: []string{"*_proj", "*_proj_with_mqa"}[:targets(family)]}} {
			m, dev, s := small(t, family, lora, 2)
			got := take(t, m, dev, s, prompt, Options{Tokens: 40, EOD: -1})
			want := slices.Clone(prompt)
			for range 40 {
				dec, err := model.NewDecoder(m, dev, s, len(want), len(want))
				if err != nil {
					t.Fatal(err)
				}
				logits, err := dec.Prompt(want)
				if err := errors.Join(err, dec.Close()); err != nil {
					t.Fatal(err)
				}
				want = append(want, likeliest(logits))
			}
			if want = want[len(prompt):]; !slices.Equal(got, want) {
				t.Errorf("%s, adapters %v: %v with the cache, %v without", family, lora != nil, got, want)
			}
			if lora == nil {
				plain = got
			} else if slices.Equal(got, plain) {
				t.Errorf("%s: the adapters change nothing", family)
			}
		}
	}
}

// dropout returns that of the adapters of TestGreedyWithoutCache, which those of experts do not have.
func dropout(family string) float64 {
	if strings.HasPrefix(family, "deepseek") || strings.HasSuffix(family, "_moe") {
		return 0
	}
	return 0.5
}

// targets returns how many of the patterns of TestGreedyWithoutCache a family has modules for.
func targets(family string) int {
	if strings.HasPrefix(family, "deepseek") {
		return 2
	}
	return 1
}

// TestTokens holds what ends a text, and that a seed decides it, whatever the number of threads.
func TestTokens(t *testing.T) {
	prompt := []int32{3, 1, 4}
	m, dev, s := small(t, "llama", nil, 1)
	o := Options{Tokens: 30, EOD: -1, Temperature: 1.5, TopP: 0.9, Seed: 3}
	all := take(t, m, dev, s, prompt, o)
	if len(all) != 30 {
		t.Fatalf("%d tokens, want 30", len(all))
	}
	m3, dev3, s3 := small(t, "llama", nil, 3)
	if got := take(t, m3, dev3, s3, prompt, o); !slices.Equal(got, all) {
		t.Errorf("%v with one thread, %v with three", all, got)
	}
	if longer := append(slices.Clone(prompt), all[:10]...); !slices.Equal(take(t, m, dev, s, longer, o)[:20], all[10:]) {
		t.Error("a text goes on otherwise where it is given as a prompt")
	}
	o.Seed = 4
	if got := take(t, m, dev, s, prompt, o); slices.Equal(got, all) {
		t.Error("another seed gives the same tokens")
	}
	o.Seed, o.Tokens = 3, 1000
	if got := take(t, m, dev, s, prompt, o); len(got) != 61 { // 64 positions
		t.Errorf("%d tokens after 3 in 64 positions", len(got))
	}
	stop := all[12]
	want := all[:slices.Index(all, stop)]
	for _, end := range []Options{{EOD: stop}, {EOD: -1, Stop: []int32{stop}}} {
		o.EOD, o.Stop = end.EOD, end.Stop
		if got := take(t, m, dev, s, prompt, o); !slices.Equal(got, want) {
			t.Errorf("%v until %d, want %v", got, stop, want)
		}
	}
	failed := errors.New("full")
	if err := Tokens(m, dev, s, prompt, Options{Tokens: 5, EOD: -1}, func(int32) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := Tokens(m, dev, s, make([]int32, 64), o, nil); err == nil || !strings.Contains(err.Error(), "64 positions") {
		t.Errorf("a prompt of 64 tokens: %v", err)
	}
}
