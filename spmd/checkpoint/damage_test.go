package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damages are the ways in which a file is spoilt. Each gets its contents and returns them spoilt, nil for no file at all.
func damages(size int) map[string]func(b []byte) []byte {
	list := map[string]func(b []byte) []byte{
		"missing":       func([]byte) []byte { return nil },
		"empty":         func(b []byte) []byte { return b[:0] },
		"cut in half":   func(b []byte) []byte { return b[:len(b)/2] },
		"cut by a byte": func(b []byte) []byte { return b[:len(b)-1] },
		"a byte longer": func(b []byte) []byte { return append(b, 0) },
	}
	// Every byte of a small file, a sample of a larger one, the ends included.
	stride := 1 + size/200
	for at := 0; at < size; at += stride {
		list[fmt.Sprintf("bit %d of byte %d", at%8, at)] = flip(at, at%8)
	}
	list["the last bit"] = flip(size-1, 7)
	return list
}

func flip(at, bit int) func(b []byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 1 << bit
		return b
	}
}

// Whatever happens to any file of the newest checkpoint, it is named, and the one before is used.
func TestDamageIsFoundAndSkipped(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, 0)
	save(t, w, 1, 1)
	save(t, w, 2, 1)
	var log bytes.Buffer
	s := OpenReadOnly(dir, slog.New(slog.NewTextHandler(&log, nil)))
	files := globIn(s.Path(2), "*")
	if fmt.Sprint(files) != "[COMPLETE manifest.json state-00000.safetensors]" {
		t.Fatalf("a checkpoint has the files %v", files)
	}
	for _, name := range files {
		path := filepath.Join(s.Path(2), name)
		sound, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, damage := range damages(len(sound)) {
			spoilt := damage(bytes.Clone(sound))
			if err := replace(path, spoilt); err != nil {
				t.Fatal(err)
			}
			log.Reset()
			if step, _ := newest(t, s); step != 1 {
				t.Errorf("%s, %s: step %d was used", name, what, step)
			}
			if text := log.String(); !strings.Contains(text, s.Path(2)) || !strings.Contains(text, name) {
				t.Errorf("%s, %s: the log does not name it: %s", name, what, text)
			}
			if sizeChanged := len(spoilt) != len(sound); sizeChanged && s.looksWhole(2) {
				t.Errorf("%s, %s: looks whole", name, what)
			}
		}
		if err := replace(path, sound); err != nil {
			t.Fatal(err)
		}
	}
	if step, _ := newest(t, s); step != 2 {
		t.Error("the undamaged checkpoint was not used")
	}
}

// replace writes a file, or removes it if b is nil.
func replace(path string, b []byte) error {
	if b == nil {
		return os.Remove(path)
	}
	return os.WriteFile(path, b, 0o644)
}

// A run must not begin anew because all its checkpoints are damaged; a new save repairs one, and prune keeps count.
func TestNoSoundCheckpointIsAnError(t *testing.T) {
	s := open(t, t.TempDir(), 1)
	save(t, s, 1, 1)
	save(t, s, 2, 1)
	state := filepath.Join(s.Path(2), "state-00000.safetensors")
	if err := os.WriteFile(state, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := s.Newest()
	if err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "state-00000.safetensors has 1 bytes") {
		t.Errorf("Newest: %v", err)
	}
	if _, found, _ := s.NewestStep(); found {
		t.Error("NewestStep takes the damaged checkpoint for whole")
	}
	save(t, s, 1, 2) // the damaged step 2 is newer, and must not push it out
	if step, version := newest(t, s); step != 1 || version != 2 {
		t.Errorf("step %d, version %d", step, version)
	}
	save(t, s, 2, 2)
	if step, version := newest(t, s); step != 2 || version != 2 {
		t.Errorf("step %d, version %d", step, version)
	}
	if found := globIn(s.dir, "*"); fmt.Sprint(found) != "[latest step-00000002]" {
		t.Errorf("the store has %v", found)
	}
}
