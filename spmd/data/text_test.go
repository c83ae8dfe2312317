package data

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/spmd/data/tokenizer"
)

// writeFiles writes files below a new directory and returns it, behind all links. A name that ends in a slash is an
// empty directory, contents that begin with "-> " make a symbolic link.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			content, path = "", filepath.Join(path, "x")
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustText(t *testing.T, o Options) *textSource {
	t.Helper()
	if o.EOD == 0 {
		o.EOD = tokenizer.EndOfDocument
	}
	s, err := openText(o, o.Parts[0].Paths)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func readAll(t *testing.T, s Source) []int32 {
	t.Helper()
	all := make([]int32, s.Tokens())
	if err := s.ReadTokens(all, 0); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTextJoinsFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{"b": "cd", "a": "ab\xff", "empty": "", "z/y": "e"})
	s := mustText(t, Options{Parts: onePart(dir)})
	if got, want := readAll(t, s), []int32{'a', 'b', 0xff, 256, 'c', 'd', 256, 256, 'e', 256}; !slices.Equal(got, want) {
		t.Errorf("tokens %v, want %v", got, want)
	}
	if got, want := s.Summary(), "4 files, 0.0 MB, 10 tokens"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	s = mustText(t, Options{Parts: onePart(dir), EOD: 300, VocabSize: 301})
	if got := readAll(t, s); got[3] != 300 {
		t.Errorf("the end of a document is %d, want 300", got[3])
	}
}

// Every range of tokens must be the same part of the whole, over more files than are kept open and reads larger than the
// buffer.
func TestTextReadsAnyRange(t *testing.T) {
	files := make(map[string]string)
	for i := range 3 * maxOpenFiles {
		files[fmt.Sprintf("f%03d", i)] = strings.Repeat(string(rune('A'+i%50)), i%7)
	}
	files["g"] = strings.Repeat("0123456789", maxRead/4)
	s := mustText(t, Options{Parts: onePart(writeFiles(t, files))})
	var want []int32
	for i := range 3 * maxOpenFiles {
		want = append(tokenizer.Bytes{}.Encode(want, files[fmt.Sprintf("f%03d", i)]), tokenizer.EndOfDocument)
	}
	want = append(tokenizer.Bytes{}.Encode(want, files["g"]), tokenizer.EndOfDocument)
	if got := readAll(t, s); !slices.Equal(got, want) {
		t.Fatal("the whole differs from the files")
	}
	for _, n := range []int{0, 1, 2, 5, 17, 100} {
		dst := make([]int32, n)
		for step := range 997 {
			at := step * 7919 % (500 - n)
			if err := s.ReadTokens(dst, int64(at)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(dst, want[at:at+n]) {
				t.Fatalf("tokens from %d on are %v, want %v", at, dst, want[at:at+n])
			}
		}
	}
	if len(s.open) > maxOpenFiles {
		t.Errorf("%d files are open", len(s.open))
	}
	for _, at := range []int64{-1, s.Tokens()} {
		if s.ReadTokens(make([]int32, 1), at) == nil {
			t.Errorf("token %d can be read", at)
		}
	}
}

func TestTextRefusesChangedFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a": "aaa", "b": "bbb", "c": "ccc"})
	s := mustText(t, Options{Parts: onePart(dir)})
	readAll(t, s) // all are open
	for name, content := range map[string]string{"a": "aaaa", "b": "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	dst := make([]int32, 3)
	for at, want := range map[int64]string{0: "a had 3 bytes when the run started and has 4 now", 4: "b had 3 bytes"} {
		if err := s.ReadTokens(dst, at); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, want)) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if err := s.ReadTokens(dst, 8); err != nil {
		t.Errorf("a file that was open and has been removed: %v", err)
	}
	if _, err := s.Fingerprint(); err == nil || !strings.Contains(err.Error(), "a had 3 bytes") {
		t.Errorf("Fingerprint: %v", err)
	}
}

func TestTextFingerprintIsOfTheContent(t *testing.T) {
	fingerprint := func(files map[string]string, eod int32) string {
		f, err := mustText(t, Options{Parts: onePart(writeFiles(t, files)), EOD: eod}).Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := fingerprint(map[string]string{"a": "one", "b": "two"}, 256)
	if moved := fingerprint(map[string]string{"dir/x": "one", "dir/y": "two"}, 256); moved != base {
		t.Error("the same content elsewhere has another fingerprint")
	}
	for what, other := range map[string]string{
		"order":           fingerprint(map[string]string{"b": "one", "a": "two"}, 256),
		"content":         fingerprint(map[string]string{"a": "one", "b": "twO"}, 256),
		"borders":         fingerprint(map[string]string{"a": "onet", "b": "wo"}, 256),
		"an empty file":   fingerprint(map[string]string{"a": "one", "b": "two", "c": ""}, 256),
		"end of document": fingerprint(map[string]string{"a": "one", "b": "two"}, 257),
	} {
		if other == base {
			t.Errorf("a change of %s leaves the fingerprint as it is", what)
		}
	}
}

func TestTextErrors(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a": "abc"})
	for want, o := range map[string]Options{
		"end-of-document token -1":                    {EOD: -1},
		"give the model a vocabulary of at least 257": {EOD: 256, VocabSize: 256},
		"give the model a vocabulary of at least 256": {EOD: 10, VocabSize: 255},
		"vocabulary of at least 1001":                 {EOD: 1000, VocabSize: 1000},
	} {
		o.Parts = onePart(dir)
		if _, err := openText(o, o.Parts[0].Paths); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestOpenText(t *testing.T) {
	dir := writeFiles(t, map[string]string{"train/a": "abcdefg", "train/b": "hij", "valid/v": "klm"})
	d, err := Open(Options{Format: "text", Parts: onePart(dir + "/**"), Exclude: []string{dir + "/valid"}, EOD: tokenizer.EndOfDocument,
		VocabSize: 257, SequenceLength: 5})
	if err != nil {
		t.Fatal(err)
	}
	ids, labels := make([]int32, 10), make([]int32, 10)
	if err := d.Batch(0, 0, 1, Rows{IDs: ids, Labels: labels}); err != nil {
		t.Fatal(err)
	}
	if want := []int32{'a', 'b', 'c', 'd', 'e', 'f', 'g', 256, 'h', 'i'}; !slices.Equal(ids, want) {
		t.Errorf("ids %v, want %v", ids, want)
	}
	if want := []int32{'b', 'c', 'd', 'e', 'f', 'g', 256, 'h', 'i', 'j'}; !slices.Equal(labels, want) {
		t.Errorf("labels %v, want %v", labels, want)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
