package model

import (
	"encoding/json"
	"fmt"
	"strings"
)

// families says how each model_type reads its config.json. Defaults are those of the Transformers class, so that an absent
// key means what it means there. Only fields of that class can change the arithmetic: those that are not implemented are
// refused unless they have their neutral value, everything else is passed through.
var families = map[string]func(*reader, *Config){
	"llama": func(r *reader, c *Config) {
		r.common(c, defaults{vocab: 32000, hidden: 4096, intermediate: 11008, layers: 32, heads: 32, positions: 2048})
		c.QKVBias = r.boolean("attention_bias", false)
		c.OutputBias = c.QKVBias
		r.refuseUnless("mlp_bias", false)
		r.refuseUnless("pretraining_tp", 1.0)
	},
	"qwen2": func(r *reader, c *Config) {
		r.common(c, defaults{vocab: 151936, hidden: 4096, intermediate: 22016, layers: 32, heads: 32, kvHeads: 32, positions: 32768})
		c.QKVBias = true
		r.refuseSlidingWindow()
	},
	"qwen3": func(r *reader, c *Config) {
		r.common(c, defaults{vocab: 151936, hidden: 4096, intermediate: 22016, layers: 32, heads: 32, kvHeads: 32, headDim: 128, positions: 32768})
		c.QKNorm = true
		c.QKVBias = r.boolean("attention_bias", false)
		c.OutputBias = c.QKVBias
		r.refuseSlidingWindow()
	},
	"qwen3_moe":   readQwen3MoE,
	"deepseek_v2": readDeepSeekV2,
	"deepseek_v3": readDeepSeekV3,
}

// architectures names the Transformers class of each model_type.
var architectures = map[string]string{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
	"qwen3_moe": "Qwen3MoeForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}

// defaults are what a Transformers class assumes for absent keys; 0 means derived from others.
type defaults struct {
	vocab, hidden, intermediate, layers, heads, kvHeads, headDim, positions int
}

// common reads the keys that all families share.
func (r *reader) common(c *Config, d defaults) {
	c.VocabSize = r.integer("vocab_size", d.vocab)
	c.HiddenSize = r.integer("hidden_size", d.hidden)
	c.IntermediateSize = r.integer("intermediate_size", d.intermediate)
	c.NumHiddenLayers = r.integer("num_hidden_layers", d.layers)
	c.NumAttentionHeads = r.integer("num_attention_heads", d.heads)
	c.MaxPositionEmbeddings = r.integer("max_position_embeddings", d.positions)
	if d.kvHeads == 0 {
		d.kvHeads = c.NumAttentionHeads
	}
	c.NumKeyValueHeads = r.integer("num_key_value_heads", d.kvHeads)
	if d.headDim == 0 && c.NumAttentionHeads > 0 {
		d.headDim = c.HiddenSize / c.NumAttentionHeads
		if _, given := r.lookup("head_dim"); !given && c.HiddenSize%c.NumAttentionHeads != 0 {
			r.problem("hidden_size", fmt.Sprintf("%d is no multiple of num_attention_heads = %d", c.HiddenSize, c.NumAttentionHeads),
				fmt.Sprintf("use %d, or set head_dim", (c.HiddenSize/c.NumAttentionHeads+1)*c.NumAttentionHeads))
		}
	}
	c.HeadDim = r.integer("head_dim", d.headDim)
	c.RMSNormEps = r.number("rms_norm_eps", 1e-6)
	c.InitializerRange = r.number("initializer_range", 0.02)
	c.TieWordEmbeddings = r.boolean("tie_word_embeddings", false)
	c.RoPE = r.rope(c.MaxPositionEmbeddings)
	r.refuseUnless("hidden_act", "silu")
	r.refuseUnless("attention_dropout", 0.0)
	if _, ok := r.lookup("quantization_config"); ok {
		r.problem("quantization_config", "quantized weights are not supported", "give a model in float32, bfloat16 or float16")
	}
}

// refuseSlidingWindow accepts only full attention in every layer.
func (r *reader) refuseSlidingWindow() {
	r.refuseUnless("use_sliding_window", false)
	var types []string
	if r.decode("layer_types", &types, "a list of strings") {
		for _, t := range types {
			if t != "full_attention" {
				r.problem("layer_types", fmt.Sprintf("%q is not supported", t), `every layer must be "full_attention"`)
				return
			}
		}
	}
}

// A reader takes typed values out of a config.json and collects what is wrong.
type reader struct {
	raw      map[string]json.RawMessage
	problems []Problem
}

func (r *reader) problem(key, what, remedy string) {
	r.problems = append(r.problems, Problem{Key: key, What: what, Remedy: remedy})
}

// lookup returns a key's value, if it is there and not null.
func (r *reader) lookup(key string) (json.RawMessage, bool) {
	v, ok := r.raw[key]
	return v, ok && string(v) != "null"
}

// decode stores the key's value in to, and reports whether it was there and fits.
func (r *reader) decode(key string, to any, want string) bool {
	v, ok := r.lookup(key)
	if !ok {
		return false
	}
	if err := json.Unmarshal(v, to); err != nil {
		r.problem(key, fmt.Sprintf("%.40s is not %s", v, want), "give "+want)
		return false
	}
	return true
}

func (r *reader) integer(key string, absent int) int {
	r.decode(key, &absent, "a whole number")
	return absent
}

func (r *reader) number(key string, absent float64) float64 {
	r.decode(key, &absent, "a number")
	return absent
}

func (r *reader) boolean(key string, absent bool) bool {
	r.decode(key, &absent, "true or false")
	return absent
}

// refuseUnless accepts the key only when it is absent or has the one value that is implemented.
func (r *reader) refuseUnless(key string, only any) {
	v, ok := r.lookup(key)
	if !ok {
		return
	}
	var got any
	if err := json.Unmarshal(v, &got); err != nil || got != only {
		r.problem(key, fmt.Sprintf("%.40s is not supported", v), fmt.Sprintf("only %v is", only))
	}
}

func (r *reader) family() (string, bool) {
	name := ""
	if _, ok := r.lookup("model_type"); !ok {
		r.problem("model_type", "is missing", "name the family: "+strings.Join(Families(), ", "))
		return "", false
	}
	if !r.decode("model_type", &name, "a string") {
		return "", false
	}
	if _, ok := architectures[name]; !ok {
		r.problem("model_type", fmt.Sprintf("%q is not a supported family", name), "supported are "+strings.Join(Families(), ", "))
		return "", false
	}
	return name, true
}
