package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// ErrNone is what Newest returns for a store without checkpoints.
var ErrNone = errors.New("there is no checkpoint")

// A Loaded is a checkpoint that has been found sound. Its tensors are memory-mapped until Close.
type Loaded struct {
	// Dir is the checkpoint's directory.
	Dir     string
	Step    int
	Record  Record
	files   []tensorFile
	tensors map[string]stored
}

// Tensor returns the named tensor. ok is false when the checkpoint does not have it.
func (l *Loaded) Tensor(name string) (t Tensor, ok bool) {
	s, ok := l.tensors[name]
	if !ok {
		return Tensor{}, false
	}
	return Tensor{Name: s.name, DType: s.dtype.Device(), Shape: s.shape, Data: s.bytes()}, true
}

// Part returns the tensors whose names begin with prefix, such as "weight/", without it. Close does nothing to them; they are
// there until the checkpoint is closed.
func (l *Loaded) Part(prefix string) *Weights {
	w := &Weights{dir: l.Dir, tensors: map[string]stored{}}
	for name, t := range l.tensors {
		if short, ok := strings.CutPrefix(name, prefix); ok {
			t.name = short
			w.tensors[short] = t
		}
	}
	return w
}

// Close unmaps the tensors.
func (l *Loaded) Close() error {
	var err error
	for _, f := range l.files {
		if f != nil { // a file that was not sound is not open
			err = errors.Join(err, f.Close())
		}
	}
	l.files, l.tensors = nil, nil
	return err
}

// NewestStep returns the step of the newest checkpoint that looks whole: the marker, the manifest and the sizes of the
// files agree, their contents are not read. found is false when there is none. It is cheap enough for every rank, to agree
// on a step before one of them verifies it; it is meant for the start of a run, when nobody saves.
func (s *Store) NewestStep() (step int, found bool, err error) {
	steps, err := s.list()
	if err != nil {
		return 0, false, err
	}
	for _, step := range steps {
		if s.looksWhole(step) {
			return step, true, nil
		}
	}
	return 0, false, nil
}

func (s *Store) looksWhole(step int) bool {
	root, err := os.OpenRoot(s.path(step))
	if err != nil {
		return false
	}
	defer root.Close()
	_, err = inspect(root)
	return err == nil
}

// Load verifies and opens the checkpoint of a step.
func (s *Store) Load(step int) (*Loaded, error) {
	l, err := LoadDir(s.path(step))
	if err != nil {
		return nil, err
	}
	if l.Step != step {
		return nil, errors.Join(fmt.Errorf("checkpoint %s holds step %d: it has been renamed; give it its name back", l.Dir, l.Step), l.Close())
	}
	return l, nil
}

// Newest verifies and opens the newest sound checkpoint. Damaged ones are logged, each with its reason, and skipped. The
// error is ErrNone when there are no checkpoints; that there are some, but none of them sound, is another error, so that
// no run starts from the beginning for that reason.
func (s *Store) Newest() (*Loaded, error) {
	// A writer beside this reader may replace or remove what was listed; the list is then read again. The bound only
	// makes sure that the wait ends.
	for range 100 {
		l, again, err := s.newest()
		if !again {
			return l, err
		}
	}
	return nil, fmt.Errorf("looking for the newest checkpoint in %s: the directory never stops changing", s.dir)
}

func (s *Store) newest() (l *Loaded, again bool, err error) {
	steps, err := s.list()
	if err != nil {
		return nil, false, err
	}
	if len(steps) == 0 {
		return nil, false, fmt.Errorf("%s: %w", s.dir, ErrNone)
	}
	var reasons error
	for _, step := range steps {
		l, gone, err := s.loadUnlessGone(step)
		if err == nil {
			return l, false, nil
		}
		if gone {
			return nil, true, nil
		}
		s.log.Warn("a damaged checkpoint is skipped", "checkpoint", s.path(step), "reason", err)
		reasons = errors.Join(reasons, err)
	}
	return nil, false, fmt.Errorf("none of the %d checkpoints in %s is sound; restore one, or start anew in another run.output_dir: %w", len(steps), s.dir, reasons)
}

// loadUnlessGone is Load that tells a checkpoint which was removed or replaced meanwhile from one that is damaged.
func (s *Store) loadUnlessGone(step int) (l *Loaded, gone bool, err error) {
	path := s.path(step)
	// As long as it is open, the directory's inode cannot become that of another, and comparing the two is safe.
	d, err := os.Open(path)
	if err != nil {
		return nil, !exists(path), err
	}
	defer d.Close()
	if l, err = s.Load(step); err == nil {
		return l, false, nil
	}
	before, errBefore := d.Stat()
	after, errAfter := os.Stat(path)
	return nil, errBefore != nil || errAfter != nil || !os.SameFile(before, after), err
}

// LoadDir verifies and opens the checkpoint in the directory dir, wherever that is: every byte of it is read and compared
// with its checksum. The error says what is damaged.
func LoadDir(dir string) (*Loaded, error) {
	fail := func(err error) (*Loaded, error) { return nil, fmt.Errorf("checkpoint %s: %w", dir, err) }
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	m, err := inspect(root)
	if errors.Is(err, fs.ErrNotExist) && isStore(dir) {
		return fail(fmt.Errorf("this directory holds checkpoints and is none; name one of its %s... directories", stepPrefix))
	}
	if err != nil {
		return fail(err)
	}
	l := &Loaded{Dir: dir, Step: m.Step, Record: m.Record, files: make([]tensorFile, len(m.Files)), tensors: map[string]stored{}}
	if err = l.open(root, m); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return l, nil
}

// isStore reports whether dir has checkpoints in it, or in its sub-directory checkpoints.
func isStore(dir string) bool {
	return len(globIn(dir, stepPrefix+"*")) > 0 || len(globIn(filepath.Join(dir, "checkpoints"), stepPrefix+"*")) > 0
}

// open verifies and maps all state files, as many at a time as there are cores, and lists their tensors.
func (l *Loaded) open(root *os.Root, m *manifest) error {
	errs := make([]error, len(m.Files))
	tensors := make([][]stored, len(m.Files))
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for i, entry := range m.Files {
		all.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			l.files[i], tensors[i], errs[i] = openVerified(root, entry)
		})
	}
	all.Wait()
	for _, list := range tensors {
		for _, t := range list {
			if _, ok := l.tensors[t.name]; ok {
				errs = append(errs, fmt.Errorf("%s: tensor %q is in an earlier file too", t.path, t.name))
			}
			l.tensors[t.name] = t
		}
	}
	return errors.Join(errs...)
}

// openVerified maps a state file whose bytes have the checksum that the manifest gives. The bytes are read, not taken from
// the mapping, because a bad sector is an error for a read and a fault for a mapping.
func openVerified(root *os.Root, entry fileEntry) (tensorFile, []stored, error) {
	f, err := root.Open(entry.Name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, chunkBytes))
	if err != nil {
		return nil, nil, err
	}
	if n != entry.Size {
		return nil, nil, fmt.Errorf("%s has %d bytes, expected %d", entry.Name, n, entry.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != entry.SHA256 {
		return nil, nil, fmt.Errorf("%s does not have the checksum that was recorded when it was written: SHA-256 %s, expected %s", entry.Name, got, entry.SHA256)
	}
	if strings.HasSuffix(entry.Name, ckptSuffix) {
		c, err := mindspore.Map(f)
		if err != nil {
			return nil, nil, err
		}
		tensors := storedMindSpore(c)
		for i := range tensors {
			tensors[i].name = stateName(tensors[i].name)
		}
		return c, tensors, nil
	}
	st, err := safetensors.Map(f)
	if err != nil {
		return nil, nil, err
	}
	return st, storedSafetensors(st), nil
}
