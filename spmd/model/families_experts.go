package model

import (
	"fmt"
	"slices"

	"lockstep/kernels"
)

// readQwen3MoE reads Qwen3-MoE: Qwen3 with experts in place of the feed-forward network, in all layers, every
// decoder_sparse_step-th, or all but mlp_only_layers.
func readQwen3MoE(r *reader, c *Config) {
	r.common(c, defaults{vocab: 151936, hidden: 2048, intermediate: 6144, layers: 24, heads: 32, kvHeads: 4, positions: 32768})
	c.QKNorm = true
	c.QKVBias = r.boolean("attention_bias", false)
	c.OutputBias = c.QKVBias
	r.refuseSlidingWindow()
	e := &Experts{Count: r.integerNamed([]string{"num_experts", "num_local_experts"}, 128), Width: r.integer("moe_intermediate_size", 768)}
	e.Route = kernels.RouteOptions{TopK: r.integer("num_experts_per_tok", 8), Normalize: r.boolean("norm_topk_prob", false), Scale: 1}
	var dense []int
	r.decode("mlp_only_layers", &dense, "a list of layers' numbers")
	step := r.integer("decoder_sparse_step", 1)
	if step < 1 {
		r.problem("decoder_sparse_step", fmt.Sprintf("%d is not positive", step), "use 1 for experts in every layer")
		step = 1
	}
	r.experts(c, e, func(layer int) bool { return (layer+1)%step == 0 && !slices.Contains(dense, layer) })
	e.AuxLossWeight, e.HasAuxLoss = r.number("router_aux_loss_coef", 0.001), true
}

// readDeepSeekV2 reads DeepSeek-V2: latent attention, and after the first layers shared and routed experts, scored by a
// softmax. Transformers ignores norm_topk_prob, and so does this.
func readDeepSeekV2(r *reader, c *Config) {
	r.common(c, defaults{vocab: 102400, hidden: 4096, intermediate: 11008, layers: 32, heads: 32, headDim: 64, positions: 2048})
	r.latentAttention(c)
	c.RoPE.Interleaved = true
	r.refuseUnless("mlp_bias", false)
	r.refuseUnless("scoring_func", "softmax")
	e := &Experts{Count: r.integerNamed([]string{"n_routed_experts", "num_experts"}, 64), Width: r.integer("moe_intermediate_size", 1407)}
	e.Shared = r.integer("n_shared_experts", 2) * e.Width
	e.Route = kernels.RouteOptions{TopK: r.integer("num_experts_per_tok", 0), Scale: r.number("routed_scaling_factor", 1)}
	method := "greedy"
	r.decode("topk_method", &method, "a string")
	switch method {
	case "greedy":
	case "group_limited_greedy":
		e.Route.Groups, e.Route.TopGroups = r.integer("n_group", 1), r.integer("topk_group", 1)
	default:
		r.problem("topk_method", fmt.Sprintf("%q is not supported", method), `"greedy" and "group_limited_greedy" are`)
	}
	r.deepSeekExperts(c, e, 0)
}

// readDeepSeekV3 reads DeepSeek-V3: as V2, with sigmoid scores, groups valued by their best two experts, and a bias in the
// choice of experts that balances their load.
func readDeepSeekV3(r *reader, c *Config) {
	r.common(c, defaults{vocab: 129280, hidden: 7168, intermediate: 18432, layers: 61, heads: 128, headDim: 64, positions: 4096})
	r.latentAttention(c)
	c.RoPE.Interleaved = r.boolean("rope_interleave", true)
	r.refuseUnless("scoring_func", "sigmoid")
	r.refuseUnless("topk_method", "noaux_tc")
	e := &Experts{Count: r.integerNamed([]string{"n_routed_experts", "num_local_experts"}, 256), Width: r.integer("moe_intermediate_size", 2048), CorrectionBias: true}
	e.Shared = r.integer("n_shared_experts", 1) * e.Width
	e.Route = kernels.RouteOptions{
		Sigmoid: true, TopK: r.integer("num_experts_per_tok", 8), Groups: r.integer("n_group", 8), TopGroups: r.integer("topk_group", 4),
		GroupTopTwo: true, Normalize: r.boolean("norm_topk_prob", true), Epsilon: 1e-20, Scale: r.number("routed_scaling_factor", 2.5),
	}
	if c.Predictors = r.integerNamed([]string{"num_nextn_predict_layers", "num_mtp_layers"}, 1); c.Predictors < 0 || c.Predictors > maxPredictors {
		r.problem("num_nextn_predict_layers", fmt.Sprintf("%d is out of range", c.Predictors), fmt.Sprintf("use a value from 0 to %d", maxPredictors))
		c.Predictors = 0
	}
	r.deepSeekExperts(c, e, 3)
}

// deepSeekExperts finishes what V2 and V3 share. denseLayers is the default of first_k_dense_replace.
func (r *reader) deepSeekExperts(c *Config, e *Experts, denseLayers int) {
	r.refuseUnless("moe_layer_freq", 1.0)
	first := r.integer("first_k_dense_replace", denseLayers)
	r.experts(c, e, func(layer int) bool { return layer >= first })
	e.AuxLossWeight = -1
	switch _, coefficient := r.lookup("router_aux_loss_coef"); {
	case coefficient:
		e.AuxLossWeight, e.HasAuxLoss = r.number("router_aux_loss_coef", 0), true
	default:
		e.AuxLossWeight = r.number("aux_loss_alpha", -1)
	}
}

// experts makes e the model's experts, in the layers that sparse says, unless it cannot be so.
func (r *reader) experts(c *Config, e *Experts, sparse func(layer int) bool) {
	for layer := range min(max(c.NumHiddenLayers, 0), maxLayers) + c.Predictors {
		e.sparse = append(e.sparse, sparse(layer))
	}
	if !slices.Contains(e.sparse, true) {
		return
	}
	c.Experts = e
	for _, p := range []struct {
		key   string
		value int
		limit int
	}{{"number of experts", e.Count, 1 << 16}, {"moe_intermediate_size", e.Width, 1 << 22}, {"num_experts_per_tok", e.Route.TopK, e.Count}} {
		if p.value < 1 || p.value > p.limit {
			r.problem(p.key, fmt.Sprintf("%d is out of range", p.value), fmt.Sprintf("use a value from 1 to %d", max(p.limit, 1)))
			return
		}
	}
	if e.Shared < 0 {
		r.problem("n_shared_experts", "it is negative", "use 0 for none")
	}
	if err := kernels.CheckRouteOptions(e.Count, e.Route); err != nil {
		r.problem("n_group", err.Error(), "make num_experts_per_tok, n_group and topk_group fit the number of experts")
	}
}

// latentAttention reads the keys of multi-head latent attention.
func (r *reader) latentAttention(c *Config) {
	l := &Latent{
		QueryRank: r.integer("q_lora_rank", 1536), KeyValueRank: r.integer("kv_lora_rank", 512), PlainDim: r.integer("qk_nope_head_dim", 128),
		RotaryDim: r.integer("qk_rope_head_dim", 64), ValueDim: r.integer("v_head_dim", 128),
	}
	if v, ok := r.raw["q_lora_rank"]; ok && string(v) == "null" {
		l.QueryRank = 0 // null is a value of its own: no latent vector of queries
	}
	c.Latent, c.HeadDim = l, l.RotaryDim
	c.OutputBias = r.boolean("attention_bias", false)
	c.QKVBias = c.OutputBias
	for _, p := range []struct {
		key        string
		value, low int
	}{
		{"q_lora_rank", l.QueryRank, 0}, {"kv_lora_rank", l.KeyValueRank, 1}, {"qk_nope_head_dim", l.PlainDim, 1},
		{"qk_rope_head_dim", l.RotaryDim, 2}, {"v_head_dim", l.ValueDim, 1},
	} {
		if p.value < p.low || p.value > 1<<20 {
			r.problem(p.key, fmt.Sprintf("%d is out of range", p.value), fmt.Sprintf("use a value from %d to %d", p.low, 1<<20))
		}
	}
	if c.NumKeyValueHeads != c.NumAttentionHeads {
		r.problem("num_key_value_heads", fmt.Sprintf("%d is not num_attention_heads = %d; latent attention gives each head keys of its own", c.NumKeyValueHeads, c.NumAttentionHeads),
			fmt.Sprintf("use %d, or leave it out", c.NumAttentionHeads))
	}
}

// integerNamed reads a key that has several names, the first one there.
func (r *reader) integerNamed(keys []string, absent int) int {
	for _, key := range keys {
		if _, ok := r.lookup(key); ok {
			return r.integer(key, absent)
		}
	}
	return absent
}
