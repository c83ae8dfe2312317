package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestDamagedCheckpoint damages the newest checkpoints of a run that was stopped after step 10: the next start names them and
// goes on from the newest sound one, to the bits of a run that lost nothing.
func TestDamagedCheckpoint(t *testing.T) {
	t.Parallel()
	const state = "state-00000.safetensors"
	w := newWorkspace(t)
	w.launch(1, "want").expect(0)
	for _, c := range []struct {
		name    string
		damage  func(t *testing.T, path string)
		damaged []string // the checkpoints
		from    string   // where the run goes on
	}{
		{"one flipped bit", flipBit, []string{"step-00000010"}, "step-00000009"},
		{"cut short by half", cutTo(1, 2), []string{"step-00000010"}, "step-00000009"},
		{"the last byte is missing", cutTo(-1, 1), []string{"step-00000010"}, "step-00000009"},
		{"the two newest", flipBit, []string{"step-00000010", "step-00000009"}, "step-00000006"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &workspace{t: t, dir: w.dir}
			out := filepath.Join("out", filepath.Base(t.Name()))
			w.launch(2, out, "run.stop_step=10").expect(0)
			for _, name := range c.damaged {
				c.damage(t, w.path(out, "checkpoints", name, state))
			}
			j := w.launch(2, out).expect(0)
			for _, name := range c.damaged {
				j.says("a damaged checkpoint is skipped (checkpoint: "+out+"/checkpoints/"+name+")", name+": rank 0: "+state)
			}
			j.says("the run goes on from a checkpoint (step: ", "(from: "+out+"/checkpoints/"+c.from+")")
			w.sameRun("want", out)
		})
	}
}

// TestNoSoundCheckpoint damages all checkpoints: the run is refused, not silently started anew.
func TestNoSoundCheckpoint(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(2, "out", "run.stop_step=6").expect(0)
	states, err := filepath.Glob(w.path("out", "checkpoints", "step-*", "state-*"))
	if err != nil || len(states) != 4 { // of two ranks each
		t.Fatalf("state files: %v, %v", states, err)
	}
	for _, path := range states {
		flipBit(t, path)
	}
	before := w.files("out/checkpoints")
	w.launch(2, "out").expect(2).says("none of the 2 checkpoints in out/checkpoints is sound", "step-00000003", "step-00000006")
	after := w.files("out/checkpoints")
	for name := range before {
		if after[name] != before[name] {
			t.Errorf("the refused run changed %s", name)
		}
	}
}

// flipBit flips one bit of a file.
func flipBit(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bit := rand.New(rand.NewPCG(4, 0)).IntN(8 * len(text))
	text[bit/8] ^= 1 << (bit % 8)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// cutTo returns what cuts a file to a part of its length, or, for a negative part, by that many bytes.
func cutTo(part, of int64) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size := info.Size() * part / of
		if part < 0 {
			size = info.Size() + part
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
}
