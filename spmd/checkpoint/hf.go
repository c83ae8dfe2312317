package checkpoint

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"lockstep/spmd/checkpoint/safetensors"
)

// The names that Hugging Face gives the files of a model directory.
const (
	configName  = "config.json"
	weightsName = "model.safetensors"
	indexName   = "model.safetensors.index.json"
)

// GenerationConfigName is the file of a model directory that says how text is generated, such as with which tokens it ends.
const GenerationConfigName = "generation_config.json"

// ReadConfig returns a JSON file of the model directory dir, such as GenerationConfigName, nil where there is none.
func ReadConfig(dir, name string) ([]byte, error) {
	text, err := readSmall(filepath.Join(dir, name), maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// optimizerName is the file for the optimizer's state in a Hugging Face directory.
const optimizerName = "optimizer.safetensors"

// Weights are named tensors: those of a model directory, by their Hugging Face names, or a part of a checkpoint's state. They are
// memory-mapped: opening reads the headers, and reading a tensor reads no other. Reading is safe from any number of
// goroutines, until Close.
type Weights struct {
	dir     string
	files   []tensorFile
	tensors map[string]stored
}

// HasWeights reports whether the model directory dir has weights, in a format that OpenWeights reads or in one that it
// will refuse with advice.
func HasWeights(dir string) bool {
	for _, pattern := range []string{"*.safetensors", indexName, "*.ckpt", "pytorch_model*.bin", "pytorch_model.bin.index.json"} {
		if found := globIn(dir, pattern); len(found) > 0 {
			return true
		}
	}
	return false
}

// OpenWeights opens the weights in the model directory dir: model.safetensors or, failing that, the shards that
// model.safetensors.index.json names, each of which must be there and hold the tensors that the index says; or else all
// files *.ckpt or *.safetensors that MindSpore has written there. MindSpore's optimizer state is left out, and the names and
// fused matrices of MindSpore Transformers become Hugging Face's, for which the directory's config.json is read.
func OpenWeights(dir string) (*Weights, error) {
	w := &Weights{dir: dir, tensors: map[string]stored{}}
	var err error
	switch {
	case exists(filepath.Join(dir, weightsName)):
		err = w.openSafetensors(weightsName)
	case exists(filepath.Join(dir, indexName)):
		err = w.openShards()
	default:
		err = w.openMindSpore()
	}
	if err == nil {
		err = w.translate()
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

// openSafetensors adds all tensors of a file.
func (w *Weights) openSafetensors(name string) error {
	f, err := safetensors.Open(filepath.Join(w.dir, name))
	if err != nil {
		return err
	}
	w.files = append(w.files, f)
	return w.add(storedSafetensors(f))
}

// add adds tensors, each of which must be new.
func (w *Weights) add(tensors []stored) error {
	for _, t := range tensors {
		if other, ok := w.tensors[t.name]; ok {
			return fmt.Errorf("tensor %q is in %s and in %s; leave only the files of one whole model there (merge the slices of several ranks first)", t.name, other.path, t.path)
		}
		w.tensors[t.name] = t
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
		span, _ := f.Span(name)
		if !ok {
			return fmt.Errorf("%s says that tensor %q is in %s, which does not have it; index and shards are of different models, download both again", indexName, name, shard)
		}
		w.tensors[name] = stored{name: name, path: f.Path(), dtype: info.DType, shape: info.Shape, parts: extents(f, span)}
	}
	return nil
}

// Names returns the names of all tensors, sorted.
func (w *Weights) Names() []string { return slices.Sorted(maps.Keys(w.tensors)) }

// Shape returns the shape of the named tensor. ok is false when there is no such tensor.
func (w *Weights) Shape(name string) (shape []int, ok bool) {
	t, ok := w.tensors[name]
	return t.shape, ok
}

// DType returns the element type of the named tensor, "" when there is no such tensor.
func (w *Weights) DType(name string) safetensors.DType { return w.tensors[name].dtype }

// ReadFloat32 reads as many elements of the named tensor as fill dst, from element first of its row-major order on, converted to
// float32 as safetensors.ToFloat32 does.
func (w *Weights) ReadFloat32(name string, first int, dst []float32) error {
	t, err := w.find(name)
	if err != nil {
		return err
	}
	if n := elements(t.shape); first < 0 || first > n || len(dst) > n-first {
		return fmt.Errorf("%s: tensor %q has shape %v, %d elements from element %d on were asked for", t.path, name, t.shape, len(dst), first)
	}
	return t.readAt(first, dst)
}

func (w *Weights) find(name string) (stored, error) {
	t, ok := w.tensors[name]
	if !ok {
		return t, fmt.Errorf("weights of %s: there is no tensor %q", w.dir, name)
	}
	return t, nil
}

// Tensor returns the named tensor to be written with elements of type d; "" keeps its own. What is no float keeps its type
// too.
func (w *Weights) Tensor(name string, d safetensors.DType) (safetensors.Tensor, error) {
	t, err := w.find(name)
	switch t.dtype {
	case safetensors.F64, safetensors.F32, safetensors.BF16, safetensors.F16:
	default:
		d = t.dtype
	}
	return t.as(cmp.Or(d, t.dtype)), err
}

// Over returns the weights of base with those of w in place of the ones of the same names. It is there until both are closed.
func (w *Weights) Over(base *Weights) *Weights {
	out := &Weights{dir: w.dir, tensors: maps.Clone(base.tensors)}
	maps.Copy(out.tensors, w.tensors)
	return out
}

// Fingerprint returns a digest of all tensors: their names, types, shapes and elements. It reads them all.
func (w *Weights) Fingerprint() (string, error) {
	names := w.Names()
	sums, errs := make([][sha256.Size]byte, len(names)), make([]error, len(names))
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			t, h := w.tensors[name], sha256.New()
			fmt.Fprintf(h, "%q %s %v\n", name, t.dtype, t.shape)
			errs[i] = t.copyTo(h)
			h.Sum(sums[i][:0])
		})
	}
	all.Wait()
	whole := sha256.New()
	for _, sum := range sums {
		whole.Write(sum[:])
	}
	return fmt.Sprintf("%.16x", whole.Sum(nil)), errors.Join(errs...)
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
