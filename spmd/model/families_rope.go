package model

import (
	"fmt"
	"math"
)

// ropeParameters are the keys of rope_parameters, or of rope_scaling.
type ropeParameters struct {
	Type                *string  `json:"rope_type"`
	OldType             *string  `json:"type"`
	Theta               *float64 `json:"rope_theta"`
	Factor              *float64 `json:"factor"`
	LowFreqFactor       *float64 `json:"low_freq_factor"`
	HighFreqFactor      *float64 `json:"high_freq_factor"`
	OriginalMax         *int     `json:"original_max_position_embeddings"`
	PartialRotaryFactor *float64 `json:"partial_rotary_factor"`
	AttentionFactor     *float64 `json:"attention_factor"`
	MScale              float64  `json:"mscale"`
	MScaleAllDim        float64  `json:"mscale_all_dim"`
	BetaFast            float64  `json:"beta_fast"`
	BetaSlow            float64  `json:"beta_slow"`
	Truncate            *bool    `json:"truncate"`
}

// rope reads the rotary embedding in Transformers 5's form (rope_parameters) or in the older one (rope_theta and
// rope_scaling).
func (r *reader) rope(maxPositions int) RoPE {
	var p ropeParameters
	key := "rope_parameters"
	if _, ok := r.lookup(key); !ok {
		key = "rope_scaling"
	}
	r.decode(key, &p, "a table of RoPE parameters")
	out := RoPE{Type: "default", Theta: r.number("rope_theta", 10000)}
	for _, name := range []*string{p.OldType, p.Type} {
		if name != nil {
			out.Type = *name
		}
	}
	if p.Theta != nil {
		out.Theta = *p.Theta
	}
	if !(out.Theta > 0) {
		r.problem("rope_theta", fmt.Sprintf("%g is not positive", out.Theta), "use a positive number such as 10000")
	}
	if p.PartialRotaryFactor != nil && *p.PartialRotaryFactor != 1 {
		r.problem(key+".partial_rotary_factor", fmt.Sprintf("%g is not supported", *p.PartialRotaryFactor), "only 1 is: the whole head is rotated")
	}
	switch out.Type {
	case "default":
	case "linear":
		out.Factor = r.ropeNumber(key, "factor", out.Type, p.Factor)
	case "llama3":
		r.ropeLlama3(key, &out, p, maxPositions)
	case "yarn":
		r.ropeYaRN(key, &out, p, maxPositions)
	default:
		r.problem(key+".rope_type", fmt.Sprintf("%q is not supported", out.Type), `"default", "linear", "llama3" and "yarn" are`)
	}
	return out
}

// ropeNumber returns a positive number that the type of RoPE needs.
func (r *reader) ropeNumber(key, name, ropeType string, v *float64) float64 {
	if v == nil || !(*v > 0) {
		r.problem(key+"."+name, fmt.Sprintf("rope_type %q needs a positive number", ropeType), "add it as the model's authors published it")
		return 1
	}
	return *v
}

func (r *reader) ropeLlama3(key string, out *RoPE, p ropeParameters, maxPositions int) {
	out.Factor = r.ropeNumber(key, "factor", out.Type, p.Factor)
	out.LowFreqFactor = r.ropeNumber(key, "low_freq_factor", out.Type, p.LowFreqFactor)
	out.HighFreqFactor = r.ropeNumber(key, "high_freq_factor", out.Type, p.HighFreqFactor)
	out.OriginalMaxPositionEmbeddings = maxPositions
	if p.OriginalMax != nil {
		out.OriginalMaxPositionEmbeddings = *p.OriginalMax
	}
	if out.HighFreqFactor == out.LowFreqFactor && p.LowFreqFactor != nil && p.HighFreqFactor != nil {
		r.problem(key+".high_freq_factor", "it equals low_freq_factor", "add both as the model's authors published them")
	}
}

// ropeYaRN reads YaRN's parameters. Attention's scores grow with the logarithm of the factor: a part of that is in the
// tables, which multiply queries and keys, and where mscale_all_dim says so, a part in the scores' scale.
func (r *reader) ropeYaRN(key string, out *RoPE, p ropeParameters, maxPositions int) {
	out.OriginalMaxPositionEmbeddings = maxPositions
	if p.OriginalMax != nil {
		out.OriginalMaxPositionEmbeddings = *p.OriginalMax
	}
	if out.OriginalMaxPositionEmbeddings < 1 {
		r.problem(key+".original_max_position_embeddings", "it is not positive", "add it as the model's authors published it")
		return
	}
	if p.Factor == nil && p.OriginalMax != nil {
		factor := float64(maxPositions) / float64(out.OriginalMaxPositionEmbeddings)
		p.Factor = &factor
	}
	out.Factor = r.ropeNumber(key, "factor", out.Type, p.Factor)
	out.BetaFast, out.BetaSlow, out.Truncate = 32, 1, true
	if p.BetaFast != 0 {
		out.BetaFast = p.BetaFast
	}
	if p.BetaSlow != 0 {
		out.BetaSlow = p.BetaSlow
	}
	if p.Truncate != nil {
		out.Truncate = *p.Truncate
	}
	if !(out.BetaFast > 0 && out.BetaSlow > 0) {
		r.problem(key+".beta_fast", "beta_fast and beta_slow must be positive", "leave them out for 32 and 1")
	}
	switch {
	case p.AttentionFactor != nil:
		out.TableScale = *p.AttentionFactor
	case p.MScale != 0 && p.MScaleAllDim != 0:
		out.TableScale = yarnScale(out.Factor, p.MScale) / yarnScale(out.Factor, p.MScaleAllDim)
	default:
		out.TableScale = yarnScale(out.Factor, 1)
	}
	out.ScoreScale = 1
	if p.MScaleAllDim != 0 {
		scale := yarnScale(out.Factor, p.MScaleAllDim)
		out.ScoreScale = scale * scale
	}
}

// yarnScale is by how much queries and keys grow together when the context grows by a factor (B. Peng et al., "YaRN:
// Efficient Context Window Extension of Large Language Models", 2023, section 3.4, with DeepSeek's weight).
func yarnScale(factor, weight float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*weight*math.Log(factor) + 1
}
