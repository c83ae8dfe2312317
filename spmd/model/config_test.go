package model

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// parseText reads a config.json given as text.
func parseText(t testing.TB, text string, overrides map[string]any) (*Config, []Problem) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return ReadConfig(dir, overrides)
}

func TestBothFormsOfRoPE(t *testing.T) {
	want := RoPE{Type: "llama3", Theta: 500000, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 8192}
	for name, text := range map[string]string{
		"Transformers 5": `{"model_type": "llama", "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}}`,
		"Transformers 4": `{"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}`,
		"older":          `{"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}`,
	} {
		c, problems := parseText(t, text, nil)
		if len(problems) > 0 {
			t.Fatalf("%s: %v", name, problems)
		}
		if c.RoPE != want {
			t.Errorf("%s: %+v, want %+v", name, c.RoPE, want)
		}
	}
	for _, text := range []string{`{"model_type": "qwen2"}`, `{"model_type": "qwen2", "rope_scaling": null}`} {
		if c, problems := parseText(t, text, nil); len(problems) > 0 || c.RoPE != (RoPE{Type: "default", Theta: 10000}) {
			t.Errorf("%s: %+v, %v", text, c, problems)
		}
	}
}

func TestDefaultsAreTheClasses(t *testing.T) {
	for family, want := range map[string]Config{
		"llama": {VocabSize: 32000, HiddenSize: 4096, IntermediateSize: 11008, NumHiddenLayers: 32, NumAttentionHeads: 32, NumKeyValueHeads: 32, HeadDim: 128, MaxPositionEmbeddings: 2048},
		"qwen2": {VocabSize: 151936, HiddenSize: 4096, IntermediateSize: 22016, NumHiddenLayers: 32, NumAttentionHeads: 32, NumKeyValueHeads: 32, HeadDim: 128, MaxPositionEmbeddings: 32768, QKVBias: true},
		"qwen3": {VocabSize: 151936, HiddenSize: 4096, IntermediateSize: 22016, NumHiddenLayers: 32, NumAttentionHeads: 32, NumKeyValueHeads: 32, HeadDim: 128, MaxPositionEmbeddings: 32768, QKNorm: true},
	} {
		c, problems := ParseConfig(map[string]any{"model_type": family})
		if len(problems) > 0 {
			t.Fatalf("%s: %v", family, problems)
		}
		want.Family, want.RMSNormEps, want.InitializerRange, want.RoPE = family, 1e-6, 0.02, RoPE{Type: "default", Theta: 10000}
		want.raw = c.raw
		got, expected := *c, want
		got.raw, expected.raw = nil, nil
		if !equalConfigs(got, expected) {
			t.Errorf("%s: %+v, want %+v", family, got, expected)
		}
	}
	c, problems := ParseConfig(map[string]any{"model_type": "llama", "num_attention_heads": 8, "hidden_size": 64})
	if len(problems) > 0 || c.NumKeyValueHeads != 8 || c.HeadDim != 8 {
		t.Errorf("derived values: %+v, %v", c, problems)
	}
}

func equalConfigs(a, b Config) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func TestProblemsNameTheKey(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "model_type: is missing", `{"model_type": "gpt2"}`: `model_type: "gpt2" is not a supported family; supported are deepseek_v2, deepseek_v3, llama, qwen2, qwen3, qwen3_moe`,
		`{"model_type": 3}`: "model_type: 3 is not a string",
		`[1]`:               "is not a JSON object", "{\n\n\"a\": }": "line 3",
		`{"model_type": "llama", "hidden_act": "gelu"}`:                                   `hidden_act: "gelu" is not supported; only silu is`,
		`{"model_type": "llama", "mlp_bias": true}`:                                       "mlp_bias: true is not supported",
		`{"model_type": "llama", "attention_dropout": 0.1}`:                               "attention_dropout: 0.1 is not supported",
		`{"model_type": "llama", "pretraining_tp": 2}`:                                    "pretraining_tp: 2 is not supported",
		`{"model_type": "llama", "quantization_config": {}}`:                              "quantization_config",
		`{"model_type": "qwen2", "use_sliding_window": true}`:                             "use_sliding_window: true is not supported",
		`{"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}`: `layer_types: "sliding_attention" is not supported`,
		`{"model_type": "llama", "rope_scaling": {"rope_type": "yarn"}}`:                  `rope_scaling.factor: rope_type "yarn" needs`,
		`{"model_type": "llama", "rope_scaling": {"rope_type": "longrope"}}`:              `rope_scaling.rope_type: "longrope" is not supported`,
		`{"model_type": "qwen3_moe", "decoder_sparse_step": 0}`:                           "decoder_sparse_step: 0 is not positive",
		`{"model_type": "deepseek_v2", "num_experts_per_tok": 2, "topk_method": "best"}`:  `topk_method: "best" is not supported`,
		`{"model_type": "llama", "rope_parameters": {"rope_type": "linear"}}`:             "rope_parameters.factor: rope_type \"linear\" needs",
		`{"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}}`:      "partial_rotary_factor: 0.5 is not supported",
		`{"model_type": "llama", "rope_theta": -1}`:                                       "rope_theta: -1 is not positive",
		`{"model_type": "llama", "hidden_size": 100, "num_attention_heads": 6}`:           "hidden_size: 100 is no multiple of num_attention_heads = 6; use 102",
		`{"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 3}`:     "num_key_value_heads: 3 does not divide num_attention_heads = 8; use 2",
		`{"model_type": "llama", "head_dim": 7}`:                                          "head_dim: 7 is odd",
		`{"model_type": "llama", "vocab_size": 0}`:                                        "vocab_size: 0 is out of range",
		`{"model_type": "llama", "vocab_size": "many"}`:                                   `vocab_size: "many" is not a whole number`,
		`{"model_type": "llama", "num_hidden_layers": 2.5}`:                               "num_hidden_layers: 2.5 is not a whole number",
		`{"model_type": "llama", "rms_norm_eps": 0}`:                                      "rms_norm_eps: 0 is out of range",
		`{"model_type": "llama", "initializer_range": 2}`:                                 "initializer_range: 2 is out of range",
		`{"model_type": "llama", "tie_word_embeddings": "yes"}`:                           "tie_word_embeddings",
		`{"model_type": "llama", "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "low_freq_factor": 1, "high_freq_factor": 1, "factor": 8}}`: "high_freq_factor: it equals low_freq_factor",
	} {
		c, problems := parseText(t, text, nil)
		if c != nil || len(problems) == 0 {
			t.Errorf("%s was accepted", text)
			continue
		}
		found := false
		for _, p := range problems {
			found = found || strings.Contains(p.String(), want)
			if p.Remedy == "" {
				t.Errorf("%s: %q has no remedy", text, p)
			}
		}
		if !found {
			t.Errorf("%s: %v, want %q", text, problems, want)
		}
	}
	_, problems := parseText(t, `{"model_type": "llama", "mlp_bias": true, "hidden_act": "gelu", "vocab_size": -4}`, nil)
	if len(problems) != 3 {
		t.Errorf("three mistakes are reported as %v", problems)
	}
}

func TestKeysThatChangeNothingAreWrittenBack(t *testing.T) {
	text := `{"model_type": "qwen3", "sliding_window": 4096, "max_window_layers": 28, "bos_token_id": 7, "made_by": {"x": [1, 2]}, "torch_dtype": "bfloat16", "mlp_bias": true}`
	c, problems := parseText(t, text, map[string]any{"hidden_size": 128, "num_hidden_layers": int64(2)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if c.HiddenSize != 128 || c.NumHiddenLayers != 2 {
		t.Errorf("overrides: %+v", c)
	}
	again, problems := parseText(t, string(c.JSON("float32")), nil)
	if len(problems) > 0 || !equalConfigs(*c, *again) || !bytes.Equal(c.JSON("float32"), again.JSON("float32")) {
		t.Errorf("what is written back reads as %+v, %v", again, problems)
	}
	var back map[string]any
	if err := json.Unmarshal(c.JSON("float32"), &back); err != nil {
		t.Fatal(err)
	}
	if back["torch_dtype"] != "float32" || back["made_by"] == nil || back["bos_token_id"] != 7.0 || back["hidden_size"] != 128.0 {
		t.Errorf("written back: %s", c.JSON("float32"))
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add(`{"model_type": "llama"}`)
	f.Add(`{"model_type": "qwen3", "rope_scaling": {"type": "linear", "factor": 2}, "layer_types": ["full_attention"]}`)
	f.Add(`{"model_type": "qwen2", "hidden_size": 1e300, "num_attention_heads": 0, "num_key_value_heads": -1}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, problems := parseText(t, text, nil)
		if (c == nil) == (len(problems) == 0) {
			t.Fatalf("configuration %v with problems %v", c, problems)
		}
		if c != nil {
			if _, problems := parseText(t, string(c.JSON("float32")), nil); len(problems) > 0 {
				t.Fatalf("what was read is not accepted again: %v", problems)
			}
		}
	})
}
