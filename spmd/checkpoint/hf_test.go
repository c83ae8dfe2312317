package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint/safetensors"
)

func tensor(name string, d safetensors.DType, data []byte, shape ...int) safetensors.Tensor {
	return safetensors.Tensor{Name: name, DType: d, Shape: shape, Data: safetensors.Bytes(data)}
}

func smallModel(shardBytes int) Model {
	return Model{
		Config: []byte("{\n  \"model_type\": \"llama\"\n}\n"),
		Tensors: []safetensors.Tensor{
			tensor("model.norm.weight", safetensors.F32, device.BytesOf([]float32{1, 2}), 2),
			tensor("lm_head.weight", safetensors.F32, device.BytesOf([]float32{1, 2, 3, 4, 5, 6}), 3, 2),
			tensor("a.half", safetensors.BF16, []byte{0x80, 0x3f, 0, 0xc0}, 2, 1),
			tensor("scalar", safetensors.F16, []byte{0, 0x3c}),
			tensor("codes", safetensors.U8, []byte{1, 2, 3}, 3),
		},
		Files:      map[string][]byte{"tokenizer.json": []byte("{}"), "generation_config.json": []byte(`{"a":1}`)},
		ShardBytes: shardBytes,
	}
}

func TestWeightsReadBackWhatWriteModelWrote(t *testing.T) {
	for shardBytes, files := range map[int]string{
		0:  "[config.json generation_config.json model.safetensors tokenizer.json]",
		41: "[config.json generation_config.json model.safetensors tokenizer.json]", // all there is
		40: "[config.json generation_config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json tokenizer.json]",
		1: "[config.json generation_config.json model-00001-of-00005.safetensors model-00002-of-00005.safetensors model-00003-of-00005.safetensors " +
			"model-00004-of-00005.safetensors model-00005-of-00005.safetensors model.safetensors.index.json tokenizer.json]",
	} {
		dir := filepath.Join(t.TempDir(), "model")
		if HasWeights(dir) {
			t.Error("weights before there are any")
		}
		if err := WriteModel(dir, smallModel(shardBytes)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(globIn(dir, "*")); got != files {
			t.Errorf("%d bytes a shard: %s, expected %s", shardBytes, got, files)
		}
		if !HasWeights(dir) {
			t.Error("no weights were found")
		}
		checkSmallModel(t, dir)
	}
}

func checkSmallModel(t *testing.T, dir string) {
	t.Helper()
	w, err := OpenWeights(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got := fmt.Sprint(w.Names()); got != "[a.half codes lm_head.weight model.norm.weight scalar]" {
		t.Errorf("names %s", got)
	}
	if shape, ok := w.Shape("lm_head.weight"); !ok || fmt.Sprint(shape) != "[3 2]" || w.DType("lm_head.weight") != safetensors.F32 {
		t.Errorf("lm_head.weight is %s%v, %v", w.DType("lm_head.weight"), shape, ok)
	}
	if _, ok := w.Shape("none"); ok || w.DType("none") != "" {
		t.Error("found a tensor that is not there")
	}
	for name, want := range map[string][]float32{"lm_head.weight": {1, 2, 3, 4, 5, 6}, "a.half": {1, -2}, "scalar": {1}} {
		got := make([]float32, len(want))
		if err := w.ReadFloat32(name, 0, got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	part := make([]float32, 4)
	if err := w.ReadFloat32("lm_head.weight", 1, part); err != nil || !slices.Equal(part, []float32{2, 3, 4, 5}) {
		t.Errorf("part %v, %v", part, err)
	}
	if err := w.ReadFloat32("a.half", 1, part[:1]); err != nil || part[0] != -2 {
		t.Errorf("element %v, %v", part[0], err)
	}
	for want, err := range map[string]error{
		`weights of ` + dir + `: there is no tensor "none"`: w.ReadFloat32("none", 0, nil),
		`tensor "codes": dtype U8 does not`:                 w.ReadFloat32("codes", 0, make([]float32, 3)),
		"4 elements from element 0 on were":                 w.ReadFloat32("scalar", 0, part),
		"4 elements from element 3 on were":                 w.ReadFloat32("lm_head.weight", 3, part),
		"0 elements from element -1 on were":                w.ReadFloat32("lm_head.weight", -1, nil),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected %s", err, want)
		}
	}
}

func TestWriteModelGivesTheSameBytes(t *testing.T) {
	read := func(m Model) map[string]string {
		dir := filepath.Join(t.TempDir(), "model")
		if err := WriteModel(dir, m); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for _, name := range globIn(dir, "*") {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(b)
		}
		return files
	}
	for _, shardBytes := range []int{0, 12} {
		a, b := smallModel(shardBytes), smallModel(shardBytes)
		slices.Reverse(b.Tensors)
		if first, second := read(a), read(b); !maps.Equal(first, second) {
			t.Errorf("%v became %v", first, second)
		}
	}
	if index := read(smallModel(30))[indexName]; index != `{
  "metadata": {
    "total_size": 41
  },
  "weight_map": {
    "a.half": "model-00002-of-00002.safetensors",
    "codes": "model-00002-of-00002.safetensors",
    "lm_head.weight": "model-00001-of-00002.safetensors",
    "model.norm.weight": "model-00002-of-00002.safetensors",
    "scalar": "model-00002-of-00002.safetensors"
  }
}
` {
		t.Errorf("the index is %s", index)
	}
}

func TestWriteModelRefuses(t *testing.T) {
	parent := t.TempDir()
	foreign := filepath.Join(parent, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, "thesis"), 0o755); err != nil {
		t.Fatal(err)
	}
	change := func(f func(m *Model)) Model {
		m := smallModel(0)
		f(&m)
		return m
	}
	for _, c := range []struct {
		want, dir string
		model     Model
	}{
		{"is no model directory or adapter; move it away", foreign, smallModel(0)},
		{"is no model directory", filepath.Join(foreign, "..", "file"), smallModel(0)},
		{"config.json: ", "new", change(func(m *Model) { m.Config = []byte("[]") })},
		{"config.json is null", "new", change(func(m *Model) { m.Config = []byte("null") })},
		{`"../x" cannot be the name`, "new", change(func(m *Model) { m.Files = map[string][]byte{"../x": nil} })},
		{`".." cannot be the name`, "new", change(func(m *Model) { m.Files = map[string][]byte{"..": nil} })},
		{`"config.json" cannot be`, "new", change(func(m *Model) { m.Files = map[string][]byte{"config.json": nil} })},
		{`index.json" cannot be`, "new", change(func(m *Model) { m.Files = map[string][]byte{indexName: nil} })},
		{`"scalar" occurs twice`, "new", change(func(m *Model) { m.Tensors[0].Name = "scalar" })},
		{`shape [-1] is impossible`, "new", change(func(m *Model) { m.Tensors[0].Shape = []int{-1} })},
		{`takes 12 bytes, 8 were given`, "new", change(func(m *Model) { m.Tensors[0].Shape = []int{3} })},
	} {
		dir := c.dir
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(parent, dir)
		}
		if err := os.WriteFile(filepath.Join(parent, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := WriteModel(dir, c.model); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "writing model") {
			t.Errorf("got %v, expected %s", err, c.want)
		}
		if found := fmt.Sprint(globIn(parent, "*"), globIn(foreign, "*")); found != "[file foreign] [thesis]" {
			t.Fatalf("%s: there is %s", c.want, found)
		}
	}
}

func TestOpenWeightsExplainsWhatIsWrong(t *testing.T) {
	good := smallModel(1)
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"no directory", os.RemoveAll, "no such file or directory"},
		{"nothing", func(dir string) error { return remove(dir, "model*") }, `set model.init = "random"`},
		{"no index", func(dir string) error { return remove(dir, "*.index.json") }, "download the missing file"},
		{"a missing shard", func(dir string) error { return remove(dir, "model-00003*") }, "wants shard model-00003-of-00005.safetensors"},
		{"a damaged shard", func(dir string) error { return write(dir, "model-00003-of-00005.safetensors", "xxxxxxxxx") }, "model-00003-of-00005.safetensors: the first 8 bytes"},
		{"another index", func(dir string) error {
			return write(dir, indexName, `{"weight_map":{"w":"model-00001-of-00005.safetensors"}}`)
		}, `tensor "w" is in model-00001-of-00005.safetensors, which does not have it`},
		{"an index that leads away", func(dir string) error { return write(dir, indexName, `{"weight_map":{"w":"../secret"}}`) }, `"../secret" leads out of the directory`},
		{"a pickle", func(dir string) error {
			return errors.Join(remove(dir, "model*"), write(dir, "pytorch_model.bin", "x"))
		}, "save_pretrained"},
	} {
		dir := filepath.Join(t.TempDir(), "model")
		if err := WriteModel(dir, good); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		if has := HasWeights(dir); has == (c.name == "no directory" || c.name == "nothing") {
			t.Errorf("%s: HasWeights is %v", c.name, has)
		}
		if _, err := OpenWeights(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, expected %s", c.name, err, c.want)
		}
	}
}

func remove(dir, pattern string) error {
	for _, name := range globIn(dir, pattern) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func write(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}

func FuzzParseIndex(f *testing.F) {
	good, err := encodeIndex(map[string]string{"w": "model-00001-of-00002.safetensors", "v": "sub/x"}, 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"metadata":{"a":[1,{}]},"weight_map":{},"x":null}`))
	for text, want := range map[string]string{
		``:                                     "unexpected EOF",
		`{`:                                    "unexpected EOF",
		`[]`:                                   "found [, expected {",
		`{}`:                                   "there is no weight_map",
		`{"weight_map":[]}`:                    "found [, expected {",
		`{"weight_map":{}} x`:                  "something follows",
		`{"weight_map":{"a":1}}`:               `tensor "a": json`,
		`{"weight_map":{"a":"x","a":"x"}}`:     `tensor "a" occurs twice`,
		`{"weight_map":{},"weight_map":{}}`:    "weight_map occurs twice",
		`{"weight_map":{"a":"/etc/passwd"}}`:   "leads out of the directory",
		`{"weight_map":{"a":"x/../../y"}}`:     "leads out of the directory",
		`{"weight_map":{"a":""}}`:              "leads out of the directory",
		`{"x":` + strings.Repeat("[", 1<<15):   "exceeded max depth",
		`{"weight_map":{"a":"b"},"c":{"d":]}}`: "invalid character",
	} {
		if _, err := parseIndex([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			f.Errorf("%.50s: got %v, expected %s", text, err, want)
		}
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		index, err := parseIndex(text)
		if err != nil {
			return
		}
		for name, file := range index {
			if !filepath.IsLocal(file) {
				t.Fatalf("tensor %q: %q leads out of the directory", name, file)
			}
		}
		again, err := encodeIndex(index, 0)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseIndex(bytes.TrimSpace(again)); err != nil || !maps.Equal(back, index) {
			t.Fatalf("%v became %v, %v", index, back, err)
		}
	})
}
