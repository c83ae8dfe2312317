package data

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/spmd/data/tokenizer"
)

// prepared prepares and opens a data set, which several ranks do at once.
func prepared(t *testing.T, o Options) *Dataset {
	t.Helper()
	var ranks sync.WaitGroup
	for range 3 {
		ranks.Go(func() {
			if err := Prepare(t.Context(), o, nil); err != nil {
				t.Error(err)
			}
		})
	}
	ranks.Wait()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestFormatsGiveTheSameSamples opens the same texts as files, JSON lines, Parquet and a token store, in every packing and order:
// the samples are the same, and those of files made into tokens have the same fingerprint wherever they lie.
func TestFormatsGiveTheSameSamples(t *testing.T) {
	files := map[string]string{}
	var lines []string
	type row struct {
		Text string `parquet:"text"`
	}
	var rows []row
	for i := range 40 {
		text := strings.Repeat(fmt.Sprintf("document %d, ", i), 1+i%7)
		files[fmt.Sprintf("text/%02d", i)] = text
		rows, lines = append(rows, row{text}), append(lines, fmt.Sprintf(`{"text": %q}`, text))
	}
	files["lines.jsonl"] = strings.Join(lines, "\n")
	files["rows.parquet"] = parquetBytes(t, rows, 15)
	dir := writeFiles(t, files)
	_, err := Build(t.Context(), BuildOptions{Format: "jsonl", Paths: []string{dir + "/lines.jsonl"}, TextKey: "text", Tokenizer: tokenizer.Bytes{}, EOD: 256,
		Prefix: filepath.Join(dir, "pair")})
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range []Options{
		{Packing: "concat", Shuffle: true, EODMaskLoss: true}, {Packing: "best-fit", Overlong: "split"}, {Packing: "none", ValidationSplit: 0.2, HeldOut: true},
		{Megatron: &MegatronOrder{Samples: 300}},
	} {
		base.SequenceLength, base.EOD, base.Seed, base.TextKey = 48, 256, 7, "text"
		var want string
		prints := map[string]bool{}
		for _, c := range []struct{ format, path string }{
			{"text", "text"}, {"jsonl", "lines.jsonl"}, {"parquet", "rows.parquet"}, {"megatron", "pair"},
		} {
			o := base
			o.Format, o.Parts, o.Cache = c.format, onePart(filepath.Join(dir, c.path)), t.TempDir()
			d := prepared(t, o)
			got := fmt.Sprint(rowsOf(t, d))
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%+v: %s has other samples", base, c.format)
			}
			if c.format == "jsonl" || c.format == "parquet" {
				f, err := d.Fingerprint()
				if err != nil {
					t.Fatal(err)
				}
				prints[f] = true
			}
		}
		if len(prints) != 1 {
			t.Errorf("fingerprints %v", prints)
		}
	}
}

// TestPrepareChecks checks what is refused before anything is made, that Check writes nothing, and that a change of the files
// is found.
func TestPrepareChecks(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.jsonl": `{"text": "some words"}`, "b.jsonl": `{"body": "some words"}`})
	o := Options{Format: "jsonl", Parts: onePart(dir + "/a.jsonl"), TextKey: "text", EOD: 256, SequenceLength: 4, Cache: filepath.Join(dir, "cache")}
	if err := Check(o); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(o.Cache); err == nil {
		t.Error("Check made the cache")
	}
	bad := o
	bad.Parts = onePart(dir + "/b.jsonl")
	for what, err := range map[string]error{"Check": Check(bad), "Prepare": Prepare(t.Context(), bad, nil)} {
		if err == nil || !strings.Contains(err.Error(), "b.jsonl:1: the object has no key \"text\"") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "not made yet") {
		t.Errorf("Open before Prepare: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Prepare(ended, o, nil); err == nil {
		t.Error("Prepare works when it is told to stop")
	}
	prepared(t, o)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(dir+"/a.jsonl", later, later); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); err == nil {
		t.Error("Open takes the tokens of a file that changed")
	}
}

// TestFingerprintIsKept takes the fingerprint of text once: later it is there without reading, until the files change.
func TestFingerprintIsKept(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a": "some text", "b": "more text"})
	o := Options{Format: "text", Parts: onePart(dir), EOD: 256, SequenceLength: 4, Cache: filepath.Join(t.TempDir(), "cache")}
	want, err := prepared(t, o).Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a", []byte("SOME TEXT"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir+"/a", before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got, err := prepared(t, o).Fingerprint(); err != nil || got != want {
		t.Errorf("the files were read again: %s, %v", got, err)
	}
	later := before.ModTime().Add(time.Second)
	if err := os.Chtimes(dir+"/a", later, later); err != nil {
		t.Fatal(err)
	}
	if got, err := prepared(t, o).Fingerprint(); err != nil || got == want {
		t.Errorf("the change was not seen: %s, %v", got, err)
	}
	entries, err := fs.Glob(os.DirFS(o.Cache), "fingerprint-*")
	if err != nil || len(entries) != 2 {
		t.Errorf("%q, %v", entries, err)
	}
}
