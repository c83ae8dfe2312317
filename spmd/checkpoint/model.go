package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// defaultShardBytes is Hugging Face's limit for one file of weights.
const defaultShardBytes = 5_000_000_000

// A Format is how the tensors of a model directory are written.
type Format string

const (
	// HuggingFace is safetensors as Transformers reads it.
	HuggingFace Format = ""
	// MindSporeSafetensors is one safetensors file as mindspore.load_checkpoint reads it.
	MindSporeSafetensors Format = "mindspore"
	// Ckpt is MindSpore's own format, one file.
	Ckpt Format = "ckpt"
)

// A Model is what a model directory holds.
type Model struct {
	Format Format
	// Config is config.json, written as it is.
	Config []byte
	// Tensors are the weights, in any order.
	Tensors []safetensors.Tensor
	// Optimizer is the optimizer's state, if it is wanted, with the names of a run's state: a prefix such as "exp_avg/" and the
	// parameter's. MindSpore's formats have it in the file of the weights, with MindSpore's names; Hugging Face's in
	// optimizer.safetensors.
	Optimizer []safetensors.Tensor
	// Files are further files by name, such as tokenizer.json and generation_config.json.
	Files map[string][]byte
	// ShardBytes is how many bytes of tensors may share a file in Hugging Face's format: up to that, there is one
	// model.safetensors, beyond, shards with an index. 0 means 5 GB, as in Transformers.
	ShardBytes int
}

// ErrOccupied is what WriteModel returns for a directory that it will not replace.
var ErrOccupied = errors.New("it exists and is no model directory or adapter; move it away")

// WriteModel writes a model directory that Transformers, or MindSpore, loads. The same model gives the same bytes. The directory is
// written beside dir, synced, and moved into place, so that dir is at any moment the model that was there before or the
// new one. A dir that is something else than a model directory is not replaced.
func WriteModel(dir string, m Model) error {
	if err := writeModel(disk{}, dir, m); err != nil {
		return fmt.Errorf("writing model %s: %w", dir, err)
	}
	return nil
}

func writeModel(fsys fileSystem, dir string, m Model) error {
	dir = filepath.Clean(dir)
	if err := m.check(dir); err != nil {
		return err
	}
	return replaceTree(fsys, dir, func(partial string) error { return m.write(fsys, partial) })
}

// check refuses what would not make a model directory, and a dir that would lose something else.
func (m *Model) check(dir string) error {
	var config map[string]json.RawMessage
	if err := json.Unmarshal(m.Config, &config); err != nil {
		return fmt.Errorf("%s: %w", configName, err)
	}
	if config == nil {
		return fmt.Errorf("%s is null, expected an object", configName)
	}
	for name := range m.Files {
		weights, _ := filepath.Match("*.safetensors*", name)
		if name != filepath.Base(name) || !filepath.IsLocal(name) || name == configName || weights || filepath.Ext(name) == ckptSuffix {
			return fmt.Errorf("%q cannot be the name of a further file", name)
		}
	}
	return checkReplaceable(dir, configName)
}

// write makes the complete model directory dir.
func (m *Model) write(fsys fileSystem, dir string) error {
	weights, index, err := m.weightFiles()
	if err != nil {
		return err
	}
	files := map[string][]byte{configName: m.Config}
	maps.Copy(files, m.Files)
	if index != nil {
		files[indexName] = index
	}
	if err := fsys.mkdir(dir); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		err := writeFile(fsys, filepath.Join(dir, name), func(w io.Writer) error {
			switch m.Format {
			case Ckpt:
				return mindspore.Write(w, weights[name])
			case MindSporeSafetensors:
				return safetensors.Write(w, weights[name], map[string]string{"format": mindSporeFormat})
			}
			// Transformers refuses files that do not say that their tensors are laid out as PyTorch's.
			return safetensors.Write(w, weights[name], map[string]string{"format": "pt"})
		})
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeFile(fsys, filepath.Join(dir, name), content(files[name])); err != nil {
			return err
		}
	}
	return fsys.syncDir(dir)
}

// weightFiles spreads the tensors over files by name, and returns the index where there is more than one file of weights.
func (m *Model) weightFiles() (files map[string][]safetensors.Tensor, index []byte, err error) {
	files = map[string][]safetensors.Tensor{}
	if m.Format != HuggingFace {
		name := weightsName
		if m.Format == Ckpt {
			name = ckptName
		}
		files[name] = inFileOrder(m.Tensors)
		for _, t := range inFileOrder(m.Optimizer) {
			t.Name = mindSporeName(t.Name)
			files[name] = append(files[name], t)
		}
		return files, nil, nil
	}
	if len(m.Optimizer) > 0 {
		files[optimizerName] = inFileOrder(m.Optimizer)
	}
	shards, total, err := m.shards()
	if err != nil {
		return nil, nil, err
	}
	if len(shards) == 1 {
		files[weightsName] = shards[0]
		return files, nil, nil
	}
	where := map[string]string{}
	for i, tensors := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		files[name] = tensors
		for _, t := range tensors {
			where[t.Name] = name
		}
	}
	index, err = encodeIndex(where, total)
	return files, index, err
}

// inFileOrder sorts tensors so that their elements are aligned: larger types first, and by name within a type.
func inFileOrder(tensors []safetensors.Tensor) []safetensors.Tensor {
	return slices.SortedFunc(slices.Values(tensors), func(a, b safetensors.Tensor) int {
		return cmp.Or(cmp.Compare(b.DType.Bits(), a.DType.Bits()), cmp.Compare(a.Name, b.Name))
	})
}

// shards spreads the tensors over files as Transformers does: in order, a new file when the next tensor would go beyond
// the limit. total is the size of all of them in bytes.
func (m *Model) shards() (shards [][]safetensors.Tensor, total int, err error) {
	limit := cmp.Or(m.ShardBytes, defaultShardBytes)
	shards = [][]safetensors.Tensor{nil}
	filled := 0
	seen := map[string]bool{}
	for _, t := range inFileOrder(m.Tensors) {
		size, err := t.Size()
		if err != nil {
			return nil, 0, err
		}
		if seen[t.Name] {
			return nil, 0, fmt.Errorf("tensor %q occurs twice", t.Name)
		}
		seen[t.Name] = true
		last := len(shards) - 1
		if filled > 0 && filled+size > limit {
			shards, filled, last = append(shards, nil), 0, last+1
		}
		shards[last] = append(shards[last], t)
		filled += size
		total += size
	}
	return shards, total, nil
}
