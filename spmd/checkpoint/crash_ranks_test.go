package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// thirds is the state of snapshot as three ranks hold it: all of them the count, and each a part of the weights.
func thirds(step, version, rank int) *Snapshot {
	s := snapshot(step, version)
	w := state(step, version)[0]
	n := len(w.data) / 4
	s.Pieces[0] = w.piece(w.all().Range(n*rank/3, n*(rank+1)/3))
	if rank > 0 {
		s.Pieces[1].Slice = s.Pieces[1].Slice.Range(0, 0) // rank 0 writes it
	}
	return s
}

// foundBy restores as three ranks and returns the step and the version that all of them find, 0 for none.
func foundBy(t *testing.T, places [3]string) (step, version int) {
	t.Helper()
	found := make([][2]int, 3)
	asRanks(t, 3, func(p *person) error {
		s, err := openAs(t, p, places[p.rank], Options{Keep: 1})
		if err != nil {
			return err
		}
		defer s.Close()
		_, step, err := s.Restore(context.Background(), Want{Parts: func(l *Loaded) []Part { return l.Parts("") }, Read: func(l *Loaded) error {
			found[p.rank] = [2]int{l.Step, checkLoaded(t, l)}
			return nil
		}})
		if errors.Is(err, ErrNone) {
			return nil
		}
		if err == nil && step != found[p.rank][0] {
			err = fmt.Errorf("step %d was read, step %d returned", found[p.rank][0], step)
		}
		return err
	})
	if found[1] != found[0] || found[2] != found[0] {
		t.Fatalf("the ranks went on from different checkpoints: %v", found)
	}
	return found[0][0], found[0][1]
}

// A save of three ranks that is stopped at any operation of any of them leaves the newest checkpoint as it was, or the new one,
// even if only one is kept. Where it is only one operation that fails, all ranks say so, and the next save works.
func TestSaveOfRanksSurvivesAFaultAtEveryOperation(t *testing.T) {
	for _, c := range []struct {
		name   string
		places [3]string
		old    int
	}{
		{"one directory", [3]string{"a", "a", "a"}, 1}, {"one directory, the same step", [3]string{"a", "a", "a"}, 2},
		{"two directories", [3]string{"a", "b", "a"}, 1},
	} {
		for mode := failOnce; mode <= rankKilled; mode++ {
			t.Run(fmt.Sprintf("%s/%s", c.name, mode), func(t *testing.T) {
				parent := t.TempDir()
				for at := 1; ; at++ {
					places := c.places
					for i := range places {
						places[i] = filepath.Join(parent, strconv.Itoa(at), places[i])
					}
					if done := saveWithFault(t, mode, at, places, c.old); done {
						return
					}
				}
			})
		}
	}
}

// saveWithFault saves step 2 in version 2 after step old in version 1, with a fault at an operation, and looks at what is there
// then. done says that the save had fewer operations.
func saveWithFault(t *testing.T, mode fault, at int, places [3]string, old int) (done bool) {
	t.Helper()
	r := newRoom(3)
	faulty := newFaultyFS(t, mode, at)
	faulty.room = r
	saved := make([]error, 3)
	errs := inRoom(r, func(p *person) error {
		s, err := openAs(t, p, places[p.rank], Options{Keep: 1})
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.Save(context.Background(), thirds(old, 1, p.rank)); err != nil {
			return err
		}
		s.fsys = faulty
		saved[p.rank] = s.Save(context.Background(), thirds(2, 2, p.rank))
		s.fsys = newFaultyFS(t, failOnce, 0)
		if mode == failOnce {
			return s.Save(context.Background(), thirds(3, 1, p.rank))
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("fault at operation %d: %v", at, err)
	}
	if done = !faulty.tripped(); done && at < 25 {
		t.Fatalf("a save of %d operations", at-1)
	}
	faulty.crash()
	step, version := foundBy(t, places)
	if mode == failOnce {
		if (saved[0] == nil) != (saved[1] == nil) || (saved[0] == nil) != (saved[2] == nil) {
			t.Fatalf("fault at operation %d: the ranks say %v", at, saved)
		}
		if step != 3 {
			t.Fatalf("fault at operation %d: after the next save there is step %d", at, step)
		}
		return done
	}
	isNew, isOld := step == 2 && version == 2, step == old && version == 1
	for _, err := range saved {
		if !isNew && (!isOld || err == nil) {
			t.Fatalf("fault at operation %d: step %d, version %d, although the ranks say %v", at, step, version, saved)
		}
	}
	for _, dir := range places { // opening has made it tidy
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, ok := parseStep(e.Name()); !ok && e.Name() != latestName {
				t.Fatalf("fault at operation %d: %s is left", at, e.Name())
			}
		}
	}
	return done
}
