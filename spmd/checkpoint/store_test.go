package checkpoint

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/shard"
)

func TestCompareRecords(t *testing.T) {
	saved := Record{{"seed", "42"}, {"lanes", "8"}, {"gone", "x"}}
	now := Record{{"lanes", "4"}, {"new", ""}, {"seed", "42"}}
	want := []Difference{{"lanes", "8", "4"}, {"new", absent, ""}, {"gone", "x", absent}}
	if got := CompareRecords(saved, now); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, expected %v", got, want)
	}
	if got := CompareRecords(saved, saved); got != nil {
		t.Errorf("equal records differ: %v", got)
	}
}

// With the real disk: what is kept, what is found, where.
func TestStoreKeepsTheNewest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "output", "checkpoints")
	s, err := Open(dir, Options{Keep: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Newest(); !errors.Is(err, ErrNone) {
		t.Errorf("an empty store: %v", err)
	}
	for _, step := range []int{100, 200, 300} {
		save(t, s, step, 1)
	}
	if got := globIn(dir, "*"); fmt.Sprint(got) != "[latest step-00000200 step-00000300]" {
		t.Errorf("the store has %v", got)
	}
	if step, version := newest(t, s); step != 300 || version != 1 {
		t.Errorf("the newest is step %d, version %d", step, version)
	}
	if step, found, err := s.NewestStep(); step != 300 || !found || err != nil {
		t.Errorf("NewestStep: %d, %v, %v", step, found, err)
	}
	l, err := s.Load(200)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	checkLoaded(t, l)
	none := []Part{{"none", safetensors.F32, shard.All(1)}}
	if err := l.Read(none, nil); err == nil || !strings.Contains(err.Error(), "does not hold none as F32[1]") {
		t.Errorf("a tensor that is not there: %v", err)
	}
	save(t, s, 400, 1) // removes 200, which is still mapped
	checkLoaded(t, l)
	// A run that went on from an older checkpoint leaves the newer ones alone, and never loses what it saves.
	save(t, s, 150, 1)
	if got := globIn(dir, "*"); fmt.Sprint(got) != "[latest step-00000150 step-00000300 step-00000400]" {
		t.Errorf("the store has %v", got)
	}
}

func TestStoreKeepsEverySoManySteps(t *testing.T) {
	s := open(t, t.TempDir(), 2)
	s.KeepEvery = 100
	for step := 50; step <= 300; step += 50 {
		save(t, s, step, 1)
	}
	if got := globIn(s.dir, "*"); fmt.Sprint(got) != "[latest step-00000100 step-00000200 step-00000250 step-00000300]" {
		t.Errorf("the store has %v", got)
	}
}

func TestOpenLetsOneWriterIn(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "another process writes there") {
		t.Errorf("a second writer: %v", err)
	}
	if err := OpenReadOnly(dir, nil).Save(context.Background(), snapshot(1, 1)); err == nil || !strings.Contains(err.Error(), "for reading only") {
		t.Errorf("a save by a reader: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, 0)
	nowhere := OpenReadOnly(filepath.Join(dir, "nowhere"), nil)
	if _, err := nowhere.Newest(); !errors.Is(err, ErrNone) {
		t.Errorf("a store that does not exist: %v", err)
	}
	if _, found, err := nowhere.NewestStep(); found || err != nil {
		t.Errorf("a store that does not exist: %v, %v", found, err)
	}
}

func TestSaveRefusesBadSnapshots(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	one := []byte{1}
	tensors := func(ts ...memory) *Snapshot {
		s := &Snapshot{}
		for _, t := range ts {
			s.Pieces = append(s.Pieces, Piece{t.part(t.all()), safetensors.Bytes(t.data)})
		}
		return s
	}
	for want, snapshot := range map[string]*Snapshot{
		"step -1 is negative":      {Step: -1},
		`record has "seed" twice`:  {Record: Record{{"seed", "1"}, {"seed", "1"}}},
		`tensor "w" occurs twice`:  tensors(memory{"w", safetensors.U8, nil, one}, memory{"w", safetensors.U8, nil, one}),
		"takes 2 bytes, 1 were":    tensors(memory{"w", safetensors.U8, []int{2}, one}),
		"the format has no dtype":  tensors(memory{"w", "", nil, one}),
		"no tensor can be called ": tensors(memory{"__metadata__", safetensors.U8, nil, one}),
	} {
		if err := s.Save(context.Background(), snapshot); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected %s", err, want)
		}
	}
	if found := globIn(s.dir, "*"); len(found) > 0 {
		t.Errorf("%v is left", found)
	}
}

// gatedFS lets a test hold a save at its first file.
type gatedFS struct {
	disk
	entered chan struct{}
	gate    chan error
}

func (g gatedFS) create(path string) (file, error) {
	g.entered <- struct{}{}
	if err := <-g.gate; err != nil {
		return nil, err
	}
	return g.disk.create(path)
}

func TestSaveAsyncHasOneSaveInFlight(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	g := gatedFS{entered: make(chan struct{}), gate: make(chan error)}
	s.fsys = g
	var ended []error
	async := func(step int) {
		s.SaveAsync(snapshot(step, 1), Background{}, func(err error) { ended = append(ended, err) })
	}
	async(1) // returns although the save is held
	<-g.entered
	full := errors.New("disk full")
	g.gate <- full
	s.Wait()
	if len(ended) != 1 || !errors.Is(ended[0], full) || !strings.Contains(ended[0].Error(), "step-00000001") {
		t.Errorf("the save ended with %v", ended)
	}
	s.fsys = disk{}
	async(3)
	async(4)
	s.Wait()
	if len(ended) != 3 || ended[1] != nil || ended[2] != nil {
		t.Error(ended)
	}
	if found := globIn(s.dir, "*"); fmt.Sprint(found) != "[latest step-00000003 step-00000004]" {
		t.Errorf("the store has %v", found)
	}
}

func TestSaveStopsWhenItsContextIsDone(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	save(t, s, 1, 1)
	g := gatedFS{entered: make(chan struct{}), gate: make(chan error)}
	s.fsys = g
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() { failed <- s.Save(ctx, snapshot(2, 1)) }()
	<-g.entered
	cancel()
	g.gate <- nil
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("Save: %v", err)
	}
	if found := globIn(s.dir, "*"); fmt.Sprint(found) != "[latest step-00000001]" {
		t.Errorf("the store has %v", found)
	}
}

// A reader beside a writer that replaces and removes checkpoints meets only whole ones, and never an older one than before.
func TestReadersNeverSeeHalfACheckpoint(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, 1)
	save(t, w, 1, 1)
	const last = 60
	var saved atomic.Int64
	done := make(chan error)
	go func() {
		var err error
		for step := 2; step <= last && err == nil; step++ {
			// Each step twice, so that a checkpoint is replaced as well.
			err = errors.Join(w.Save(context.Background(), snapshot(step, 1)), w.Save(context.Background(), snapshot(step, 2)))
			saved.Store(int64(step))
		}
		done <- err
	}()
	var log bytes.Buffer
	r := OpenReadOnly(dir, slog.New(slog.NewTextHandler(&log, nil)))
	for step := 0; step < last; {
		atLeast := int(saved.Load())
		step, _ = newest(t, r)
		if step < atLeast {
			t.Fatalf("step %d was found after step %d had been saved", step, atLeast)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if log.Len() > 0 {
		t.Errorf("a reader took a checkpoint for damaged:\n%s", &log)
	}
}

func TestLoadDir(t *testing.T) {
	output := t.TempDir()
	dir := filepath.Join(output, "checkpoints")
	s := open(t, dir, 0)
	save(t, s, 7, 1)
	moved := filepath.Join(output, "elsewhere")
	if err := os.Rename(s.Path(7), moved); err != nil {
		t.Fatal(err)
	}
	l, err := LoadDir(moved)
	if err != nil {
		t.Fatal(err)
	}
	if l.Step != 7 || l.Dir != moved {
		t.Errorf("step %d in %s", l.Step, l.Dir)
	}
	checkLoaded(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	save(t, s, 8, 1)
	for _, dir := range []string{dir, output} {
		if _, err := LoadDir(dir); err == nil || !strings.Contains(err.Error(), "name one of its step-") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := LoadDir(filepath.Join(output, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that does not exist: %v", err)
	}
	if err := os.Rename(moved, s.Path(9)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(9); err == nil || !strings.Contains(err.Error(), "holds step 7") {
		t.Errorf("a renamed checkpoint: %v", err)
	}
}

// sums are the checksums of n chunks.
func sums(n int) []byte { return make([]byte, 32*n) }

func FuzzParseManifest(f *testing.F) {
	sound := manifest{Version: formatVersion, Step: 3, Record: Record{{"a", "b"}}, Files: []fileEntry{{Name: "x", Size: 100, Chunk: 64, Sums: sums(2)}},
		Tensors: []tensorEntry{{Name: "w", DType: safetensors.F32, Shape: []int{4, 2}, Pieces: []pieceEntry{
			{At: 8, From: []int{1, 0}, Shape: []int{3, 2}}, {At: 32, From: []int{0, 0}, Shape: []int{1, 2}, Elements: []int{0, 1}}, {At: 36, Elements: []int{1, 2}},
		}}}}
	text, err := sound.encode()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseManifest(text); err != nil {
		f.Errorf("%s: %v", text, err)
	}
	f.Add(text)
	one := `{"version":2,"files":[{"name":"x","size":8,"chunk":8,"sums":"` + base64.StdEncoding.EncodeToString(sums(1)) + `"}],"tensors":[`
	for _, bad := range []string{
		``, `{`, `{}`, `{"version":3}`, `{"version":1,"step":-1}`, `{"version":1,"step":1e99}`,
		`{"version":1,"files":[{"name":"../x"}]}`, `{"version":1,"files":[{"name":""}]}`, `{"version":1,"files":[{"name":"a/b"}]}`,
		`{"version":1,"files":[{"name":"x"},{"name":"x"}]}`, `{"version":1,"files":[{"name":"x","size":-1}]}`, `{"version":2,"files":[{"name":"x","size":1,"chunk":1}]}`,
		one + `{"name":"w","dtype":"F32","shape":[3],"pieces":[{"at":0,"elements":[0,2]}]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[3],"pieces":[{"at":0}]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[2],"pieces":[{"at":1}]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[2],"pieces":[{"file":1}]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[2],"pieces":[{"at":0}]},{"name":"w","dtype":"F32","shape":[2],"pieces":[{"at":0}]}]}`,
		one + `{"name":"w","dtype":"F4","shape":[2],"pieces":[{"at":0}]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[-1],"pieces":[]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[2],"pieces":[{"at":0,"elements":[0]}]}]}`,
		one + `{"name":"w","dtype":"F32","shape":[2],"pieces":[{"at":0,"from":[1],"shape":[2]}]}]}`,
	} {
		if _, err := parseManifest([]byte(bad)); err == nil {
			f.Errorf("%s was accepted", bad)
		}
		f.Add([]byte(bad))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		for _, entry := range m.Files {
			if strings.Contains(entry.Name, "/") || !filepath.IsLocal(entry.Name) {
				t.Fatalf("the file name %q leads elsewhere", entry.Name)
			}
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseManifest(again)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := back.encode(); err != nil || !bytes.Equal(twice, again) {
			t.Fatalf("%s became %s, %v", again, twice, err)
		}
	})
}
