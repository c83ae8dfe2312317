package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint/safetensors"
)

// smallAdapter adapts two modules with rank 1.
func smallAdapter() (AdapterConfig, []safetensors.Tensor) {
	c := AdapterConfig{Rank: 1, Alpha: 8, RSLoRA: true, Dropout: 0.25, TargetModules: []string{"down_proj", "q_proj"}, BaseModel: "some/model"}
	return c, []safetensors.Tensor{
		tensor("model.layers.0.self_attn.q_proj"+LoRAB, safetensors.F32, device.BytesOf([]float32{5, 6}), 2, 1),
		tensor("model.layers.0.self_attn.q_proj"+LoRAA, safetensors.F32, device.BytesOf([]float32{1, 2, 3}), 1, 3),
		tensor("model.layers.0.mlp.down_proj"+LoRAA, safetensors.BF16, []byte{0x80, 0x3f}, 1, 1),
		tensor("model.layers.0.mlp.down_proj"+LoRAB, safetensors.BF16, []byte{0x80, 0x3f}, 1, 1),
	}
}

func TestAdapterReadsBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "adapter")
	want, tensors := smallAdapter()
	for range 2 { // the second replaces the first
		if err := WriteAdapter(dir, want, tensors); err != nil {
			t.Fatal(err)
		}
	}
	a, err := OpenAdapter(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if fmt.Sprint(a.Config) != fmt.Sprint(want) || a.Config.Scale() != 8 {
		t.Errorf("got %+v, want %+v", a.Config, want)
	}
	values := make([]float32, 3)
	if err := a.ReadFloat32("model.layers.0.self_attn.q_proj"+LoRAA, 0, values); err != nil || !slices.Equal(values, []float32{1, 2, 3}) || len(a.Names()) != 4 {
		t.Errorf("A is %v, %v; there is %v", values, err, a.Names())
	}
	file, err := safetensors.Open(filepath.Join(dir, adapterWeightsName))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, ok := file.Info("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"); !ok || file.Metadata()["format"] != "pt" {
		t.Errorf("PEFT would not find its tensors: %v", file.Tensors())
	}
	model := filepath.Join(t.TempDir(), "model")
	if err := WriteModel(model, smallModel(0)); err != nil {
		t.Fatal(err)
	}
	if err := WriteAdapter(model, want, tensors); !errors.Is(err, ErrOccupied) {
		t.Errorf("a model was replaced by an adapter: %v", err)
	}
}

func TestOpenAdapterExplainsWhatIsWrong(t *testing.T) {
	config, tensors := smallAdapter()
	for want, spoil := range map[string]func(dir string) error{
		"there is no adapter_config.json; give the directory": func(dir string) error { return remove(dir, adapterConfigName) },
		"save the adapter with safe_serialization=True":       func(dir string) error { return remove(dir, adapterWeightsName) },
		"adapter_config.json: byte 0: unexpected EOF":         func(dir string) error { return write(dir, adapterConfigName, "{") },
		"the file is damaged or no safetensors file":          func(dir string) error { return write(dir, adapterWeightsName, "xxxxxxxxxxxx") },
		`tensor "lm_head.weight" is no matrix of LoRA`: func(dir string) error {
			if err := os.Remove(filepath.Join(dir, adapterWeightsName)); err != nil {
				return err
			}
			return writeFile(disk{}, filepath.Join(dir, adapterWeightsName), func(w io.Writer) error {
				return safetensors.Write(w, []safetensors.Tensor{tensor("lm_head.weight", safetensors.U8, []byte{1}, 1)}, nil)
			})
		},
	} {
		dir := filepath.Join(t.TempDir(), "adapter")
		if err := errors.Join(WriteAdapter(dir, config, tensors), spoil(dir)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenAdapter(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func FuzzParseAdapterConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": "all-linear", "bias": "none", "use_rslora": true}`))
	for text, want := range map[string]string{
		`{"peft_type": "IA3", "r": 8, "lora_alpha": 16}`:                                          `peft_type "IA3" is not supported`,
		`{"peft_type": "LORA", "r": 0, "lora_alpha": 16}`:                                         "r = 0",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 0}`:                                          "lora_alpha = 0",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "all"}`:                          "trained biases",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": true}`:                       "use_dora",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "fan_in_fan_out": true}`:                 "fan_in_fan_out",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4}}`:          "rank_pattern",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "modules_to_save": ["lm_head"]}`:         "modules_to_save",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_parameters": ["experts"]}`:       "target_parameters",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "layer_replication": [[0, 4], [2, 5]]}`:  "layer_replication",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16} {}`:                                      "something follows",
		`{"peft_type": "LORA", "r": "8"}`:                                                         "byte 31",
		`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "all", "fan_in_fan_out": true}x`: "something follows",
	} {
		if _, err := parseAdapterConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			f.Errorf("%s: got %v, want %s", text, err, want)
		}
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseAdapterConfig(text)
		if err != nil {
			return
		}
		again, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseAdapterConfig(again); err != nil || fmt.Sprint(back) != fmt.Sprint(c) {
			t.Fatalf("%+v became %+v, %v", c, back, err)
		}
	})
}
