package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/config"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/train"
)

// A recipe is one TOML file of configs/, loaded and laid out.
type recipe struct {
	name   string // of the file, without .toml
	title  string // the first sentence of its comment
	text   string
	ranks  int // that its comment starts it with
	mesh   mesh.Mesh
	config *config.Config
	model  *model.Model
	memory train.Memory // of the rank that has most
}

// small reports whether the recipe is made to run anywhere, in minutes: .ci/run trains it for a few steps.
func (r *recipe) small() bool { return r.name == "quickstart" || strings.HasPrefix(r.name, "small-") }

// rankMemory is the most that a rank of a recipe may need, in bytes.
const rankMemory = 256 << 30

// smallMemory is the most that a rank of a small recipe needs.
const smallMemory = 100 << 20

// ranks returns the number of ranks that the recipe's comment starts it with.
func ranks(text string) (int, error) {
	m := regexp.MustCompile(`(?m)^#  +(?:go run \./)?launch -n (\d+) `).FindStringSubmatch(text)
	if m == nil {
		return 0, errors.New("its comment does not say launch -n N")
	}
	return strconv.Atoi(m[1])
}

// recipes loads all recipes below root, sorted by name.
func recipes(root string) ([]*recipe, error) {
	paths, err := filepath.Glob(filepath.Join(root, "configs/*.toml"))
	if err != nil {
		return nil, err
	}
	var list []*recipe
	for _, path := range paths {
		r, err := loadRecipe(root, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// loadRecipe checks a recipe as spmd check does, and computes its memory. What it reads and writes on the user's machine is
// replaced by files of this repository and of a temporary directory.
func loadRecipe(root, path string) (r *recipe, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "recipe")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	overrides, err := standIns(root, dir, text)
	if err != nil {
		return nil, err
	}
	r = &recipe{name: strings.TrimSuffix(filepath.Base(path), ".toml"), title: title(string(text)), text: string(text)}
	if r.ranks, err = ranks(r.text); err != nil {
		return nil, err
	}
	c, problems := config.Load(config.LoadOptions{Path: path, World: r.ranks, Overrides: overrides})
	if len(problems) > 0 {
		return nil, errors.New(problems.String())
	}
	// The page is the same wherever it is made: one thread, and the kernels that every machine has.
	dev, err := cpu.New(cpu.Options{Threads: 1, KernelSet: "generic"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	r.config, r.model = c, model.New(c.Architecture, model.Partition{})
	if err := r.model.Tune(c.Tuning()); err != nil {
		return nil, err
	}
	for stage := range c.Parallel.Pipeline {
		layout, err := train.NewLayout(dev, c, stage*r.ranks/c.Parallel.Pipeline, r.ranks)
		if err != nil {
			return nil, err
		}
		r.mesh = layout.Mesh
		layout.Memory.Snapshot = 0 // only with checkpoints in the background
		if layout.Memory.Total() > r.memory.Total() {
			r.memory = layout.Memory
		}
	}
	return r, nil
}

// standIns returns overrides that put something small in the place of a recipe's data, output and pretrained model.
func standIns(root, dir string, text []byte) ([]string, error) {
	var needs struct {
		Model struct{ Path string }
		Data  struct{ Format string }
	}
	if err := toml.Unmarshal(text, &needs); err != nil {
		return nil, err
	}
	data, heldOut := "spmd/train/*.go", "spmd/model/*.go"
	if needs.Data.Format == "megatron" {
		data, heldOut = "spmd/train/testdata/golden/corpus", "spmd/train/testdata/golden/documents"
	}
	overrides := []string{"run.output_dir=" + filepath.Join(dir, "out"), "data.paths=" + filepath.Join(root, data), "data.validation_paths=" + filepath.Join(root, heldOut)}
	if needs.Model.Path == "" {
		return overrides, nil
	}
	// The model that another recipe trains, with zeros for weights.
	other, found := strings.CutPrefix(filepath.Dir(needs.Model.Path), "outputs/")
	if !found {
		return nil, fmt.Errorf("model.path = %q is no outputs/RECIPE/model", needs.Model.Path)
	}
	trained, err := loadRecipe(root, filepath.Join(root, "configs", other+".toml"))
	if err != nil {
		return nil, err
	}
	m := checkpoint.Model{Config: trained.config.Architecture.JSON("float32")}
	for _, p := range trained.model.Parameters {
		zeros := safetensors.Bytes(make([]byte, p.Len()*device.Float32.Size()))
		m.Tensors = append(m.Tensors, safetensors.Tensor{Name: p.Name, DType: safetensors.FromDevice(device.Float32), Shape: p.Shape, Data: zeros})
	}
	pretrained := filepath.Join(dir, "model")
	return append(overrides, "model.path="+pretrained), checkpoint.WriteModel(pretrained, m)
}

// title returns the first sentence of the comment that a recipe begins with.
func title(text string) string {
	var words []string
	for line := range strings.Lines(text) {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok {
			break
		}
		words = append(words, strings.Fields(comment)...)
		if comment == "" {
			break
		}
	}
	sentence, _, _ := strings.Cut(strings.Join(words, " "), ". ")
	return strings.TrimRight(sentence, ".:")
}
