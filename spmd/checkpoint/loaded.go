package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/shard"
)

// A Loaded is an open checkpoint. What is read of it is verified first. Reading is safe from any number of goroutines, until Close.
type Loaded struct {
	// Dir is the checkpoint's directory.
	Dir     string
	Step    int
	Record  Record
	files   []*stateFile
	tensors map[string]*savedTensor
}

// savedTensor is a tensor of a checkpoint.
type savedTensor struct {
	name   string
	dtype  safetensors.DType
	shape  []int
	pieces []savedPiece
}

// savedPiece is a slice of a tensor, whose elements begin at byte at of a file.
type savedPiece struct {
	file  int
	at    int64
	slice shard.Slice
}

// newLoaded takes the tensors out of a manifest, whose checks have been made.
func newLoaded(dir string, m *manifest) (*Loaded, error) {
	l := &Loaded{Dir: dir, Step: m.Step, Record: m.Record, tensors: map[string]*savedTensor{}}
	for _, f := range m.Files {
		l.files = append(l.files, &stateFile{fileEntry: f, verified: make([]atomic.Bool, len(f.Sums)/sha256.Size)})
	}
	for _, t := range m.Tensors {
		saved := &savedTensor{name: t.Name, dtype: t.DType, shape: t.Shape}
		for _, p := range t.Pieces {
			s, err := p.slice(t.Shape)
			if err != nil {
				return nil, err
			}
			saved.pieces = append(saved.pieces, savedPiece{p.File, p.At, s})
		}
		l.tensors[t.Name] = saved
	}
	return l, nil
}

// openFiles opens the state files that are in the directory.
func (l *Loaded) openFiles(root *os.Root) error {
	for _, f := range l.files {
		file, err := root.Open(f.Name)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		default:
			f.file = file
		}
	}
	return nil
}

// readBytes is how much of a tensor is in memory at a time.
const readBytes = 4 << 20

// Read hands the elements of parts to put: of each, by its number, piece by piece from element at on. Only what a part has in common
// with the slices in the files is read, and the chunks around that are verified first, on several cores. put is called by
// one goroutine at a time; the elements are gone when it returns.
func (l *Loaded) Read(parts []Part, put func(part, at int, elements []byte) error) error {
	var putting sync.Mutex
	return onCores(len(parts), func(i int) error {
		return l.readPart(parts[i], func(at int, elements []byte) error {
			putting.Lock()
			defer putting.Unlock()
			return put(i, at, elements)
		})
	})
}

// readPart reads one part.
func (l *Loaded) readPart(p Part, put func(at int, elements []byte) error) error {
	t, err := l.find(p)
	if err != nil {
		return err
	}
	buffer := make([]byte, min(readBytes, p.bytes(p.Slice.Len())))
	for at := 0; at < p.Slice.Len(); {
		n := min(len(buffer)/p.bytes(1), p.Slice.Len()-at)
		values := buffer[:p.bytes(n)]
		if err := l.read(t, p.Slice.Range(at, at+n), values); err != nil {
			return err
		}
		if err := put(at, values); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// onCores calls f with the numbers from 0 to n-1, as many at a time as there are cores, until one has failed.
func onCores(n int, f func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Bool
	errs := make([]error, max(1, min(n, runtime.GOMAXPROCS(0), maxReaders)))
	var all sync.WaitGroup
	for worker := range errs {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !failed.Load(); i = int(next.Add(1)) - 1 {
				if errs[worker] = f(i); errs[worker] != nil {
					failed.Store(true)
				}
			}
		})
	}
	all.Wait()
	return errs[max(0, slices.IndexFunc(errs, func(err error) bool { return err != nil }))]
}

// maxReaders bounds how many goroutines read, each of which has readBytes in memory.
const maxReaders = 8

// find returns the tensor that a part is of.
func (l *Loaded) find(p Part) (*savedTensor, error) {
	t := l.tensors[p.Name]
	if t == nil || t.dtype != p.DType || !slices.Equal(t.shape, p.Slice.Whole) {
		return nil, fmt.Errorf("%s does not hold %s as %s%v; give a checkpoint of this model", l.Dir, p.Name, p.DType, p.Slice.Whole)
	}
	return t, nil
}

// read fills dst with the elements of a slice of a tensor.
func (l *Loaded) read(t *savedTensor, s shard.Slice, dst []byte) error {
	size, found := t.dtype.Bits()/8, 0
	for _, p := range t.pieces {
		for c := range shard.Overlap(s, p.slice) {
			if err := l.files[p.file].read(dst[c.To*size:(c.To+c.Len)*size], p.at+int64(c.From*size)); err != nil {
				return err
			}
			found += c.Len
		}
	}
	if found != s.Len() {
		return fmt.Errorf("the slices of tensor %q in the files hold %d of the %d elements of %v", t.name, found, s.Len(), s)
	}
	return nil
}

// Weights returns the tensors whose names begin with prefix, such as "weight/", without it. Closing them does nothing; they are
// there until the checkpoint is closed.
func (l *Loaded) Weights(prefix string) *Weights {
	w := &Weights{dir: l.Dir, tensors: map[string]stored{}}
	for name, t := range l.tensors {
		if short, ok := strings.CutPrefix(name, prefix); ok {
			w.tensors[short] = stored{name: short, path: l.Dir, dtype: t.dtype, shape: t.shape, parts: []extent{{wholeTensor{l, t}, 0, elements(t.shape) * t.dtype.Bits() / 8}}}
		}
	}
	return w
}

// wholeTensor reads a checkpoint's tensor as if it were in one place.
type wholeTensor struct {
	from   *Loaded
	tensor *savedTensor
}

// readAt fills p with the bytes from at on, which are those of whole elements.
func (w wholeTensor) readAt(p []byte, at int) error {
	size := w.tensor.dtype.Bits() / 8
	return w.from.read(w.tensor, shard.All(w.tensor.shape...).Range(at/size, (at+len(p))/size), p)
}

// Verify reads all files and compares them with their checksums, on several cores. The error names what is damaged.
func (l *Loaded) Verify() error {
	return onCores(len(l.files), func(i int) error {
		f := l.files[i]
		return onCores(len(f.verified), f.verify)
	})
}

// Parts lists the tensors whose names begin with one of the prefixes, whole, sorted by name.
func (l *Loaded) Parts(prefixes ...string) (parts []Part) {
	for _, name := range slices.Sorted(maps.Keys(l.tensors)) {
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			t := l.tensors[name]
			parts = append(parts, Part{name, t.dtype, shard.All(t.shape...)})
		}
	}
	return parts
}

// Close closes the files.
func (l *Loaded) Close() error {
	var err error
	for _, f := range l.files {
		if f.file != nil {
			err = errors.Join(err, f.file.Close())
		}
	}
	l.files, l.tensors = nil, nil
	return err
}

// stateFile is a file of a checkpoint. file is nil where it is not here.
type stateFile struct {
	fileEntry
	file     *os.File
	verified []atomic.Bool // by chunk
}

// read fills p from byte at on. Bytes are read, not mapped: a bad sector is an error for a read and a fault for a mapping, and
// what is mapped would count as this process's memory beside what it trains with.
func (f *stateFile) read(p []byte, at int64) error {
	if len(p) == 0 {
		return nil
	}
	for i := at / f.Chunk; i <= (at+int64(len(p))-1)/f.Chunk; i++ {
		if err := f.verify(int(i)); err != nil {
			return err
		}
	}
	_, err := f.file.ReadAt(p, at)
	return err
}

// verify makes sure that a chunk has its checksum, unless that has been done.
func (f *stateFile) verify(i int) error {
	if f.verified[i].Load() {
		return nil
	}
	if f.file == nil {
		return fmt.Errorf("%s is missing", f.Name)
	}
	from := int64(i) * f.Chunk
	size := min(f.Chunk, f.Size-from)
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{io.NewSectionReader(f.file, from, size)}, make([]byte, bufferBytes))
	if err != nil {
		return err
	}
	if want := f.Sums[i*sha256.Size : (i+1)*sha256.Size]; n != size || !bytes.Equal(sum.Sum(nil), want) {
		return fmt.Errorf("%s does not have the checksum that was recorded when it was written, in its bytes [%d, %d): SHA-256 %x, expected %x",
			f.Name, from, from+size, sum.Sum(nil), want)
	}
	f.verified[i].Store(true)
	return nil
}

// readHeaders lists the tensors of a checkpoint of version 1, which its files alone describe.
func (l *Loaded) readHeaders() error {
	for i, f := range l.files {
		file, tensors, err := openStateFile(filepath.Join(l.Dir, f.Name))
		if err != nil {
			return err
		}
		for _, t := range tensors {
			if l.tensors[t.name] != nil {
				return errors.Join(fmt.Errorf("%s: tensor %q is in an earlier file too", t.path, t.name), file.Close())
			}
			saved, done := &savedTensor{name: t.name, dtype: t.dtype, shape: t.shape}, 0
			for _, e := range t.parts {
				n := e.len * 8 / t.dtype.Bits()
				saved.pieces = append(saved.pieces, savedPiece{i, int64(e.at), shard.All(t.shape...).Range(done, done+n)})
				done += n
			}
			l.tensors[t.name] = saved
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// openStateFile lists the tensors of a state file by their names in a run's state.
func openStateFile(path string) (tensorFile, []stored, error) {
	if !strings.HasSuffix(path, ckptSuffix) {
		f, err := safetensors.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return f, storedSafetensors(f), nil
	}
	f, err := mindspore.Open(path)
	if err != nil {
		return nil, nil, err
	}
	tensors := storedMindSpore(f)
	for i := range tensors {
		tensors[i].name = stateName(tensors[i].name)
	}
	return f, tensors, nil
}
