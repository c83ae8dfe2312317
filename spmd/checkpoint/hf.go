package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"lockstep/spmd/checkpoint/safetensors"
)

// The names that Hugging Face gives the files of a model directory.
const (
	configName  = "config.json"
	weightsName = "model.safetensors"
	indexName   = "model.safetensors.index.json"
)

// Weights are the tensors of a Hugging Face model directory, by their names there. They are memory-mapped: opening reads
// the headers, and reading a tensor reads no other. Reading is safe from any number of goroutines, until Close.
type Weights struct {
	dir     string
	files   []*safetensors.File
	tensors map[string]located
}

// located is a tensor and the file that has it.
type located struct {
	file *safetensors.File
	info safetensors.Info
}

// HasWeights reports whether the model directory dir has weights, in a format that OpenWeights reads or in one that it
// will refuse with advice.
func HasWeights(dir string) bool {
	for _, pattern := range []string{"*.safetensors", indexName, "pytorch_model*.bin", "pytorch_model.bin.index.json"} {
		if found := globIn(dir, pattern); len(found) > 0 {
			return true
		}
	}
	return false
}

// OpenWeights opens the weights in the model directory dir: model.safetensors or, failing that, the shards that
// model.safetensors.index.json names, each of which must be there and hold the tensors that the index says.
func OpenWeights(dir string) (*Weights, error) {
	w := &Weights{dir: dir, tensors: map[string]located{}}
	var err error
	switch {
	case exists(filepath.Join(dir, weightsName)):
		err = w.openSingle()
	case exists(filepath.Join(dir, indexName)):
		err = w.openShards()
	default:
		err = noWeights(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("weights of %s: %w", dir, err), w.Close())
	}
	return w, nil
}

// noWeights says what is there instead.
func noWeights(dir string) error {
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return errors.New("not a directory; name the directory that holds config.json and the weights")
	}
	if found := globIn(dir, "pytorch_model*.bin"); len(found) > 0 {
		return fmt.Errorf("%s is in PyTorch's pickle format, which is not read because it can run code; convert it once in Python: "+
			"transformers.AutoModelForCausalLM.from_pretrained(%q, torch_dtype=\"auto\").save_pretrained(OTHER_DIRECTORY)", found[0], dir)
	}
	if found := globIn(dir, "*.safetensors"); len(found) > 0 {
		return fmt.Errorf("%s is there, but neither %s nor %s, which says where each tensor is; download the missing file", found[0], weightsName, indexName)
	}
	return fmt.Errorf("neither %s nor %s is there; download the weights, or set model.init = \"random\"", weightsName, indexName)
}

func (w *Weights) openSingle() error {
	f, err := safetensors.Open(filepath.Join(w.dir, weightsName))
	if err != nil {
		return err
	}
	w.files = append(w.files, f)
	for _, t := range f.Tensors() {
		w.tensors[t.Name] = located{f, t}
	}
	return nil
}

func (w *Weights) openShards() error {
	index, err := readIndex(filepath.Join(w.dir, indexName))
	if err != nil {
		return err
	}
	shards := map[string]*safetensors.File{}
	for _, name := range slices.Sorted(maps.Keys(index)) {
		shard := index[name]
		f := shards[shard]
		if f == nil {
			// The hub's cache holds links, so the file may lie elsewhere; the name may not lead elsewhere.
			if f, err = safetensors.Open(filepath.Join(w.dir, filepath.FromSlash(shard))); err != nil {
				return fmt.Errorf("%s wants shard %s: %w; download the missing file", indexName, shard, err)
			}
			shards[shard] = f
			w.files = append(w.files, f)
		}
		info, ok := f.Info(name)
		if !ok {
			return fmt.Errorf("%s says that tensor %q is in %s, which does not have it; index and shards are of different models, download both again", indexName, name, shard)
		}
		w.tensors[name] = located{f, info}
	}
	return nil
}

// Names returns the names of all tensors, sorted.
func (w *Weights) Names() []string { return slices.Sorted(maps.Keys(w.tensors)) }

// Shape returns the shape of the named tensor. ok is false when there is no such tensor.
func (w *Weights) Shape(name string) (shape []int, ok bool) {
	t, ok := w.tensors[name]
	return t.info.Shape, ok
}

// DType returns the element type of the named tensor, "" when there is no such tensor.
func (w *Weights) DType(name string) safetensors.DType { return w.tensors[name].info.DType }

// ReadFloat32 reads the named tensor, converted to float32 as safetensors.ToFloat32 does. dst must have its size.
func (w *Weights) ReadFloat32(name string, dst []float32) error {
	t, err := w.find(name)
	if err != nil {
		return err
	}
	if len(dst) != elements(t.info.Shape) {
		return fmt.Errorf("%s: tensor %q has shape %v, %d elements were asked for", t.file.Path(), name, t.info.Shape, len(dst))
	}
	return t.readAt(0, dst)
}

// ReadFloat32Rows is ReadFloat32 for the rows from first on, as many as fill dst. A row is what one index of the first
// dimension selects.
func (w *Weights) ReadFloat32Rows(name string, first int, dst []float32) error {
	t, err := w.find(name)
	if err != nil {
		return err
	}
	if len(t.info.Shape) == 0 {
		return fmt.Errorf("%s: tensor %q is a scalar and has no rows", t.file.Path(), name)
	}
	rows, width := t.info.Shape[0], elements(t.info.Shape[1:])
	count := 0
	if width > 0 {
		count = len(dst) / width
	}
	if first < 0 || first > rows || count > rows-first || count*width != len(dst) {
		return fmt.Errorf("%s: tensor %q: %d elements from row %d on are not whole rows of shape %v", t.file.Path(), name, len(dst), first, t.info.Shape)
	}
	return t.readAt(first*width, dst)
}

func (w *Weights) find(name string) (located, error) {
	t, ok := w.tensors[name]
	if !ok {
		return t, fmt.Errorf("weights of %s: there is no tensor %q", w.dir, name)
	}
	return t, nil
}

// readAt converts len(dst) elements from element first on.
func (t located) readAt(first int, dst []float32) error {
	size := t.info.DType.Bits() / 8
	data := t.file.Bytes(t.info.Name)
	if size > 0 { // types of less than a byte are refused below
		data = data[first*size : (first+len(dst))*size]
	}
	if err := safetensors.ToFloat32(dst, data, t.info.DType); err != nil {
		return fmt.Errorf("%s: tensor %q: %w", t.file.Path(), t.info.Name, err)
	}
	return nil
}

// Close unmaps the weights.
func (w *Weights) Close() error {
	var err error
	for _, f := range w.files {
		err = errors.Join(err, f.Close())
	}
	w.files, w.tensors = nil, nil
	return err
}

// elements returns the number of elements of a shape.
func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// globIn returns the names in dir that match pattern, sorted. dir is taken as it is, even if it looks like a pattern.
func globIn(dir, pattern string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if ok, _ := filepath.Match(pattern, e.Name()); ok {
			found = append(found, e.Name())
		}
	}
	return found
}
