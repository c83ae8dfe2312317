package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/shard"
)

// snapshot returns the state of a step. version tells apart two states of one step. Its size depends on the step.
func snapshot(step, version int) *Snapshot {
	s := &Snapshot{Step: step, Record: Record{{"run.seed", "42"}, {"version", strconv.Itoa(version)}}}
	for _, t := range state(step, version) {
		s.Pieces = append(s.Pieces, t.piece(t.all()))
	}
	return s
}

// A memory is a tensor in memory, whole.
type memory struct {
	name  string
	dtype safetensors.DType
	shape []int
	data  []byte
}

// all is the whole tensor as a slice.
func (m memory) all() shard.Slice { return shard.All(m.shape...) }

// part describes a slice of the tensor.
func (m memory) part(s shard.Slice) Part { return Part{m.name, m.dtype, s} }

// elements returns those of a slice.
func (m memory) elements(s shard.Slice) []byte {
	size := m.dtype.Bits() / 8
	out := make([]byte, 0, s.Len()*size)
	for r := range s.Runs() {
		out = append(out, m.data[r.Whole*size:(r.Whole+r.Len)*size]...)
	}
	return out
}

// piece is a slice of the tensor as it is handed to a store.
func (m memory) piece(s shard.Slice) Piece {
	return Piece{m.part(s), safetensors.Bytes(m.elements(s))}
}

// state returns the tensors of snapshot.
func state(step, version int) []memory {
	weights := make([]float32, 10+step)
	for i := range weights {
		weights[i] = float32(step) + float32(version)/10 + float32(i)/1000
	}
	return []memory{
		{"w", safetensors.F32, []int{len(weights)}, device.BytesOf(weights)},
		{"count", safetensors.I64, nil, device.BytesOf([]int64{int64(step)})},
		{"empty", safetensors.BF16, []int{0, 3}, nil},
	}
}

// checkLoaded makes sure that l is exactly what snapshot made, and returns its version.
func checkLoaded(t *testing.T, l *Loaded) (version int) {
	t.Helper()
	text, _ := l.Record.Get("version")
	version, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	want := state(l.Step, version)
	if fmt.Sprint(l.Record) != fmt.Sprint(snapshot(l.Step, version).Record) || len(l.tensors) != len(want) {
		t.Fatalf("%s: record %v, %d tensors", l.Dir, l.Record, len(l.tensors))
	}
	for _, w := range want {
		checkPart(t, l, w, w.all())
	}
	return version
}

// checkPart makes sure that a checkpoint has a slice of a tensor.
func checkPart(t *testing.T, l *Loaded, m memory, s shard.Slice) {
	t.Helper()
	got := make([]byte, m.part(s).bytes(s.Len()))
	err := l.Read([]Part{m.part(s)}, func(_, at int, elements []byte) error {
		copy(got[m.part(s).bytes(at):], elements)
		return nil
	})
	if want := m.elements(s); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: %v of tensor %s is %v (%v), expected %v", l.Dir, s, m.name, got, err, want)
	}
}

// newest loads the newest checkpoint and returns its step and version, 0 when there is none.
func newest(t *testing.T, s *Store) (step, version int) {
	t.Helper()
	l, err := s.Newest()
	if errors.Is(err, ErrNone) {
		return 0, 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Step, checkLoaded(t, l)
}

// open opens a store for writing that syncs nothing, which saves most of the tests' time.
func open(t *testing.T, dir string, keep int) *Store {
	t.Helper()
	s, err := openStore(newFaultyFS(t, failOnce, 0), dir, Options{Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func save(t *testing.T, s *Store, step, version int) {
	t.Helper()
	if err := s.Save(context.Background(), snapshot(step, version)); err != nil {
		t.Fatal(err)
	}
}

var crashScenarios = []struct {
	name       string
	old        int // step saved before, in version 1
	step       int // saved in version 2
	noExchange bool
}{
	{"the first", 0, 1, false},
	{"the one before is pruned", 1, 2, false},
	{"one is replaced", 1, 1, false},
	{"one is replaced by renaming twice", 1, 1, true},
}

// A save that is stopped at any operation leaves the newest checkpoint as it was, or the new one, even if only one is kept.
func TestSaveSurvivesAFaultAtEveryOperation(t *testing.T) {
	for _, c := range crashScenarios {
		for mode := failOnce; mode <= lateNames; mode++ {
			t.Run(fmt.Sprintf("%s/%s", c.name, mode), func(t *testing.T) {
				parent := t.TempDir()
				for at := 1; ; at++ {
					dir := filepath.Join(parent, strconv.Itoa(at))
					s := open(t, dir, 1)
					if c.old > 0 {
						save(t, s, c.old, 1)
					}
					faulty := newFaultyFS(t, mode, at)
					faulty.noExchange = c.noExchange
					s.fsys = faulty
					err := s.Save(context.Background(), snapshot(c.step, 2))
					done := !faulty.tripped()
					if done && (err != nil || at < 20) {
						t.Fatalf("a save of %d operations: %v", at-1, err)
					}
					faulty.crash()
					s.Close()
					checkSurvival(t, dir, at, c.old, c.step, err == nil, c.noExchange)
					if done {
						return
					}
				}
			})
		}
	}
}

// checkSurvival looks at the store after a fault at operation at of the save of step in version 2.
func checkSurvival(t *testing.T, dir string, at, old, step int, saved, noExchange bool) {
	t.Helper()
	expect := func(when string, s *Store) {
		t.Helper()
		gotStep, version := newest(t, s)
		isNew := gotStep == step && version == 2
		isOld := gotStep == old && (old == 0 || version == 1)
		if !isNew && (!isOld || saved) {
			t.Fatalf("fault at operation %d, %s: the newest checkpoint is step %d, version %d", at, when, gotStep, version)
		}
	}
	if !noExchange { // there, the replaced checkpoint is away for a moment
		expect("before recovery", OpenReadOnly(dir, nil))
	}
	s := open(t, dir, 1)
	defer s.Close()
	expect("after recovery", s)
	checkTidy(t, dir, at, 2)
	save(t, s, step, 2)
	expect("after the next save", s)
	checkTidy(t, dir, at, 1)
}

// checkTidy makes sure that a store holds nothing but whole checkpoints, at most limit of them, and the right latest.
func checkTidy(t *testing.T, dir string, at, limit int) {
	t.Helper()
	s := OpenReadOnly(dir, nil)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	latest, whole := "", 0
	for _, e := range entries {
		if step, ok := parseStep(e.Name()); ok {
			l, err := s.Load(step)
			if err != nil {
				t.Fatalf("fault at operation %d: %v", at, err)
			}
			checkLoaded(t, l)
			l.Close()
			latest, whole = e.Name()+"\n", whole+1
		} else if e.Name() != latestName {
			t.Fatalf("fault at operation %d: %s is left", at, e.Name())
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, latestName))
	if string(text) != latest || err != nil && latest != "" {
		t.Fatalf("fault at operation %d: latest is %q (%v), expected %q", at, text, err, latest)
	}
	if whole > limit {
		t.Fatalf("fault at operation %d: %d checkpoints are left", at, whole)
	}
}

func model(version byte) Model {
	return Model{
		Config:     []byte(`{"model_type":"llama"}`),
		Tensors:    []safetensors.Tensor{{Name: "w", DType: safetensors.U8, Shape: []int{3}, Data: safetensors.Bytes([]byte{version, version, version})}},
		Files:      map[string][]byte{"version": {version}},
		ShardBytes: 0,
	}
}

// A model directory is replaced whole or not at all.
func TestWriteModelSurvivesAFaultAtEveryOperation(t *testing.T) {
	for _, noExchange := range []bool{false, true} {
		for mode := failOnce; mode <= lateNames; mode++ {
			for _, old := range []byte{0, 1} {
				t.Run(fmt.Sprintf("%v/%s/%d", noExchange, mode, old), func(t *testing.T) {
					for at := 1; ; at++ {
						dir := filepath.Join(t.TempDir(), "model")
						if old > 0 {
							if err := writeModel(newFaultyFS(t, failOnce, 0), dir, model(old)); err != nil {
								t.Fatal(err)
							}
						}
						faulty := newFaultyFS(t, mode, at)
						faulty.noExchange = noExchange
						err := writeModel(faulty, dir, model(2))
						done := !faulty.tripped()
						faulty.crash()
						if noExchange { // as the next WriteModel does
							if err := recoverDir(disk{}, dir); err != nil {
								t.Fatal(err)
							}
						}
						if got := modelVersion(t, dir); got != 2 && (got != old || err == nil || done) {
							t.Fatalf("fault at operation %d: the model is version %d, %v", at, got, err)
						}
						if done {
							return
						}
						if err := writeModel(newFaultyFS(t, failOnce, 0), dir, model(3)); err != nil {
							t.Fatal(err)
						}
						if got := modelVersion(t, dir); got != 3 || len(globIn(filepath.Dir(dir), "*")) != 1 {
							t.Fatalf("fault at operation %d, next write: version %d beside %v", at, got, globIn(filepath.Dir(dir), "*"))
						}
					}
				})
			}
		}
	}
}

// modelVersion makes sure that the model in dir is whole, and returns its version, 0 when there is none.
func modelVersion(t *testing.T, dir string) byte {
	t.Helper()
	if !exists(dir) {
		return 0
	}
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil || len(version) != 1 {
		t.Fatalf("version %v, %v", version, err)
	}
	w, err := OpenWeights(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got := all(t, w.tensors["w"]); !bytes.Equal(got, bytes.Repeat(version, 3)) {
		t.Fatalf("version %d has weights %v", version, got)
	}
	if config, err := os.ReadFile(filepath.Join(dir, configName)); err != nil || !strings.Contains(string(config), "llama") {
		t.Fatalf("config %q, %v", config, err)
	}
	return version[0]
}
