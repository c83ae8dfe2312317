package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// writeVersion1 writes a checkpoint as the first version of the format had it: whole tensors in files of one rank, which alone
// say what they hold, each with one checksum.
func writeVersion1(t *testing.T, dir, suffix string, step int, tensors []memory) {
	t.Helper()
	var files []string
	put := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, m := range tensors {
		list := []safetensors.Tensor{{Name: m.name, DType: m.dtype, Shape: m.shape, Data: safetensors.Bytes(m.data)}}
		write := func(w io.Writer) error { return safetensors.Write(w, list, nil) }
		if suffix == ckptSuffix {
			list[0].Name = mindSporeName(m.name)
			write = func(w io.Writer) error { return mindspore.Write(w, list) }
		}
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		name, sum := fmt.Sprintf("state-%05d%s", i, suffix), sha256.Sum256(b.Bytes())
		put(name, b.Bytes())
		files = append(files, fmt.Sprintf(`{"name": %q, "size": %d, "sha256": %q}`, name, b.Len(), hex.EncodeToString(sum[:])))
	}
	text := fmt.Appendf(nil, `{"version": 1, "step": %d, "record": [{"key": "run.seed", "value": "42"}, {"key": "version", "value": "1"}], "files": [%s]}`, step, strings.Join(files, ", "))
	put(manifestName, text)
	put(markerName, marker(text))
}

func TestVersion1IsRead(t *testing.T) {
	for _, suffix := range []string{".safetensors", ckptSuffix} {
		dir := t.TempDir()
		step := filepath.Join(dir, "step-00000005")
		tensors := state(5, 1)
		for i := range tensors {
			tensors[i].name = "exp_avg/" + tensors[i].name
		}
		writeVersion1(t, step, suffix, 5, tensors)
		l, err := LoadDir(step)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range tensors {
			checkPart(t, l, m, m.all())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		w := tensors[0]
		halves := holding{{{w.all().Range(0, 7)}}, {{w.all().Range(7, 15)}}}
		asRanks(t, 2, func(p *person) error {
			s, err := openAs(t, p, dir, Options{})
			if err != nil {
				return err
			}
			defer s.Close()
			return errors.Join(readAs(s, halves, []memory{w}), saveAs(s, halves, []memory{w}, 6)) // beside it, in this version
		})
		flipped, err := os.ReadFile(filepath.Join(step, "state-00000"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		flipped[len(flipped)-1] ^= 1
		if err := replace(filepath.Join(step, "state-00000"+suffix), flipped); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadDir(step); err == nil || !strings.Contains(err.Error(), "state-00000"+suffix+" does not have the checksum") {
			t.Errorf("a damaged one: %v", err)
		}
	}
}
