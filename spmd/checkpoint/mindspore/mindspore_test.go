package mindspore

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/spmd/checkpoint/safetensors"
)

// saved is what mindspore 2.10's save_checkpoint(..., crc_check=True) writes for a Float32 [2,3] of 0 to 5, a BFloat16 [2], a
// Float16 scalar and an Int64 [2].
const saved = "0a2c0a01611227080208031207466c6f617433321a18000000000000803f0000004000004040000080400000a040" +
	"0a170a016212120802120842466c6f617431361a04c03f00c0" + "0a120a0173120d1207466c6f617431361a020042" +
	"0a200a0169121b08021205496e7436341a1001000000000000000200000000000000" + "6372635f6e756d000000000000e152b575"

// savedText is what append_dict={"name": "hello", "flag": True} adds.
const savedText = "0a250a046e616d65121d080012037374721a1468000000650000006c0000006c0000006f000000" + "0a110a04666c616712091204426f6f6c1a0101"

func decode(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// elements returns those of a tensor of a file.
func elements(file []byte, t Tensor) (all []byte) {
	for _, s := range t.Spans {
		all = append(all, file[s.At:s.At+s.Len]...)
	}
	return all
}

// toWrite turns what was read of a file into what Write takes.
func toWrite(file []byte, tensors []Tensor) []safetensors.Tensor {
	var list []safetensors.Tensor
	for _, t := range tensors {
		list = append(list, safetensors.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: safetensors.Bytes(elements(file, t))})
	}
	return list
}

// describe shows tensors with their elements.
func describe(file []byte, tensors []Tensor) string {
	var list []string
	for _, t := range tensors {
		list = append(list, fmt.Sprintf("%s %s %v %v", t.Name, t.DType, t.Shape, elements(file, t)))
	}
	return strings.Join(list, ", ")
}

func TestFilesOfMindSpore(t *testing.T) {
	data := decode(t, saved)
	tensors, err := parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(data, tensors), "a F32 [2 3] [0 0 0 0 0 0 128 63 0 0 0 64 0 0 64 64 0 0 128 64 0 0 160 64], "+
		"b BF16 [2] [192 63 0 192], s F16 [] [0 66], i I64 [2] [1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var again bytes.Buffer
	if err := Write(&again, toWrite(data, tensors)); err != nil {
		t.Fatal(err)
	}
	if want := data[:len(data)-crcBytes]; !bytes.Equal(again.Bytes(), want) {
		t.Errorf("written\n%x, MindSpore writes\n%x", again.Bytes(), want)
	}
	beside := decode(t, savedText)
	text, err := parse(beside)
	if err != nil || describe(beside, text) != "flag BOOL [] [1]" {
		t.Errorf("beside a string there is %v, %v", text, err)
	}
}

func TestSlices(t *testing.T) {
	data := make([]byte, 40)
	for i := range data {
		data[i] = byte(i)
	}
	tensors := []safetensors.Tensor{
		{Name: "x", DType: safetensors.F32, Shape: []int{5, 2}, Data: safetensors.Bytes(data)},
		{Name: "empty", DType: safetensors.F32, Shape: []int{0, 2}, Data: safetensors.Bytes(nil)},
	}
	var b bytes.Buffer
	if err := write(&b, tensors, 16); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.ckpt")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := f.Tensors()
	if len(got) != 2 || len(got[0].Spans) != 3 || !bytes.Equal(elements(b.Bytes(), got[0]), data) || fmt.Sprint(got[1].Shape) != "[0 2]" {
		t.Errorf("read back %v", got)
	}
	want, err := spans(tensors, 16)
	if err != nil || fmt.Sprint(want) != fmt.Sprint([][]safetensors.Span{got[0].Spans, got[1].Spans}) {
		t.Errorf("the elements are at %v and %v, foretold were %v, %v", got[0].Spans, got[1].Spans, want, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	x := func(change func(*safetensors.Tensor)) []safetensors.Tensor {
		t := safetensors.Tensor{Name: "x", DType: safetensors.F32, Shape: []int{2}, Data: safetensors.Bytes(make([]byte, 8))}
		change(&t)
		return []safetensors.Tensor{t}
	}
	for _, c := range []struct {
		want    string
		tensors []safetensors.Tensor
	}{
		{"occurs twice", append(x(func(*safetensors.Tensor) {}), x(func(*safetensors.Tensor) {})...)},
		{"no type for F8_E4M3", x(func(t *safetensors.Tensor) { t.DType, t.Shape = "F8_E4M3", []int{8} })},
		{"8 were given", x(func(t *safetensors.Tensor) { t.Shape = []int{3} })},
		{"too many for the shape", x(func(t *safetensors.Tensor) { t.Shape = []int{1} })},
		{"shape [-1] is impossible", x(func(t *safetensors.Tensor) { t.Shape = []int{-1} })},
		{"no tensor can be called", x(func(t *safetensors.Tensor) { t.Name = "\xff" })},
	} {
		if err := Write(&bytes.Buffer{}, c.tensors); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestOpenExplainsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	good := decode(t, saved)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":    {nil, "the file is empty"},
		"cut":      {good[:30], "the file is cut short"},
		"flipped":  {append(bytes.Clone(good[:20]), append([]byte{good[20] ^ 1}, good[21:]...)...), "the CRC-32 is"},
		"other":    {[]byte("PK\x03\x04 something else"), "no MindSpore checkpoint: copy it again"},
		"map":      {[]byte{0x0a, 0x05, 0x0a, 0x01, 'm', 0x1a, 0x00}, "a MapParameter"},
		"twice":    {append(bytes.Clone(good[:71]), good[:71]...), `tensor "a" occurs twice`},
		"type":     {[]byte{0x0a, 0x0e, 0x0a, 0x01, 'q', 0x12, 0x09, 0x12, 0x05, 'q', 'i', 'n', 't', '4', 0x1a, 0x00}, `type "qint4" is not supported`},
		"size":     {[]byte{0x0a, 0x11, 0x0a, 0x01, 'q', 0x12, 0x0c, 0x08, 0x02, 0x12, 0x05, 'I', 'n', 't', '1', '6', 0x1a, 0x01, 0}, "does not hold whole elements"},
		"too many": {[]byte{0x0a, 0x10, 0x0a, 0x01, 'q', 0x12, 0x0b, 0x08, 0x02, 0x12, 0x04, 'B', 'o', 'o', 'l', 0x1a, 0x01, 0}, "takes 2 bytes, the file has 1"},
	} {
		path := filepath.Join(dir, name+".ckpt")
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(decode(f, saved))
	f.Add(decode(f, savedText))
	f.Add(decode(f, saved)[:71])
	f.Add([]byte{0x0a, 0x05, 0x0a, 0x01, 'm', 0x1a, 0x00})
	f.Add([]byte{0x0a, 0x11, 0x0a, 0x01, 'q', 0x12, 0x0c, 0x0a, 0x01, 0x02, 0x12, 0x03, 's', 't', 'r', 0x1a, 0x01, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		tensors, err := parse(data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := Write(&b, toWrite(data, tensors)); err != nil {
			t.Fatal(err)
		}
		again, err := parse(b.Bytes())
		if err != nil || len(again) != len(tensors) {
			t.Fatalf("%v became %v, %v", tensors, again, err)
		}
		if was, is := describe(data, tensors), describe(b.Bytes(), again); was != is {
			t.Fatalf("%s became %s", was, is)
		}
	})
}

func TestNames(t *testing.T) {
	for theirs, ours := range map[string]string{
		"embedding.word_embeddings.weight":                   "[model.embed_tokens.weight]",
		"decoder.final_layernorm.weight":                     "[model.norm.weight]",
		"output_layer.weight":                                "[lm_head.weight]",
		"decoder.layers.11.input_layernorm.weight":           "[model.layers.11.input_layernorm.weight]",
		"decoder.layers.11.pre_mlp_layernorm.weight":         "[model.layers.11.post_attention_layernorm.weight]",
		"decoder.layers.0.self_attention.linear_proj.weight": "[model.layers.0.self_attn.o_proj.weight]",
		"decoder.layers.0.self_attention.q_layernorm.weight": "[model.layers.0.self_attn.q_norm.weight]",
		"decoder.layers.0.mlp.linear_fc2.weight":             "[model.layers.0.mlp.down_proj.weight]",
		"decoder.layers.0.mlp.linear_fc1.weight":             "[model.layers.0.mlp.gate_proj.weight model.layers.0.mlp.up_proj.weight]",
		"decoder.layers.0.self_attention.linear_qkv.bias": "[model.layers.0.self_attn.q_proj.bias model.layers.0.self_attn.k_proj.bias " +
			"model.layers.0.self_attn.v_proj.bias]",
	} {
		names, _ := HuggingFaceNames(theirs)
		if fmt.Sprint(names) != ours || !IsTransformersName(theirs) {
			t.Errorf("%s is %v, want %s", theirs, names, ours)
		}
		for _, name := range names {
			if back, _, _ := TransformersName(name); back != theirs || IsTransformersName(name) {
				t.Errorf("%s is %s, want %s", name, back, theirs)
			}
		}
	}
	// Checkpoints before the fusion have the projections apart.
	if names, _ := HuggingFaceNames("decoder.layers.3.self_attention.linear_q.weight"); fmt.Sprint(names) != "[model.layers.3.self_attn.q_proj.weight]" {
		t.Errorf("linear_q is %v", names)
	}
}

func TestBlocks(t *testing.T) {
	qkv, fc1 := fusions[0], fusions[1]
	got, err := qkv.Blocks(16, Heads{Attention: 4, KeyValue: 2, Dim: 2})
	if want := "[{0 0 4} {1 0 2} {2 0 2} {0 4 8} {1 2 4} {2 2 4}]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("qkv: %v, %v, want %s", got, err, want)
	}
	got, err = fc1.Blocks(4, Heads{})
	if want := "[{0 0 1} {1 0 1} {0 1 2} {1 1 2}]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("fc1: %v, %v, want %s", got, err, want)
	}
	for _, h := range []Heads{{}, {4, 3, 2}, {4, 2, 3}, {2, 4, 2}} {
		if _, err := qkv.Blocks(16, h); err == nil {
			t.Errorf("%v was accepted", h)
		}
	}
	if _, err := fc1.Blocks(3, Heads{}); err == nil {
		t.Error("an odd number of rows was accepted")
	}
}
