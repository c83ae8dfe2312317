package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lockstep/spmd/checkpoint/safetensors"
)

const (
	stepPrefix = "step-"
	latestName = "latest"
	// stateFileBytes is the size from which on a further state file is begun. Several files are verified on several
	// cores.
	stateFileBytes = 1 << 30
)

// A Store is a directory of training checkpoints. Its methods are safe for concurrent use; loading does not wait for
// saving.
type Store struct {
	dir       string
	keep      int
	log       *slog.Logger
	fsys      fileSystem
	fileBytes int
	format    Format // of the state files: HuggingFace, which is safetensors, or Ckpt
	// saving holds a token while a save runs. Who has put it there owns the fields below.
	saving chan struct{}
	// lock is the open directory whose lock makes this store the only writer, nil for a store that only reads.
	lock   *os.File
	failed error // of the asynchronous saves since the last Wait
}

// Open opens the store in dir for writing, makes dir if need be, and removes what a crash has left there. One process at a
// time may have it open for writing. After each save, only the newest keep checkpoints stay, all of them if keep is less
// than 1. State files are written in the given format, Ckpt or HuggingFace's safetensors; both are read. log may be nil.
func Open(dir string, keep int, format Format, log *slog.Logger) (*Store, error) {
	s, err := openStore(disk{}, dir, keep, log)
	if err == nil {
		s.format = format
	}
	return s, err
}

func openStore(fsys fileSystem, dir string, keep int, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening checkpoints: %w", err)
	}
	s := OpenReadOnly(dir, log)
	s.fsys, s.keep = fsys, keep
	if err := s.acquireLock(); err != nil {
		return nil, fmt.Errorf("opening checkpoints in %s: %w", dir, err)
	}
	if err := errors.Join(s.recover(), s.fsys.syncDir(filepath.Dir(dir))); err != nil {
		return nil, errors.Join(fmt.Errorf("opening checkpoints in %s: %w", dir, err), s.Close())
	}
	return s, nil
}

// OpenReadOnly opens the store in dir for loading: it changes nothing, any number of processes may do it, beside a writer
// too, and dir need not exist. log may be nil.
func OpenReadOnly(dir string, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{dir: dir, log: log, fsys: disk{}, fileBytes: stateFileBytes, saving: make(chan struct{}, 1)}
}

// acquireLock makes this store the directory's only writer. The kernel lets go of the lock when the process ends.
func (s *Store) acquireLock() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		d.Close()
		return errors.New("another process writes there; stop it, or choose another run.output_dir")
	}
	// Some network file systems lock no directories. The store works there, without this guard.
	s.lock = d
	return nil
}

// recover removes what interrupted saves and removals have left, and brings latest up to date.
func (s *Store) recover() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, isPartial := strings.CutSuffix(e.Name(), partialSuffix)
		name, isPrevious := strings.CutSuffix(name, previousSuffix)
		_, isStep := parseStep(name)
		if !(isPartial || isPrevious) || !(isStep || name == latestName) {
			continue
		}
		s.log.Info("removing what an interrupted save has left", "path", filepath.Join(s.dir, e.Name()))
		if err := recoverDir(s.fsys, filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	if err := s.fsys.syncDir(s.dir); err != nil {
		return err
	}
	// A crash right after a save may have left the name of the checkpoint before.
	step, found, err := s.NewestStep()
	if err != nil || !found {
		return err
	}
	if name, _ := os.ReadFile(filepath.Join(s.dir, latestName)); string(name) == stepName(step)+"\n" {
		return nil
	}
	return s.setLatest(stepName(step))
}

// Close waits for a save in flight, returns what Wait would, and lets another writer in.
func (s *Store) Close() error {
	s.saving <- struct{}{}
	defer func() { <-s.saving }()
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
	return s.takeFailures()
}

// Save writes a checkpoint and returns when it is on the disk and the ones beyond keep are gone. A checkpoint of the same
// step is replaced. On an error, a cancelled context included, the older checkpoints are untouched and nothing is left.
func (s *Store) Save(ctx context.Context, snapshot *Snapshot) error {
	select {
	case s.saving <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("saving a checkpoint of step %d: %w", snapshot.Step, context.Cause(ctx))
	}
	defer func() { <-s.saving }()
	return s.save(ctx, snapshot)
}

// SaveAsync is Save in the background. It first waits for the save in flight, if there is one. A failure is logged, and
// returned by the next Wait or Close. The snapshot must stay as it is until then.
func (s *Store) SaveAsync(snapshot *Snapshot) {
	s.saving <- struct{}{}
	go func() {
		defer func() { <-s.saving }()
		if err := s.save(context.Background(), snapshot); err != nil {
			s.log.Error("checkpoint failed", "error", err)
			s.failed = errors.Join(s.failed, err)
		}
	}()
}

// Wait waits for the save in flight and returns the errors of all asynchronous saves since the last Wait.
func (s *Store) Wait() error {
	s.saving <- struct{}{}
	defer func() { <-s.saving }()
	return s.takeFailures()
}

// takeFailures returns failed and clears it. Like everything that saves, it runs with the token in saving.
func (s *Store) takeFailures() error {
	err := s.failed
	s.failed = nil
	return err
}

func (s *Store) save(ctx context.Context, snapshot *Snapshot) error {
	final := s.path(snapshot.Step)
	partial := final + partialSuffix
	fail := func(err error) error { return fmt.Errorf("saving checkpoint %s: %w", final, err) }
	if s.lock == nil {
		return fail(errors.New("the store is open for reading only"))
	}
	if err := snapshot.check(); err != nil {
		return fail(err)
	}
	if err := recoverDir(s.fsys, final); err != nil { // of a save that failed earlier
		return fail(err)
	}
	if err := s.write(ctx, partial, snapshot); err != nil {
		return fail(errors.Join(err, removeTree(s.fsys, partial)))
	}
	leftover, err := replaceDir(s.fsys, partial, final)
	if err != nil {
		return fail(err) // the next Open removes what is left
	}
	if err := s.setLatest(filepath.Base(final)); err != nil {
		return fail(fmt.Errorf("it is complete, but %s could not be updated: %w", latestName, err))
	}
	// The state is safe. Old checkpoints that cannot be removed are no reason to stop a run.
	if err := errors.Join(removeLeftover(s.fsys, leftover), s.prune(snapshot.Step)); err != nil {
		s.log.Warn("an old checkpoint could not be removed", "error", err)
	}
	return nil
}

// write makes the complete checkpoint directory dir.
func (s *Store) write(ctx context.Context, dir string, snapshot *Snapshot) error {
	if err := s.fsys.mkdir(dir); err != nil {
		return err
	}
	m := &manifest{Version: formatVersion, Step: snapshot.Step, Record: snapshot.Record}
	files, err := s.split(snapshot.Tensors)
	if err != nil {
		return err
	}
	for i, tensors := range files {
		entry := fileEntry{Name: fmt.Sprintf("state-%05d%s", i, s.suffix())}
		err := writeFile(s.fsys, filepath.Join(dir, entry.Name), func(w io.Writer) error {
			h := &hashWriter{ctx: ctx, w: w, sum: sha256.New()}
			err := s.writeState(h, tensors)
			entry.Size, entry.SHA256 = h.size, hex.EncodeToString(h.sum.Sum(nil))
			return err
		})
		if err != nil {
			return err
		}
		m.Files = append(m.Files, entry)
	}
	text, err := m.encode()
	if err != nil {
		return err
	}
	if err := writeFile(s.fsys, filepath.Join(dir, manifestName), content(text)); err != nil {
		return err
	}
	// The marker must not reach the disk before what it vouches for.
	if err := s.fsys.syncDir(dir); err != nil {
		return err
	}
	if err := writeFile(s.fsys, filepath.Join(dir, markerName), content(marker(text))); err != nil {
		return err
	}
	return s.fsys.syncDir(dir)
}

// split spreads tensors over files, in order. There is at least one.
func (s *Store) split(tensors []safetensors.Tensor) ([][]safetensors.Tensor, error) {
	files := [][]safetensors.Tensor{nil}
	size := 0
	for _, t := range tensors {
		n, err := t.Size()
		if err != nil {
			return nil, err
		}
		if size >= s.fileBytes {
			files, size = append(files, nil), 0
		}
		last := &files[len(files)-1]
		*last = append(*last, t)
		size += n
	}
	return files, nil
}

// setLatest makes the file latest name a checkpoint, in one step.
func (s *Store) setLatest(name string) error {
	path := filepath.Join(s.dir, latestName)
	partial := path + partialSuffix
	if err := removeTree(s.fsys, partial); err != nil {
		return err
	}
	err := writeFile(s.fsys, partial, content([]byte(name+"\n")))
	if err == nil {
		err = s.fsys.rename(partial, path)
	}
	if err != nil {
		return errors.Join(err, removeTree(s.fsys, partial))
	}
	return s.fsys.syncDir(s.dir)
}

// prune removes the checkpoints before the saved one that are not among the newest keep. Only checkpoints that look whole
// count towards keep, so that damaged ones never crowd out the last sound one.
func (s *Store) prune(saved int) error {
	if s.keep < 1 {
		return nil
	}
	steps, err := s.list()
	if err != nil {
		return err
	}
	kept := 0
	for _, step := range steps {
		switch {
		case step > saved: // of a run that went further, before it was resumed from here
		case kept == s.keep:
			err = errors.Join(err, s.discard(step))
		case step == saved || s.looksWhole(step):
			kept++
		}
	}
	return err
}

// discard removes a checkpoint. It leaves the checkpoints' names in one step, so that no reader meets half of it.
func (s *Store) discard(step int) error {
	path := s.path(step)
	partial := path + partialSuffix
	if err := removeTree(s.fsys, partial); err != nil {
		return err
	}
	if err := s.fsys.rename(path, partial); err != nil {
		return err
	}
	if err := s.fsys.syncDir(s.dir); err != nil {
		return err
	}
	return removeTree(s.fsys, partial)
}

// removeLeftover removes what replaceDir has put aside.
func removeLeftover(fsys fileSystem, leftover string) error {
	if leftover == "" {
		return nil
	}
	return removeTree(fsys, leftover)
}

// list returns the steps of the checkpoint directories, newest first, whatever state they are in.
func (s *Store) list() ([]int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing checkpoints: %w", err)
	}
	var steps []int
	for _, e := range entries {
		if step, ok := parseStep(e.Name()); ok {
			steps = append(steps, step)
		}
	}
	slices.Sort(steps)
	slices.Reverse(steps)
	return steps, nil
}

// path returns the directory of a step's checkpoint.
func (s *Store) path(step int) string { return filepath.Join(s.dir, stepName(step)) }

func stepName(step int) string { return fmt.Sprintf("%s%08d", stepPrefix, step) }

// parseStep is the inverse of stepName.
func parseStep(name string) (step int, ok bool) {
	digits, ok := strings.CutPrefix(name, stepPrefix)
	step, err := strconv.Atoi(digits)
	return step, ok && err == nil && stepName(step) == name
}
