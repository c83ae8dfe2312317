package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"lockstep/kernels"
)

// maxConfigBytes bounds a config.json.
const maxConfigBytes = 1 << 20

// maxLayers bounds num_hidden_layers, maxPredictors num_nextn_predict_layers.
const maxLayers, maxPredictors = 1 << 12, 64

// Config is a model's architecture, read from a Hugging Face config.json of any of the Families.
type Config struct {
	Family                string // model_type
	VocabSize             int
	HiddenSize            int
	IntermediateSize      int
	NumHiddenLayers       int
	NumAttentionHeads     int
	NumKeyValueHeads      int
	HeadDim               int
	MaxPositionEmbeddings int
	RMSNormEps            float64
	InitializerRange      float64
	TieWordEmbeddings     bool
	RoPE                  RoPE

	// QKVBias and OutputBias say which attention projections have a bias; QKNorm that queries and keys are normalised
	// per head before RoPE.
	QKVBias, OutputBias, QKNorm bool

	// Latent is multi-head latent attention, nil for attention with a key and a value projection. HeadDim is then the part of
	// a head that RoPE rotates.
	Latent *Latent
	// Predictors is the number of modules of multi-token prediction that the weights have. They are built where their
	// losses have a weight, PredictionLossWeight, which the run sets.
	Predictors           int
	PredictionLossWeight float64
	// Experts are those of the layers that Sparse names, nil where all layers are dense.
	Experts *Experts

	raw map[string]json.RawMessage // every key as it came, to be written back
}

// RoPE describes the rotary position embedding.
type RoPE struct {
	Type  string // "default", "linear", "llama3" or "yarn"
	Theta float64
	// Factor divides the frequencies ("linear": all of them, "llama3" and "yarn": the low ones).
	Factor float64
	// The rest is for "llama3": between the two factors of the original context, frequencies are blended.
	LowFreqFactor, HighFreqFactor float64
	// OriginalMaxPositionEmbeddings is the context of "llama3" and "yarn" before its extension.
	OriginalMaxPositionEmbeddings int
	// For "yarn": frequencies that turn more than BetaFast times in the original context are kept, those that turn less than
	// BetaSlow times are divided by Factor, and between they are blended; whole dimensions bound the blend with Truncate.
	BetaFast, BetaSlow float64
	Truncate           bool
	// TableScale multiplies the cosines and sines of "yarn", ScoreScale the scores of latent attention with it.
	TableScale, ScoreScale float64
	// Interleaved rotates the pairs (x[2i], x[2i+1]) of a head instead of (x[i], x[i+D/2]).
	Interleaved bool
}

// Latent is multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1): keys and values are projected from
// a small latent vector, and a part of each key that RoPE rotates is shared by all heads.
type Latent struct {
	// QueryRank is the width of the latent vector of queries, 0 where they are projected from the hidden state; KeyValueRank
	// that of keys and values.
	QueryRank, KeyValueRank int
	// A head of a query or key has PlainDim elements as they are and RotaryDim that are rotated, one of a value ValueDim.
	PlainDim, RotaryDim, ValueDim int
}

// Experts is a mixture of experts.
type Experts struct {
	// Count is the number of experts, Width the feed-forward width of each; Shared that of the shared experts together, 0
	// where there are none.
	Count, Width, Shared int
	// Route chooses the experts of a token. CorrectionBias says that the choice, and only it, adds a bias to the scores.
	Route          kernels.RouteOptions
	CorrectionBias bool
	// AuxLossWeight is router_aux_loss_coef, or aux_loss_alpha, -1 where the config has neither; HasAuxLoss says that the
	// Transformers class knows the former.
	AuxLossWeight float64
	HasAuxLoss    bool
	// CapacityFactor is how many tokens an expert takes of a micro batch on a rank, by their number where the load is even; the
	// others go without it: those with the smallest weights, or with DropByPosition the last. 0: it takes all. No config.json has
	// these two.
	CapacityFactor float64
	DropByPosition bool

	sparse []bool // by layer
}

// Sparse reports whether a layer has experts.
func (c *Config) Sparse(layer int) bool { return c.Experts != nil && c.Experts.sparse[layer] }

// AttentionScale multiplies attention's scores.
func (c *Config) AttentionScale() float64 {
	l := c.Latent
	if l == nil {
		return 1 / math.Sqrt(float64(c.HeadDim))
	}
	scale := 1 / math.Sqrt(float64(l.PlainDim+l.RotaryDim))
	if c.RoPE.Type == "yarn" {
		scale *= c.RoPE.ScoreScale
	}
	return scale
}

// A Problem is one thing that is wrong with a config.json.
type Problem struct {
	Key    string // the key of config.json, empty for the whole file
	What   string
	Remedy string
}

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Key == "" {
		return p.What + "; " + p.Remedy
	}
	return p.Key + ": " + p.What + "; " + p.Remedy
}

// ReadConfig reads dir/config.json, with the keys of overrides in place of the file's own. It returns all problems at once;
// the configuration is usable only when there are none.
func ReadConfig(dir string, overrides map[string]any) (*Config, []Problem) {
	path := filepath.Join(dir, "config.json")
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, []Problem{{What: path + " does not exist", Remedy: "give the directory of a Hugging Face model"}}
	case err == nil && info.Size() > maxConfigBytes:
		return nil, []Problem{{What: fmt.Sprintf("%s has %d bytes, more than any config.json", path, info.Size()), Remedy: "give the directory of a Hugging Face model"}}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, []Problem{{What: err.Error(), Remedy: "make the file readable"}}
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, []Problem{{What: fmt.Sprintf("%s is not a JSON object: %s", path, jsonError(text, err)), Remedy: "repair the file"}}
	}
	return parse(raw, overrides)
}

// ParseConfig reads a configuration from decoded values, as a [model.config] table gives them.
func ParseConfig(values map[string]any) (*Config, []Problem) {
	return parse(map[string]json.RawMessage{}, values)
}

// jsonError names the line of a JSON error.
func jsonError(text []byte, err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("line %d: %v", 1+bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte("\n")), err)
	}
	return err.Error()
}

func parse(raw map[string]json.RawMessage, overrides map[string]any) (*Config, []Problem) {
	r := &reader{raw: raw}
	for key, value := range overrides {
		text, err := json.Marshal(value)
		if err != nil {
			r.problem(key, err.Error(), "give a value that JSON can hold")
			continue
		}
		raw[key] = text
	}
	c := &Config{raw: raw}
	var ok bool
	if c.Family, ok = r.family(); !ok {
		return nil, r.problems
	}
	families[c.Family](r, c)
	r.checkShapes(c)
	if len(r.problems) > 0 {
		sort.SliceStable(r.problems, func(i, j int) bool { return r.problems[i].Key < r.problems[j].Key })
		return nil, r.problems
	}
	return c, nil
}

// checkShapes checks what every family has in common.
func (r *reader) checkShapes(c *Config) {
	positive := []struct {
		key   string
		value int
		limit int
	}{
		{"vocab_size", c.VocabSize, 1 << 24}, {"hidden_size", c.HiddenSize, 1 << 20}, {"intermediate_size", c.IntermediateSize, 1 << 22},
		{"num_hidden_layers", c.NumHiddenLayers, maxLayers}, {"num_attention_heads", c.NumAttentionHeads, 1 << 14},
		{"num_key_value_heads", c.NumKeyValueHeads, 1 << 14}, {"head_dim", c.HeadDim, 1 << 12},
		{"max_position_embeddings", c.MaxPositionEmbeddings, 1 << 30},
	}
	sound := true
	for _, p := range positive {
		if p.value < 1 || p.value > p.limit {
			sound = false
			r.problem(p.key, fmt.Sprintf("%d is out of range", p.value), fmt.Sprintf("use a value from 1 to %d", p.limit))
		}
	}
	if !sound {
		return
	}
	if c.NumAttentionHeads%c.NumKeyValueHeads != 0 {
		r.problem("num_key_value_heads", fmt.Sprintf("%d does not divide num_attention_heads = %d", c.NumKeyValueHeads, c.NumAttentionHeads),
			fmt.Sprintf("use %d", nearestDivisor(c.NumAttentionHeads, c.NumKeyValueHeads)))
	}
	if c.HeadDim%2 != 0 {
		r.problem("head_dim", fmt.Sprintf("%d is odd, but RoPE rotates pairs", c.HeadDim), "use an even head_dim (or another hidden_size / num_attention_heads)")
	}
	if !(c.RMSNormEps > 0 && c.RMSNormEps < 1) {
		r.problem("rms_norm_eps", fmt.Sprintf("%g is out of range", c.RMSNormEps), "use a small positive number such as 1e-6")
	}
	if !(c.InitializerRange >= 0 && c.InitializerRange <= 1) {
		r.problem("initializer_range", fmt.Sprintf("%g is out of range", c.InitializerRange), "use a number from 0 to 1")
	}
}

// nearestDivisor returns the divisor of n that is nearest to want.
func nearestDivisor(n, want int) int {
	best := 1
	for d := 1; d <= n; d++ {
		if n%d == 0 && max(d-want, want-d) < max(best-want, want-best) {
			best = d
		}
	}
	return best
}

// JSON returns the configuration as a config.json for weights saved as dtype, such as "float32": every key as it came,
// overrides included, with the architecture's name and the type of the weights. Keys are sorted, so that equal configurations are equal bytes.
func (c *Config) JSON(dtype string) []byte {
	out := map[string]json.RawMessage{}
	for k, v := range c.raw {
		out[k] = v
	}
	quoted := func(s string) json.RawMessage { return json.RawMessage(fmt.Sprintf("%q", s)) }
	out["model_type"] = quoted(c.Family)
	if _, ok := out["architectures"]; !ok {
		out["architectures"] = json.RawMessage(fmt.Sprintf("[%q]", architectures[c.Family]))
	}
	key := "torch_dtype" // Transformers 4's name, which 5 still reads
	if _, ok := out["dtype"]; ok {
		key = "dtype"
	}
	out[key] = quoted(dtype)
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil { // raw values came out of a JSON decoder or encoder
		panic(fmt.Sprintf("model: writing config.json: %v", err))
	}
	return append(text, '\n')
}

// Families returns the model types that can be trained, sorted.
func Families() []string {
	var names []string
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
