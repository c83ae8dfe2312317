package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/spmd/checkpoint/safetensors"
)

// The names that PEFT gives the files of an adapter directory, and what it puts around a module's name.
const (
	adapterConfigName  = "adapter_config.json"
	adapterWeightsName = "adapter_model.safetensors"
	adapterPrefix      = "base_model.model."
)

// The endings of an adapter's tensors: A [rank, in] and B [out, rank], the update of the module's weight being scale x B A.
const (
	LoRAA = ".lora_A.weight"
	LoRAB = ".lora_B.weight"
)

// An AdapterConfig is what adapter_config.json says of a LoRA adapter.
type AdapterConfig struct {
	Rank  int
	Alpha float64
	// RSLoRA makes the scale alpha/sqrt(rank) instead of alpha/rank.
	RSLoRA  bool
	Dropout float64
	// TargetModules are the last parts of the names of the modules that are adapted, sorted.
	TargetModules []string
	// BaseModel is where the model is that the adapter belongs to, as it was called when the adapter was made.
	BaseModel string
}

// Scale returns what the adapter's product is multiplied with.
func (c *AdapterConfig) Scale() float64 {
	if c.RSLoRA {
		return c.Alpha / math.Sqrt(float64(c.Rank))
	}
	return c.Alpha / float64(c.Rank)
}

// An Adapter is a LoRA adapter in a directory as PEFT has it. Its tensors are called by their module in the Hugging Face model,
// such as "model.layers.0.self_attn.q_proj", and LoRAA or LoRAB.
type Adapter struct {
	Config AdapterConfig
	*Weights
}

// peftConfig is adapter_config.json. The keys without a meaning here are written as PEFT does.
type peftConfig struct {
	ALoRATokens         []int              `json:"alora_invocation_tokens"`
	AlphaPattern        map[string]float64 `json:"alpha_pattern"`
	BaseModelNameOrPath string             `json:"base_model_name_or_path"`
	Bias                string             `json:"bias"`
	FanInFanOut         bool               `json:"fan_in_fan_out"`
	InferenceMode       bool               `json:"inference_mode"`
	InitLoraWeights     any                `json:"init_lora_weights"`
	LayerReplication    any                `json:"layer_replication"`
	LayersToTransform   any                `json:"layers_to_transform"`
	LoraAlpha           float64            `json:"lora_alpha"`
	LoraBias            bool               `json:"lora_bias"`
	LoraDropout         float64            `json:"lora_dropout"`
	ModulesToSave       []string           `json:"modules_to_save"`
	PeftType            string             `json:"peft_type"`
	R                   int                `json:"r"`
	RankPattern         map[string]int     `json:"rank_pattern"`
	TargetModules       any                `json:"target_modules"`
	TargetParameters    []string           `json:"target_parameters"`
	TaskType            string             `json:"task_type"`
	TrainableTokens     any                `json:"trainable_token_indices"`
	UseBdlora           any                `json:"use_bdlora"`
	UseDora             bool               `json:"use_dora"`
	UseQalora           bool               `json:"use_qalora"`
	UseRslora           bool               `json:"use_rslora"`
}

// OpenAdapter opens the adapter in dir. Errors name the file and the remedy; what PEFT can put into an adapter and LoRA as
// published does not have (DoRA, biases, ranks that differ, whole modules) is refused by name.
func OpenAdapter(dir string) (*Adapter, error) {
	fail := func(err error) (*Adapter, error) { return nil, fmt.Errorf("adapter %s: %w", dir, err) }
	text, err := readSmall(filepath.Join(dir, adapterConfigName), maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(fmt.Errorf("there is no %s; give the directory of a PEFT adapter", adapterConfigName))
	}
	if err != nil {
		return fail(err)
	}
	a := &Adapter{}
	if a.Config, err = parseAdapterConfig(text); err != nil {
		return fail(fmt.Errorf("%s: %w", adapterConfigName, err))
	}
	f, err := safetensors.Open(filepath.Join(dir, adapterWeightsName))
	if errors.Is(err, fs.ErrNotExist) {
		return fail(fmt.Errorf("there is no %s; save the adapter with safe_serialization=True", adapterWeightsName))
	}
	if err != nil {
		return fail(err)
	}
	a.Weights = &Weights{dir: dir, files: []tensorFile{f}, tensors: map[string]stored{}}
	modules := map[string]bool{}
	for _, t := range storedSafetensors(f) {
		name, ok := strings.CutPrefix(t.name, adapterPrefix)
		module := strings.TrimSuffix(strings.TrimSuffix(name, LoRAA), LoRAB)
		if !ok || module == name {
			return fail(errors.Join(fmt.Errorf("%s: tensor %q is no matrix of LoRA (%s... and %s or %s); merge it into the model in PEFT", adapterWeightsName, t.name, adapterPrefix, LoRAA, LoRAB), a.Close()))
		}
		t.name = name
		a.tensors[name] = t
		modules[module[strings.LastIndex(module, ".")+1:]] = true
	}
	// The config may have a regular expression; the tensors say what it matched.
	a.Config.TargetModules = slices.Sorted(maps.Keys(modules))
	return a, nil
}

// parseAdapterConfig decodes adapter_config.json.
func parseAdapterConfig(text []byte) (c AdapterConfig, err error) {
	var p peftConfig
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&p); err != nil {
		return c, fmt.Errorf("byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); err != io.EOF {
		return c, errors.New("something follows the JSON object")
	}
	var wrong []error
	refuse := func(bad bool, what string) {
		if bad {
			wrong = append(wrong, fmt.Errorf("%s; merge the adapter into the model in PEFT, or train one without it", what))
		}
	}
	refuse(p.PeftType != "LORA", fmt.Sprintf("peft_type %q is not supported, only LORA is", p.PeftType))
	refuse(p.Bias != "" && p.Bias != "none" || p.LoraBias, "trained biases are not supported")
	refuse(p.UseDora || p.UseQalora || p.UseBdlora != nil && p.UseBdlora != false, "use_dora, use_qalora and use_bdlora are not supported")
	refuse(p.ALoRATokens != nil || p.LayerReplication != nil, "alora_invocation_tokens and layer_replication are not supported")
	refuse(p.FanInFanOut, "fan_in_fan_out is not supported")
	refuse(len(p.RankPattern)+len(p.AlphaPattern) > 0, "rank_pattern and alpha_pattern are not supported")
	refuse(len(p.ModulesToSave) > 0 || p.TrainableTokens != nil, "modules_to_save and trainable_token_indices are not supported")
	refuse(len(p.TargetParameters) > 0, "target_parameters are not supported")
	if p.R < 1 || p.R > 1<<16 || !(p.LoraAlpha > 0) {
		wrong = append(wrong, fmt.Errorf("r = %d and lora_alpha = %g are not a rank and a positive number; the file is damaged", p.R, p.LoraAlpha))
	}
	return AdapterConfig{Rank: p.R, Alpha: p.LoraAlpha, RSLoRA: p.UseRslora, Dropout: p.LoraDropout, BaseModel: p.BaseModelNameOrPath}, errors.Join(wrong...)
}

// encode returns the adapter_config.json.
func (c *AdapterConfig) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(peftConfig{
		AlphaPattern: map[string]float64{}, RankPattern: map[string]int{}, BaseModelNameOrPath: c.BaseModel, Bias: "none",
		InferenceMode: true, InitLoraWeights: true, LoraAlpha: c.Alpha, LoraDropout: c.Dropout, PeftType: "LORA", R: c.Rank,
		TargetModules: c.TargetModules, TaskType: "CAUSAL_LM", UseRslora: c.RSLoRA,
	})
	return b.Bytes(), err
}

// WriteAdapter writes a directory that PEFT loads. tensors are called as those of an Adapter. The same adapter gives the same
// bytes. Like WriteModel, it leaves at any moment the adapter that was there before, or the new one, and does not replace a
// directory that is something else.
func WriteAdapter(dir string, c AdapterConfig, tensors []safetensors.Tensor) error {
	dir = filepath.Clean(dir)
	config, err := c.encode()
	if err == nil {
		err = checkReplaceable(dir, adapterConfigName)
	}
	if err == nil {
		err = replaceTree(disk{}, dir, func(partial string) error { return writeAdapterFiles(disk{}, partial, config, tensors) })
	}
	if err != nil {
		return fmt.Errorf("writing adapter %s: %w", dir, err)
	}
	return nil
}

func writeAdapterFiles(fsys fileSystem, dir string, config []byte, tensors []safetensors.Tensor) error {
	if err := fsys.mkdir(dir); err != nil {
		return err
	}
	tensors = slices.SortedFunc(slices.Values(tensors), func(a, b safetensors.Tensor) int { return cmp.Compare(a.Name, b.Name) })
	for i := range tensors {
		tensors[i].Name = adapterPrefix + tensors[i].Name
	}
	err := writeFile(fsys, filepath.Join(dir, adapterWeightsName), func(w io.Writer) error {
		return safetensors.Write(w, tensors, map[string]string{"format": "pt"})
	})
	if err == nil {
		err = writeFile(fsys, filepath.Join(dir, adapterConfigName), content(config))
	}
	if err != nil {
		return err
	}
	return fsys.syncDir(dir)
}

// checkReplaceable refuses a dir that holds something, but no file of the given name, by which it is known.
func checkReplaceable(dir, known string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (len(entries) == 0 || exists(filepath.Join(dir, known))) {
		return nil
	}
	return errors.Join(ErrOccupied, err)
}

// replaceTree makes the directory dir with what write puts into the one that it is given, in place of what was there.
func replaceTree(fsys fileSystem, dir string, write func(partial string) error) error {
	if err := recoverDir(fsys, dir); err != nil {
		return err
	}
	partial := dir + partialSuffix
	if err := write(partial); err != nil {
		return errors.Join(err, removeTree(fsys, partial))
	}
	leftover, err := replaceDir(fsys, partial, dir)
	if err != nil {
		return err
	}
	return removeLeftover(fsys, leftover)
}
