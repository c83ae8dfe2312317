package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrNone is what Newest returns for a store without checkpoints.
var ErrNone = errors.New("there is no checkpoint")

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
	root, err := os.OpenRoot(s.Path(step))
	if err != nil {
		return false
	}
	defer root.Close()
	_, missing, err := inspect(root)
	// Where there are several file systems, others have what is missing here.
	return err == nil && (len(missing) == 0 || s.leaders > 1)
}

// Load verifies and opens the checkpoint of a step.
func (s *Store) Load(step int) (*Loaded, error) {
	l, err := LoadDir(s.Path(step))
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
		s.Log.Warn("a damaged checkpoint is skipped", "checkpoint", s.Path(step), "reason", err)
		reasons = errors.Join(reasons, err)
	}
	return nil, false, noneSound(s.dir, len(steps), reasons)
}

// loadUnlessGone is Load that tells a checkpoint which was removed or replaced meanwhile from one that is damaged.
func (s *Store) loadUnlessGone(step int) (l *Loaded, gone bool, err error) {
	path := s.Path(step)
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
	root, err := openDir(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	m, missing, err := inspect(root)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%s is missing, and %d files in all; where they are on other hosts, copy them here", m.Files[missing[0]].Name, len(missing))
	}
	if err != nil {
		return fail(err)
	}
	l, err := newLoaded(dir, m)
	if err != nil {
		return fail(err)
	}
	if err = l.openFiles(root); err == nil {
		err = l.Verify()
	}
	if err == nil && m.Version == 1 {
		err = l.readHeaders()
	}
	if err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return l, nil
}

// openDir opens the directory of a checkpoint.
func openDir(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err == nil && !exists(filepath.Join(dir, manifestName)) && isStore(dir) {
		return nil, errors.Join(fmt.Errorf("this directory holds checkpoints and is none; name one of its %s... directories", stepPrefix), root.Close())
	}
	return root, err
}

// isStore reports whether dir has checkpoints in it, or in its sub-directory checkpoints.
func isStore(dir string) bool {
	return len(globIn(dir, stepPrefix+"*")) > 0 || len(globIn(filepath.Join(dir, "checkpoints"), stepPrefix+"*")) > 0
}
