package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

const (
	ckptSuffix = ".ckpt"
	ckptName   = "model" + ckptSuffix
	// mindSporeFormat is the value of "format" in the metadata of safetensors that MindSpore writes.
	mindSporeFormat = "ms"
)

// mindSporeState pairs the prefixes of a run's state with those of MindSpore's AdamW, Momentum and AdaFactor, and that of the
// average of the weights, which MindSpore has no name for. MindSpore's weights have none.
var mindSporeState = []struct{ ours, theirs string }{{"exp_avg/", "adam_m."}, {"exp_avg_sq/", "adam_v."}, {"momentum_buffer/", "moments."},
	{"row_var/", "exp_avg_sq_row."}, {"col_var/", "exp_avg_sq_col."}, {"variance/", "exp_avg_sq."}, {"ema/", "ema."}, {"weight/", ""}}

// mindSporeName returns MindSpore's name for a tensor of a run's state.
func mindSporeName(name string) string {
	for _, p := range mindSporeState {
		if short, ok := strings.CutPrefix(name, p.ours); ok {
			return p.theirs + short
		}
	}
	return name
}

// stateName is the inverse of mindSporeName.
func stateName(name string) string {
	for _, p := range mindSporeState {
		if short, ok := strings.CutPrefix(name, p.theirs); ok {
			return p.ours + short
		}
	}
	return name
}

// openMindSpore opens all files of a directory that MindSpore has written.
func (w *Weights) openMindSpore() error {
	for _, name := range globIn(w.dir, "*"+ckptSuffix) {
		f, err := mindspore.Open(filepath.Join(w.dir, name))
		if err != nil {
			return err
		}
		w.files = append(w.files, f)
		if err := w.add(storedMindSpore(f)); err != nil {
			return err
		}
	}
	if len(w.files) > 0 {
		return nil
	}
	for _, name := range globIn(w.dir, "*.safetensors") {
		f, err := safetensors.Open(filepath.Join(w.dir, name))
		if err != nil {
			return err
		}
		w.files = append(w.files, f)
		if f.Metadata()["format"] != mindSporeFormat {
			return noWeights(w.dir)
		}
		if err := w.add(storedSafetensors(f)); err != nil {
			return err
		}
	}
	if len(w.files) == 0 {
		return noWeights(w.dir)
	}
	return nil
}

// mindSporeExtras are the prefixes of what MindSpore's optimizers keep beside the parameters.
var mindSporeExtras = []string{"adam_m.", "adam_v.", "exp_avg.", "exp_avg_sq.", "exp_avg_sq_row.", "exp_avg_sq_col.", "ema.", "moment1.", "moment2.", "moments.", "accu_grads."}

// translate leaves out what is not a weight in the files of MindSpore, and makes the names of MindSpore Transformers those of
// Hugging Face. Weights of other origin stay as they are.
func (w *Weights) translate() error {
	foreign := false
	for _, f := range w.files {
		st, isSafetensors := f.(*safetensors.File)
		foreign = foreign || !isSafetensors || st.Metadata()["format"] == mindSporeFormat
	}
	if !foreign {
		return nil
	}
	maps.DeleteFunc(w.tensors, func(name string, _ stored) bool {
		isExtra := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		// What has no module is a counter, such as global_step.
		return slices.ContainsFunc(mindSporeExtras, isExtra) || !strings.Contains(name, ".")
	})
	if !slices.ContainsFunc(w.Names(), mindspore.IsTransformersName) {
		return nil
	}
	heads, err := readHeads(w.dir)
	if err != nil {
		return err
	}
	theirs := slices.Collect(maps.Values(w.tensors))
	clear(w.tensors)
	for _, t := range theirs {
		parts, err := unfuse(t, heads)
		if err == nil {
			err = w.add(parts)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unfuse returns the Hugging Face tensors that a tensor of MindSpore Transformers holds.
func unfuse(t stored, h mindspore.Heads) ([]stored, error) {
	names, fusion := mindspore.HuggingFaceNames(t.name)
	if fusion == nil {
		t.name = names[0]
		return []stored{t}, nil
	}
	if len(t.shape) == 0 {
		return nil, t.fail(fmt.Errorf("a scalar cannot be %s", strings.Join(names, ", ")))
	}
	blocks, err := fusion.Blocks(t.shape[0], h)
	if err != nil {
		return nil, t.fail(fmt.Errorf("%w; give the config.json of this model", err))
	}
	parts := make([]stored, len(names))
	for i, name := range names {
		parts[i] = stored{name: name, path: t.path, dtype: t.dtype, shape: slices.Clone(t.shape)}
		parts[i].shape[0] = 0
	}
	at := 0
	for _, b := range blocks {
		p, n := &parts[b.Part], b.To-b.From
		p.parts = append(p.parts, t.rows(at, at+n)...)
		p.shape[0] += n
		at += n
	}
	return parts, nil
}

// MindSporeTransformers returns the weights under the names of MindSpore Transformers, matrices fused as it has them in its
// default layouts. heads are those of the model. The result is there until w is closed.
func (w *Weights) MindSporeTransformers(heads mindspore.Heads) (*Weights, error) {
	out := &Weights{dir: w.dir, tensors: map[string]stored{}}
	for _, name := range w.Names() {
		fused, parts, fusion := mindspore.TransformersName(name)
		if fusion == nil {
			t := w.tensors[name]
			t.name = fused
			out.tensors[fused] = t
			continue
		}
		if _, done := out.tensors[fused]; done {
			continue
		}
		t, err := w.fuse(fused, parts, fusion, heads)
		if err != nil {
			return nil, fmt.Errorf("fusing %s: %w", fused, err)
		}
		out.tensors[fused] = t
	}
	return out, nil
}

// fuse joins the rows of several tensors.
func (w *Weights) fuse(name string, parts []string, fusion *mindspore.Fusion, h mindspore.Heads) (stored, error) {
	var from []stored
	rows := 0
	for _, part := range parts {
		t, err := w.find(part)
		if err != nil {
			return t, err
		}
		if len(t.shape) == 0 || t.dtype != w.tensors[parts[0]].dtype || !slices.Equal(t.shape[1:], w.tensors[parts[0]].shape[1:]) {
			return t, fmt.Errorf("%s is %s%v, %s is %s%v", parts[0], from[0].dtype, from[0].shape, part, t.dtype, t.shape)
		}
		from, rows = append(from, t), rows+t.shape[0]
	}
	blocks, err := fusion.Blocks(rows, h)
	if err != nil {
		return stored{}, err
	}
	t := stored{name: name, path: from[0].path, dtype: from[0].dtype, shape: slices.Clone(from[0].shape)}
	t.shape[0] = rows
	for _, b := range blocks {
		if b.To > from[b.Part].shape[0] {
			return t, fmt.Errorf("%s is %v, too few rows for %d of %d heads", parts[b.Part], from[b.Part].shape, h.Attention, h.Dim)
		}
		t.parts = append(t.parts, from[b.Part].rows(b.From, b.To)...)
	}
	return t, nil
}

// readHeads takes the shape of attention's projections out of a directory's config.json.
func readHeads(dir string) (h mindspore.Heads, err error) {
	text, err := readSmall(filepath.Join(dir, configName), maxConfigBytes)
	if err != nil {
		return h, fmt.Errorf("the names are those of MindSpore Transformers: %w; put the model's config.json beside the weights", err)
	}
	var c struct {
		Hidden    int `json:"hidden_size"`
		Attention int `json:"num_attention_heads"`
		KeyValue  int `json:"num_key_value_heads"`
		Dim       int `json:"head_dim"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return h, fmt.Errorf("%s: %w", configName, err)
	}
	if c.KeyValue == 0 {
		c.KeyValue = c.Attention
	}
	if c.Dim == 0 && c.Attention > 0 {
		c.Dim = c.Hidden / c.Attention
	}
	return mindspore.Heads{Attention: c.Attention, KeyValue: c.KeyValue, Dim: c.Dim}, nil
}
