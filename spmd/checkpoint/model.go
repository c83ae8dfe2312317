package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"lockstep/spmd/checkpoint/safetensors"
)

// defaultShardBytes is Hugging Face's limit for one file of weights.
const defaultShardBytes = 5_000_000_000

// A Model is what a Hugging Face model directory holds.
type Model struct {
	// Config is config.json, written as it is.
	Config []byte
	// Tensors are the weights, in any order.
	Tensors []safetensors.Tensor
	// Files are further files by name, such as tokenizer.json and generation_config.json.
	Files map[string][]byte
	// ShardBytes is how many bytes of tensors may share a file: up to that, there is one model.safetensors, beyond, shards
	// with an index. 0 means 5 GB, as in Transformers.
	ShardBytes int
}

// WriteModel writes a model directory that Transformers loads. The same model gives the same bytes. The directory is
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
	if err := recoverDir(fsys, dir); err != nil {
		return err
	}
	partial := dir + partialSuffix
	if err := m.write(fsys, partial); err != nil {
		return errors.Join(err, removeTree(fsys, partial))
	}
	leftover, err := replaceDir(fsys, partial, dir)
	if err != nil {
		return err
	}
	return removeLeftover(fsys, leftover)
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
		weights, _ := filepath.Match("model*.safetensors*", name)
		if name != filepath.Base(name) || !filepath.IsLocal(name) || name == configName || weights {
			return fmt.Errorf("%q cannot be the name of a further file", name)
		}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (len(entries) == 0 || exists(filepath.Join(dir, configName))) {
		return nil
	}
	return errors.Join(errors.New("it exists and is no model directory; move it away"), err)
}

// write makes the complete model directory dir.
func (m *Model) write(fsys fileSystem, dir string) error {
	shards, total, err := m.shards()
	if err != nil {
		return err
	}
	files := map[string][]byte{configName: m.Config}
	maps.Copy(files, m.Files)
	index := map[string]string{}
	weights := map[string][]safetensors.Tensor{}
	for i, tensors := range shards {
		name := weightsName
		if len(shards) > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		weights[name] = tensors
		for _, t := range tensors {
			index[t.Name] = name
		}
	}
	if len(shards) > 1 {
		if files[indexName], err = encodeIndex(index, total); err != nil {
			return err
		}
	}
	if err := fsys.mkdir(dir); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		err := writeFile(fsys, filepath.Join(dir, name), func(w io.Writer) error {
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

// shards spreads the tensors over files as Transformers does: in order, a new file when the next tensor would go beyond
// the limit. total is the size of all of them in bytes. The order is the one that keeps elements aligned, larger types
// first, and by name within a type.
func (m *Model) shards() (shards [][]safetensors.Tensor, total int, err error) {
	limit := cmp.Or(m.ShardBytes, defaultShardBytes)
	sorted := slices.SortedFunc(slices.Values(m.Tensors), func(a, b safetensors.Tensor) int {
		return cmp.Or(cmp.Compare(b.DType.Bits(), a.DType.Bits()), cmp.Compare(a.Name, b.Name))
	})
	shards = [][]safetensors.Tensor{nil}
	filled := 0
	seen := map[string]bool{}
	for _, t := range sorted {
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
