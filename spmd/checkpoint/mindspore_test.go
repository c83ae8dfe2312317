package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// oneLayer is a model of one layer: 4 heads and 2 key-value heads of 2 rows, hidden 3, intermediate 5. Each element is a
// number of its own.
func oneLayer(config string) Model {
	next := uint16(0)
	m := Model{Config: []byte(config)}
	for _, t := range []struct {
		name  string
		shape []int
	}{
		{"model.embed_tokens.weight", []int{7, 3}}, {"model.norm.weight", []int{3}}, {"lm_head.weight", []int{7, 3}},
		{"model.layers.0.self_attn.q_proj.weight", []int{8, 3}}, {"model.layers.0.self_attn.k_proj.weight", []int{4, 3}},
		{"model.layers.0.self_attn.v_proj.weight", []int{4, 3}}, {"model.layers.0.self_attn.q_proj.bias", []int{8}},
		{"model.layers.0.self_attn.k_proj.bias", []int{4}}, {"model.layers.0.self_attn.v_proj.bias", []int{4}},
		{"model.layers.0.self_attn.o_proj.weight", []int{3, 8}}, {"model.layers.0.mlp.gate_proj.weight", []int{5, 3}},
		{"model.layers.0.mlp.up_proj.weight", []int{5, 3}}, {"model.layers.0.mlp.down_proj.weight", []int{3, 5}},
	} {
		var data []byte
		for range elements(t.shape) {
			data = binary.LittleEndian.AppendUint16(data, next)
			next++
		}
		m.Tensors = append(m.Tensors, tensor(t.name, safetensors.BF16, data, t.shape...))
	}
	return m
}

const oneLayerConfig = `{"model_type": "qwen2", "hidden_size": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}`

// written writes a model and opens its weights.
func written(t *testing.T, dir string, m Model) *Weights {
	t.Helper()
	if err := WriteModel(dir, m); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWeights(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// all returns a tensor's elements.
func all(t *testing.T, s stored) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.copyTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compareWeights expects two sets of weights to be the same bytes.
func compareWeights(t *testing.T, want, got *Weights) {
	t.Helper()
	if !slices.Equal(want.Names(), got.Names()) {
		t.Fatalf("there is %v, want %v", got.Names(), want.Names())
	}
	for name, w := range want.tensors {
		if g := got.tensors[name]; g.dtype != w.dtype || !slices.Equal(g.shape, w.shape) || !bytes.Equal(all(t, g), all(t, w)) {
			t.Errorf("%s is %s%v %v, want %s%v %v", name, g.dtype, g.shape, all(t, g), w.dtype, w.shape, all(t, w))
		}
	}
}

// The names and the fused matrices are compared with MindSpore's own by tools/check_mindspore.py.
func TestMindSporeDirectories(t *testing.T) {
	dir := t.TempDir()
	m := oneLayer(oneLayerConfig)
	want := written(t, filepath.Join(dir, "huggingface"), m)
	fused, err := want.MindSporeTransformers(mindspore.Heads{Attention: 4, KeyValue: 2, Dim: 2})
	if err != nil {
		t.Fatal(err)
	}
	got, key := all(t, fused.tensors["decoder.layers.0.self_attention.linear_qkv.bias"]), all(t, want.tensors["model.layers.0.self_attn.k_proj.bias"])
	if len(fused.tensors) != 8 || got[8] != key[0] {
		t.Errorf("fused: %v, qkv bias %v", fused.Names(), got)
	}
	for _, format := range []Format{Ckpt, MindSporeSafetensors} {
		for name, weights := range map[string]*Weights{"plain": want, "fused": fused} {
			m := Model{Format: format, Config: m.Config, Optimizer: []safetensors.Tensor{
				tensor("exp_avg/model.norm.weight", safetensors.F32, make([]byte, 12), 3), tensor("global_step", safetensors.I32, make([]byte, 4))}}
			for _, name := range weights.Names() {
				x, err := weights.Tensor(name, "")
				if err != nil {
					t.Fatal(err)
				}
				m.Tensors = append(m.Tensors, x)
			}
			compareWeights(t, want, written(t, filepath.Join(dir, string(format)+name), m))
		}
	}
}

func TestMindSporeDirectoriesThatAreWrong(t *testing.T) {
	m := oneLayer(oneLayerConfig)
	m.Format = Ckpt
	for i := range m.Tensors {
		m.Tensors[i].Name, _, _ = mindspore.TransformersName(m.Tensors[i].Name)
	}
	m.Tensors = m.Tensors[:4] // with q_proj in place of qkv
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"too few rows", func(string) error { return nil }, "8 rows are not those of 4 heads and 2 x 2 key-value heads of 2; give the config.json of this model"},
		{"no config", func(dir string) error { return remove(dir, configName) }, "put the model's config.json beside"},
		{"a bad config", func(dir string) error { return write(dir, configName, "[") }, "config.json: unexpected end"},
		{"a damaged file", func(dir string) error { return write(dir, ckptName, "\x0a\xff") }, "the file is cut short"},
		{"files of two ranks", func(dir string) error {
			text, err := os.ReadFile(filepath.Join(dir, ckptName))
			return errors.Join(err, write(dir, "other.ckpt", string(text)))
		}, "merge the slices of several ranks first"},
	} {
		dir := filepath.Join(t.TempDir(), "model")
		if err := errors.Join(WriteModel(dir, m), c.spoil(dir)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenWeights(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestFusingRefuses(t *testing.T) {
	w := written(t, filepath.Join(t.TempDir(), "model"), oneLayer(oneLayerConfig))
	for want, spoil := range map[string]func(tensors map[string]stored){
		`no tensor "model.layers.0.mlp.up_proj.weight"`: func(m map[string]stored) { delete(m, "model.layers.0.mlp.up_proj.weight") },
		"too few rows for 4 of 2 heads": func(m map[string]stored) {
			q, k := m["model.layers.0.self_attn.q_proj.weight"], m["model.layers.0.self_attn.k_proj.weight"]
			q.shape, k.shape = []int{4, 3}, []int{8, 3}
			m["model.layers.0.self_attn.q_proj.weight"], m["model.layers.0.self_attn.k_proj.weight"] = q, k
		},
		"gate_proj.weight is BF16[5 3], model.layers.0.mlp.up_proj.weight is BF16[15]": func(m map[string]stored) {
			up := m["model.layers.0.mlp.up_proj.weight"]
			up.shape = []int{15}
			m["model.layers.0.mlp.up_proj.weight"] = up
		},
	} {
		spoilt := &Weights{tensors: map[string]stored{}}
		for name, x := range w.tensors {
			spoilt.tensors[name] = x
		}
		spoil(spoilt.tensors)
		if _, err := spoilt.MindSporeTransformers(mindspore.Heads{Attention: 4, KeyValue: 2, Dim: 2}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// inMemory is a source.
type inMemory []byte

func (m inMemory) readAt(p []byte, at int) error {
	copy(p, m[at:])
	return nil
}

func TestStoredParts(t *testing.T) {
	x := stored{name: "x", dtype: safetensors.F32, shape: []int{3, 1}, parts: []extent{{inMemory{0, 0, 128, 63}, 0, 4}, {inMemory{9, 0, 0, 0, 64, 0, 0, 64, 64}, 1, 8}}}
	values := make([]float32, 2)
	if err := x.readAt(1, values); err != nil || fmt.Sprint(values) != "[2 3]" {
		t.Errorf("read %v, %v", values, err)
	}
	if err := x.readAt(0, values); err != nil || fmt.Sprint(values) != "[1 2]" {
		t.Errorf("read %v, %v", values, err)
	}
	if got := fmt.Sprint(x.rows(0, 2)); got != "[{[0 0 128 63] 0 4} {[9 0 0 0 64 0 0 64 64] 1 4}]" {
		t.Errorf("rows %s", got)
	}
	var b bytes.Buffer
	if err := x.as(safetensors.BF16).Data(&b); err != nil || fmt.Sprint(b.Bytes()) != "[128 63 0 64 64 64]" {
		t.Errorf("bfloat16 %v, %v", b.Bytes(), err)
	}
}
