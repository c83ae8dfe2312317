package model_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/model"
)

// small returns a model of a family, bound to memory and initialised from a seed.
func small(t *testing.T, family string, dev *cpu.Device, s device.Stream) *model.Model {
	t.Helper()
	keys := map[string]any{"model_type": family, "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64,
		"initializer_range": 0.3, "tie_word_embeddings": family != "llama"}
	if strings.HasPrefix(family, "deepseek") {
		maps.Copy(keys, map[string]any{"num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
			"num_nextn_predict_layers": 2, "q_lora_rank": 10, "kv_lora_rank": 7, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 6})
	}
	maps.Copy(keys, map[string]any{"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 9})
	c, problems := model.ParseConfig(keys)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	m := model.New(c, model.Partition{})
	storage, err := dev.Alloc(4 * m.WeightElements())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Bind(kernels.NewTensor(storage, 0, device.Float32, m.WeightElements()), kernels.Tensor{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Initialize(dev, s, nil, 5); err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t *testing.T) (*cpu.Device, device.Stream) {
	t.Helper()
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev, dev.NewInlineStream("compute")
}

// TestDecoderAgreesWithOnePass reads a text in one pass, and token by token with the cache.
func TestDecoderAgreesWithOnePass(t *testing.T) {
	text := []int32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 60, 0, 8}
	for _, family := range model.Families() {
		dev, s := open(t)
		m := small(t, family, dev, s)
		decoder := func(prompt int) *model.Decoder {
			d, err := model.NewDecoder(m, dev, s, prompt, len(text))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d
		}
		stepwise := decoder(3)
		logits, err := stepwise.Prompt(text[:3])
		for n := 3; ; n++ {
			if err != nil {
				t.Fatal(err)
			}
			whole, err2 := decoder(n).Prompt(text[:n])
			if err2 != nil {
				t.Fatal(err2)
			}
			for i := range whole {
				if d := math.Abs(float64(whole[i] - logits[i])); d > 1e-5 {
					t.Fatalf("%s: after %d tokens logit %d is %g with the cache, %g in one pass", family, n, i, logits[i], whole[i])
				}
			}
			if n == len(text) {
				break
			}
			logits, err = stepwise.Next(text[n])
		}
		if _, err := stepwise.Next(1); err == nil {
			t.Errorf("%s: a token beyond the last position was taken", family)
		}
	}
}

// weights is a source for the tests.
type weights map[string][]int

func (w weights) Names() (names []string) {
	for name := range w {
		names = append(names, name)
	}
	return names
}

func (w weights) Shape(name string) ([]int, bool) { s, ok := w[name]; return s, ok }

// ReadFloat32 makes each value its index in the tensor.
func (w weights) ReadFloat32(name string, first int, dst []float32) error {
	for i := range dst {
		dst[i] = float32(first + i)
	}
	return nil
}

// TestWeightsAreLoadedInPieces loads a table that is larger than what is read at a time.
func TestWeightsAreLoadedInPieces(t *testing.T) {
	dev, s := open(t)
	m := model.New(&model.Config{VocabSize: 1100, HiddenSize: 500}, model.Partition{})
	storage, err := dev.Alloc(4 * m.WeightElements())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Bind(kernels.NewTensor(storage, 0, device.Float32, m.WeightElements()), kernels.Tensor{}); err != nil {
		t.Fatal(err)
	}
	src := weights{}
	for _, p := range m.Parameters {
		src[p.Name] = p.Shape
	}
	if err := m.Initialize(dev, s, src, 0); err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Parameters {
		values := make([]float32, p.Len())
		if err := dev.Read(s, device.BytesOf(values), p.Weight.Region()); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if v != float32(i) {
				t.Fatalf("%s: element %d is %v", p.Name, i, v)
			}
		}
	}
}

// TestStagesHoldEachParameterOnce cuts models in three stages, with the embedding's table tied to the head and not.
func TestStagesHoldEachParameterOnce(t *testing.T) {
	for _, family := range []string{"qwen3", "llama", "deepseek_v3"} {
		config := func() *model.Config { dev, s := open(t); return small(t, family, dev, s).Config }()
		config.PredictionLossWeight = 0.3
		whole := model.New(config, model.Partition{})
		var names []string
		for _, run := range []model.Span{{From: 0, To: 1}, {From: 1, To: 2}, {From: 2, To: len(whole.Layers)}} {
			m, elements := model.New(config, model.Partition{}), 0
			m.Hold(run)
			for _, p := range m.Parameters {
				names = append(names, p.Name)
				elements += p.Len()
			}
			if n := m.WeightElements(); n < elements || n > elements+128*len(m.Parameters) {
				t.Errorf("%s: layers %v have %d weights in a buffer of %d", family, run, elements, n)
			}
			if m.NumParameters() != whole.NumParameters() {
				t.Errorf("%s: a stage says that the model has %d parameters, not %d", family, m.NumParameters(), whole.NumParameters())
			}
		}
		var want []string
		for _, p := range whole.Parameters {
			want = append(want, p.Name)
		}
		slices.Sort(names)
		if slices.Sort(want); !slices.Equal(names, want) {
			t.Errorf("%s: the stages hold %v, the model has %v", family, names, want)
		}
	}
}

func TestCheckWeights(t *testing.T) {
	dev, s := open(t)
	m := small(t, "qwen2", dev, s)
	fitting := func() weights {
		w := weights{}
		for _, p := range m.Parameters {
			w[p.Name] = p.Shape
		}
		return w
	}
	if note, err := m.CheckWeights(fitting()); err != nil || note != "" {
		t.Errorf("weights that fit: %q, %v", note, err)
	}
	w := fitting()
	w["lm_head.weight"] = []int{61, 24} // tied, so not needed
	w["model.layers.0.self_attn.rotary_emb.inv_freq"] = []int{3}
	if note, err := m.CheckWeights(w); err != nil || !strings.Contains(note, "lm_head.weight") || !strings.Contains(note, "inv_freq") {
		t.Errorf("weights with more than needed: %q, %v", note, err)
	}
	delete(w, "model.norm.weight")
	w["model.embed_tokens.weight"] = []int{60, 24}
	w["model.layers.2.mlp.up_proj.weight"] = []int{40, 24}
	_, err := m.CheckWeights(w)
	if err == nil {
		t.Fatal("weights of another model were accepted")
	}
	for _, part := range []string{"model.norm.weight [24] is missing", "model.embed_tokens.weight is [60 24], config.json makes it [61 24]",
		"model.layers.2.mlp.up_proj.weight [40 24] is not part of this model"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func TestInitialValues(t *testing.T) {
	dev, s := open(t)
	m := small(t, "qwen2", dev, s)
	read := func(p *model.Parameter) []float32 {
		v := make([]float32, p.Len())
		if err := dev.Read(s, device.BytesOf(v), p.Weight.Region()); err != nil {
			t.Fatal(err)
		}
		return v
	}
	seen := map[float32]string{}
	for _, p := range m.Parameters {
		values := read(p)
		sum, squares := 0.0, 0.0
		for _, v := range values {
			sum += float64(v)
			squares += float64(v) * float64(v)
		}
		n := float64(len(values))
		switch p.Init {
		case model.Normal:
			if mean, std := sum/n, math.Sqrt(squares/n); math.Abs(mean) > 5*0.3/math.Sqrt(n) || math.Abs(std-0.3) > 5*0.3/math.Sqrt(2*n) {
				t.Errorf("%s has mean %g and standard deviation %g", p.Name, mean, std)
			}
			if other, ok := seen[values[0]]; ok {
				t.Errorf("%s starts like %s", p.Name, other)
			}
			seen[values[0]] = p.Name
		case model.Ones:
			if sum != n || squares != n {
				t.Errorf("%s is not all ones", p.Name)
			}
		case model.Zeros:
			if squares != 0 {
				t.Errorf("%s is not all zeros", p.Name)
			}
		}
	}
	if got, want := m.NumParameters(), 61*24+2*((4+2+2)*6*24+(4+2+2)*6+24*24+3*40*24+2*24)+24; got != want {
		t.Errorf("%d parameters, want %d", got, want)
	}
}
