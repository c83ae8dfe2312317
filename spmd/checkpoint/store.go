package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stepPrefix = "step-"
	latestName = "latest"
	// fetchedName is the directory for what other hosts have sent of a checkpoint.
	fetchedName = "fetched"
)

// Options say what a Store does.
type Options struct {
	// Keep is how many of the newest checkpoints stay after a save, all of them if it is less than 1. Beyond them stay those of
	// steps that KeepEvery divides, if it is at least 1.
	Keep, KeepEvery int
	// Format is that of the state files: Ckpt, or HuggingFace's safetensors. Both are read.
	Format Format
	// Peers are the ranks that keep the store together; nil stands for this process alone.
	Peers Peers
	// Pause is how often a rank that is busy says so to those that wait for it, less than they wait for anyone; 0 means 5
	// seconds.
	Pause time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// A Store is a directory of training checkpoints, or several on hosts that share no disk. Its methods are safe for concurrent use,
// but for those that the Peers call together; loading does not wait for saving.
type Store struct {
	Options
	dir    string
	peers  Peers
	fsys   fileSystem
	chunk  int // of what is verified at once, in bytes
	writes bool
	// leaders is how many file systems there are: each has a leader.
	leaders int
	// saving holds a token while a save runs, hurry says that somebody waits for its end.
	saving chan struct{}
	hurry  atomic.Bool
	// lock is the open directory whose lock makes this store the only writer, of a leader; else nil.
	lock *os.File
}

// Open opens the store in dir for writing, makes dir if need be, and removes what a crash has left there. One job at a time may
// have it open for writing. All Peers call it.
func Open(dir string, o Options) (*Store, error) { return openStore(disk{}, dir, o) }

func openStore(fsys fileSystem, dir string, o Options) (*Store, error) {
	s := OpenReadOnly(dir, o.Log)
	s.fsys, s.Options, s.writes = fsys, o, true
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Pause == 0 {
		s.Pause = defaultPause
	}
	if o.Peers != nil {
		s.peers = o.Peers
	}
	ctx := context.Background()
	fail := func(err error) (*Store, error) {
		return nil, errors.Join(fmt.Errorf("opening checkpoints in %s: %w", dir, err), s.Close())
	}
	if err := agree(ctx, s, func() error { return os.MkdirAll(dir, 0o755) }); err != nil {
		return fail(err)
	}
	leads, err := s.elect(ctx)
	if err != nil {
		return fail(err)
	}
	err = agree(ctx, s, func() error {
		if !leads {
			return nil
		}
		if err := s.acquireLock(); err != nil {
			return err
		}
		return errors.Join(s.recover(), s.fsys.syncDir(filepath.Dir(dir)))
	})
	if err != nil {
		return fail(err)
	}
	return s, nil
}

// OpenReadOnly opens the store in dir for loading: it changes nothing, any number of processes may do it, beside a writer
// too, and dir need not exist. log may be nil.
func OpenReadOnly(dir string, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{Options: Options{Log: log}, dir: dir, peers: alone{}, fsys: disk{}, chunk: chunkBytes, leaders: 1, saving: make(chan struct{}, 1)}
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
		_, ours := parseStep(name)
		ours = ours || name == latestName || name == fetchedName || strings.HasPrefix(name, electionPrefix)
		if !ours || !isPartial && !isPrevious {
			continue
		}
		s.Log.Info("removing what an interrupted save has left", "path", filepath.Join(s.dir, e.Name()))
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

// Close waits for a save in flight and lets another writer in.
func (s *Store) Close() error {
	s.take()
	defer func() { <-s.saving }()
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
	s.writes = false
	return nil
}

// Save writes a checkpoint and returns when it is on the disk and the ones beyond Keep are gone. A checkpoint of the same
// step is replaced. On an error, ctx done while this rank writes included, the older checkpoints are untouched and nothing is left.
// All Peers call it, and get the same error.
func (s *Store) Save(ctx context.Context, snapshot *Snapshot) error {
	s.take()
	defer func() { <-s.saving }()
	return s.save(ctx, snapshot, nil)
}

// SaveAsync is Save in the background, which calls ended with its error. It first waits for the save in flight, if there is one.
// The snapshot must stay as it is until the save has ended, which b makes slow; once somebody waits for it, it is not any more.
func (s *Store) SaveAsync(snapshot *Snapshot, b Background, ended func(error)) {
	s.take()
	go func() {
		defer func() { <-s.saving }()
		ended(s.save(context.Background(), snapshot, &pace{Background: b, hurry: &s.hurry}))
	}()
}

// Wait waits for the save in flight.
func (s *Store) Wait() {
	s.take()
	<-s.saving
}

// take waits for the save in flight and takes its token.
func (s *Store) take() {
	s.hurry.Store(true)
	s.saving <- struct{}{}
	s.hurry.Store(false)
}

// discard removes a checkpoint. It leaves the checkpoints' names in one step, so that no reader meets half of it.
func (s *Store) discard(step int) error {
	path := s.Path(step)
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

// Path returns the directory of a step's checkpoint.
func (s *Store) Path(step int) string { return filepath.Join(s.dir, stepName(step)) }

func stepName(step int) string { return fmt.Sprintf("%s%08d", stepPrefix, step) }

// parseStep is the inverse of stepName.
func parseStep(name string) (step int, ok bool) {
	digits, ok := strings.CutPrefix(name, stepPrefix)
	step, err := strconv.Atoi(digits)
	return step, ok && err == nil && stepName(step) == name
}
