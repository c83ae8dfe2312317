package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// A Want is what a rank wants of a checkpoint.
type Want struct {
	// Dir is the checkpoint's directory; "" stands for the newest sound one of the store.
	Dir string
	// Parts lists what this rank will read.
	Parts func(l *Loaded) []Part
	// Accept says, on rank 0, whether the checkpoint is one to go on from. Its error ends the search. It may be nil.
	Accept func(l *Loaded) error
	// Read reads the parts. It is called once more with an older checkpoint where the bytes that a rank has read turn out to be
	// damaged.
	Read func(l *Loaded) error
}

// Restore reads a checkpoint, the same one on all ranks, and returns where it was and its step. Each rank reads the bytes that it
// wants, and verifies the chunks that these are in; what is not on its host is sent by ranks that have it. A checkpoint that is
// damaged, or of which parts are nowhere, is logged with the reason and skipped, unless Dir names it. The error is ErrNone where
// there are no checkpoints; that there are some, but none of them sound, is another error, so that no run starts from the
// beginning for that reason. All Peers call it.
func (s *Store) Restore(ctx context.Context, w Want) (dir string, step int, err error) {
	dirs := []string{w.Dir}
	if w.Dir == "" {
		if dirs, err = s.candidates(ctx); err != nil {
			return "", 0, err
		}
	}
	var reasons error
	for _, dir := range dirs {
		step, final, err := s.restore(ctx, dir, w)
		if err == nil {
			return dir, step, nil
		}
		err = fmt.Errorf("checkpoint %s: %w", dir, err)
		if final || w.Dir != "" || errors.Is(err, errPeers) {
			return "", 0, err
		}
		s.Log.Warn("a damaged checkpoint is skipped", "checkpoint", dir, "reason", err)
		reasons = errors.Join(reasons, err)
	}
	if len(dirs) == 0 {
		return "", 0, fmt.Errorf("%s: %w", s.dir, ErrNone)
	}
	return "", 0, noneSound(s.dir, len(dirs), reasons)
}

// noneSound says that a store has damaged checkpoints only.
func noneSound(dir string, n int, reasons error) error {
	return fmt.Errorf("none of the %d checkpoints in %s is sound; restore one, or start anew in another run.output_dir: %w", n, dir, reasons)
}

// candidates returns the directories of the store's checkpoints, newest first, on whatever host they are.
func (s *Store) candidates(ctx context.Context) (dirs []string, err error) {
	all, err := together(ctx, s, func(context.Context) ([]int, error) { return s.list() })
	if err != nil {
		return nil, err
	}
	steps := slices.Concat(all...)
	slices.Sort(steps)
	for _, step := range slices.Backward(slices.Compact(steps)) {
		dirs = append(dirs, s.Path(step))
	}
	return dirs, nil
}

// restore reads one checkpoint. final says of an error that no other checkpoint will do either.
func (s *Store) restore(ctx context.Context, dir string, w Want) (step int, final bool, err error) {
	l, err := s.open(ctx, dir)
	if err != nil {
		return 0, false, err
	}
	defer l.Close()
	if named, ok := parseStep(filepath.Base(dir)); ok && named != l.Step {
		return 0, false, fmt.Errorf("it holds step %d: it has been renamed; give it its name back", l.Step)
	}
	if w.Accept != nil {
		err := agree(ctx, s, func() error {
			if s.peers.Rank() > 0 {
				return nil
			}
			return w.Accept(l)
		})
		if err != nil {
			return 0, true, err
		}
	}
	if err := s.fetch(ctx, l, w.Parts(l)); err != nil {
		return 0, false, err
	}
	return l.Step, false, agree(ctx, s, func() error { return w.Read(l) })
}

// seen is what a rank sees of a checkpoint.
type seen struct {
	Sum   string // the SHA-256 of its manifest, "" where there is none to be used
	Size  int    // of the manifest, in bytes
	Error string // why there is none
}

// open opens a checkpoint on all ranks, with the state files that each finds in its own directory. Where directories differ, the
// first rank's that has a complete one counts.
func (s *Store) open(ctx context.Context, dir string) (*Loaded, error) {
	var text []byte
	ranks, err := together(ctx, s, func(context.Context) (see seen, err error) {
		root, err := openDir(dir)
		if err == nil {
			text, err = readManifest(root)
			err = errors.Join(err, root.Close())
		}
		if err != nil {
			return seen{Error: err.Error()}, nil
		}
		sum := sha256.Sum256(text)
		return seen{Sum: hex.EncodeToString(sum[:]), Size: len(text)}, nil
	})
	if err != nil {
		return nil, err
	}
	first := slices.IndexFunc(ranks, func(r seen) bool { return r.Sum != "" })
	if first < 0 {
		return nil, errors.New(ranks[0].Error)
	}
	same := func(r seen) bool { return r.Sum == ranks[first].Sum }
	here := same(ranks[s.peers.Rank()])
	if slices.ContainsFunc(ranks, func(r seen) bool { return !same(r) }) {
		if text, err = s.sendText(ctx, text, first, ranks[first].Size); err != nil {
			return nil, err
		}
	}
	var l *Loaded
	if err := agree(ctx, s, func() (err error) { l, err = openManifest(dir, text, here); return err }); err != nil {
		return nil, err
	}
	return l, nil
}

// openManifest opens the checkpoint that a manifest describes. here says that its directory has that manifest: else none of its
// files are used.
func openManifest(dir string, text []byte, here bool) (*Loaded, error) {
	m, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	l, err := newLoaded(dir, m)
	if err != nil || !here {
		return l, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if _, _, err = inspect(root); err == nil {
		err = l.openFiles(root)
	}
	if err == nil && m.Version == 1 {
		err = l.readHeaders()
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// sendBytes is how much of a manifest is sent at a time.
const sendBytes = 8 << 20

// sendText returns the text of rank from, of the given size, on all ranks.
func (s *Store) sendText(ctx context.Context, text []byte, from, size int) ([]byte, error) {
	var all bytes.Buffer
	for at := 0; at < size; at += sendBytes {
		var piece []byte
		if s.peers.Rank() == from {
			piece = text[at:min(size, at+sendBytes)]
		}
		pieces, err := s.peers.GatherBytes(context.WithoutCancel(ctx), piece)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPeers, err)
		}
		all.Write(pieces[from])
	}
	return all.Bytes(), nil
}
