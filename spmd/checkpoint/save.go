package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// save writes a checkpoint together with the other ranks, at a pace, nil for as fast as can be. Every phase begins when all
// ranks have ended the one before well:
//
//	prepare   on each file system the leader makes the directory step-N.partial
//	write     every rank writes its file there and syncs it
//	finish    the leaders write the manifest, sync, and write the marker
//	publish   the leaders rename the directory and update latest
//	prune     the leaders remove what is beyond keep
//
// A failure before the last is everyone's: what is there of the checkpoint is removed, and the older ones are as they were. Where
// there are several file systems, the older ones stay until the new one is published on all.
func (s *Store) save(ctx context.Context, snapshot *Snapshot, p *pace) error {
	final := s.Path(snapshot.Step)
	partial := final + partialSuffix
	fail := func(err error) error { return fmt.Errorf("saving checkpoint %s: %w", final, err) }
	abandon := func(err error) error {
		if s.leads() {
			err = errors.Join(err, removeTree(s.fsys, partial))
		}
		return fail(err)
	}
	if err := agree(ctx, s, func() error { return s.prepare(snapshot, partial) }); err != nil {
		return abandon(err)
	}
	parts, err := together(ctx, s, func(ctx context.Context) (contribution, error) { return s.writeState(ctx, partial, snapshot, p) })
	if err != nil {
		return abandon(err)
	}
	if err := agree(ctx, s, func() error { return s.finish(partial, snapshot.Step, parts) }); err != nil {
		return abandon(err)
	}
	leftover := ""
	err = agree(ctx, s, func() (err error) {
		leftover, err = s.publish(partial, final)
		return err
	})
	if err != nil {
		return fail(err) // the next Open removes what is left
	}
	// The state is safe. Old checkpoints that cannot be removed are no reason to stop a run.
	err = agree(ctx, s, func() error { return removeLeftover(s.fsys, leftover) })
	if err = errors.Join(err, s.prune(ctx, snapshot.Step)); err != nil {
		s.Log.Warn("an old checkpoint could not be removed", "error", err)
	}
	return nil
}

// leads reports whether this rank changes its store's directory, but for its own state files.
func (s *Store) leads() bool { return s.lock != nil }

// prepare makes the directory for a snapshot.
func (s *Store) prepare(snapshot *Snapshot, partial string) error {
	if !s.writes {
		return errors.New("the store is open for reading only")
	}
	if err := snapshot.check(); err != nil || !s.leads() {
		return err
	}
	// What is left of a save that failed goes first.
	if err := recoverDir(s.fsys, s.Path(snapshot.Step)); err != nil {
		return err
	}
	return s.fsys.mkdir(partial)
}

// finish makes the directory with all state files a complete checkpoint.
func (s *Store) finish(dir string, step int, parts []contribution) error {
	if !s.leads() {
		return nil
	}
	m, err := newManifest(step, parts)
	if err != nil {
		return err
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

// newManifest puts together what the ranks have written. It refuses what could not be loaded again.
func newManifest(step int, parts []contribution) (*manifest, error) {
	m := &manifest{Step: step, Record: parts[0].Record}
	where := map[string]int{} // tensors by their names
	for rank, w := range parts {
		for _, t := range w.Tensors {
			for i := range t.Pieces {
				t.Pieces[i].File = len(m.Files)
			}
			i, ok := where[t.Name]
			if !ok {
				where[t.Name] = len(m.Tensors)
				m.Tensors = append(m.Tensors, t)
				continue
			}
			if have := &m.Tensors[i]; have.DType != t.DType || !slices.Equal(have.Shape, t.Shape) {
				return nil, fmt.Errorf("tensor %q is %s%v on rank %d, and %s%v on another", t.Name, t.DType, t.Shape, rank, have.DType, have.Shape)
			}
			m.Tensors[i].Pieces = append(m.Tensors[i].Pieces, t.Pieces...)
		}
		if w.File.Name != "" {
			m.Files = append(m.Files, w.File)
		}
	}
	for _, t := range m.Tensors {
		if err := t.check(m.Files); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return m, nil
}

// publish gives a complete checkpoint its name. What it has replaced is at leftover, "" for nothing.
func (s *Store) publish(partial, final string) (leftover string, err error) {
	if !s.leads() {
		return "", nil
	}
	if leftover, err = replaceDir(s.fsys, partial, final); err != nil {
		return leftover, err
	}
	if err := s.setLatest(filepath.Base(final)); err != nil {
		return leftover, fmt.Errorf("it is complete, but %s could not be updated: %w", latestName, err)
	}
	return leftover, nil
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

// prune removes the checkpoints before the saved one that are not among the newest Keep, nor of a step that KeepEvery divides.
// Only checkpoints that look whole to all leaders count towards Keep, so that damaged ones never crowd out the last sound one.
func (s *Store) prune(ctx context.Context, saved int) error {
	if s.Keep < 1 {
		return nil
	}
	all, err := together(ctx, s, func(context.Context) (w listed, err error) {
		if w.Leads = s.leads(); w.Leads {
			w.Steps, err = s.list()
			w.Whole = slices.DeleteFunc(slices.Clone(w.Steps), func(step int) bool { return !s.looksWhole(step) })
		}
		return w, err
	})
	if err != nil {
		return err
	}
	leaders, whole := 0, map[int]int{} // how many leaders there are, and find a step whole
	for _, w := range all {
		if w.Leads {
			leaders++
		}
		for _, step := range w.Whole {
			whole[step]++
		}
	}
	return agree(ctx, s, func() (err error) {
		kept := 0
		for _, step := range all[s.peers.Rank()].Steps {
			switch {
			case step > saved: // of a run that went further, before it was resumed from here
			case kept >= s.Keep && (s.KeepEvery < 1 || step%s.KeepEvery > 0):
				err = errors.Join(err, s.discard(step))
			case step == saved || whole[step] == leaders:
				kept++
			}
		}
		return err
	})
}

// listed are the checkpoints that a leader has, newest first, and those that look whole.
type listed struct {
	Leads        bool
	Steps, Whole []int
}
