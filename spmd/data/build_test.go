package data

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/spmd/data/tokenizer"
)

// manyLines is JSON lines of a few pieces, and their texts.
func manyLines(t *testing.T) (path string, texts []string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	for b.Len() < 3*pieceBytes {
		text := strings.Repeat("The quick brown fox. ", 1+rng.IntN(2000))
		texts = append(texts, text)
		fmt.Fprintf(&b, "{\"id\": 1, \"text\": %q}\n", text)
	}
	return filepath.Join(writeFiles(t, map[string]string{"a.jsonl": b.String()}), "a.jsonl"), texts
}

// readPair returns the bytes of a pair.
func readPair(t *testing.T, prefix string) (bin, idx []byte) {
	t.Helper()
	bin, err := os.ReadFile(prefix + ".bin")
	if err != nil {
		t.Fatal(err)
	}
	if idx, err = os.ReadFile(prefix + ".idx"); err != nil {
		t.Fatal(err)
	}
	return bin, idx
}

// TestBuildGoesOn interrupts the writing of a pair after each of its pieces, in the middle of a write: the bytes are those of
// one that was not interrupted, and of the reference writer of the tests.
func TestBuildGoesOn(t *testing.T) {
	path, texts := manyLines(t)
	dir := t.TempDir()
	build := func(name string, stop int, workers int) error {
		ctx, cancel := context.WithCancelCause(t.Context())
		pieces := 0
		_, err := Build(ctx, BuildOptions{Format: "jsonl", Paths: []string{path}, TextKey: "text", Tokenizer: tokenizer.Bytes{}, EOD: 256,
			Prefix: filepath.Join(dir, name), Workers: workers, Progress: func(Progress) {
				if pieces++; pieces == stop {
					cancel(io.ErrShortWrite)
				}
			}})
		return err
	}
	if err := build("whole", 0, 3); err != nil {
		t.Fatal(err)
	}
	documents := make([][]float64, len(texts))
	for i, text := range texts {
		for _, b := range []byte(text) {
			documents[i] = append(documents[i], float64(b))
		}
		documents[i] = append(documents[i], 256)
	}
	bin, idx := indexed(uint16Tokens, documents...)
	if gotBin, gotIdx := readPair(t, filepath.Join(dir, "whole")); !bytes.Equal(gotBin, bin) || !bytes.Equal(gotIdx, idx) {
		t.Fatal("the pair is not what it should be")
	}
	for attempt := range 2 {
		if err := build("parts", 1, 1+attempt); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		for _, suffix := range []string{".bin.partial", ".lengths.partial"} { // what a kill in the middle of a write leaves
			file, err := os.OpenFile(filepath.Join(dir, "parts"+suffix), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString("half a do"); err != nil {
				t.Fatal(err)
			}
			file.Close()
		}
	}
	if err := build("parts", 0, 2); err != nil {
		t.Fatal(err)
	}
	if gotBin, gotIdx := readPair(t, filepath.Join(dir, "parts")); !bytes.Equal(gotBin, bin) || !bytes.Equal(gotIdx, idx) {
		t.Error("the pair of an interrupted writer differs")
	}
	left, err := filepath.Glob(filepath.Join(dir, "parts*"))
	if err != nil || len(left) != 4 { // .bin, .idx, .json, .lock
		t.Errorf("%q is left, %v", left, err)
	}
	if err := build("parts", 0, 2); err != nil {
		t.Errorf("a pair that is complete: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"text": "other"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := build("parts", 0, 2); err == nil || !strings.Contains(err.Error(), "from other data") {
		t.Errorf("a pair of other data: %v", err)
	}
}

// TestFormatsGiveTheSamePair writes the same texts as files, JSON lines, one JSON array and Parquet: the pairs are equal, and
// so are the fingerprints.
func TestFormatsGiveTheSamePair(t *testing.T) {
	texts := []string{"one\n", "", "two \u2028 \U0001F600", strings.Repeat("three ", 5000)}
	files := map[string]string{}
	var lines []string
	type row struct {
		Text string `parquet:"body"`
	}
	var rows []row
	for i, text := range texts {
		files[fmt.Sprintf("text/%d.txt", i)] = text
		lines = append(lines, fmt.Sprintf(`{"body": %s}`, quoteJSON(t, text)))
		rows = append(rows, row{text})
	}
	files["lines.jsonl"] = strings.Join(lines, "\n")
	files["array.json"] = "[" + strings.Join(lines, ",") + "]"
	files["rows.parquet"] = parquetBytes(t, rows, 3)
	dir := writeFiles(t, files)
	var bin, idx []byte
	var fingerprint string
	for i, c := range []struct{ format, path string }{{"text", "text"}, {"jsonl", "lines.jsonl"}, {"jsonl", "array.json"}, {"parquet", "rows.parquet"}} {
		o := BuildOptions{Format: c.format, Paths: []string{filepath.Join(dir, c.path)}, TextKey: "body", Tokenizer: tokenizer.Bytes{}, EOD: 256,
			Prefix: filepath.Join(t.TempDir(), "pair")}
		p, err := Build(t.Context(), o)
		if err != nil || p.Documents != 4 {
			t.Fatalf("%s: %+v, %v", c.path, p, err)
		}
		b, err := o.builder(nil)
		if err != nil {
			t.Fatal(err)
		}
		record, ok := readStoreRecord(b.prefix, b.key)
		gotBin, gotIdx := readPair(t, o.Prefix)
		if i == 0 {
			bin, idx, fingerprint = gotBin, gotIdx, record.Fingerprint
		}
		if !ok || !bytes.Equal(gotBin, bin) || !bytes.Equal(gotIdx, idx) || record.Fingerprint != fingerprint {
			t.Errorf("%s differs from the text", c.path)
		}
		var back bytes.Buffer
		if n, err := Extract(&back, o.Prefix, tokenizer.Bytes{}, 256); err != nil || n != 4 {
			t.Fatalf("%d documents, %v", n, err)
		}
		var got []string
		for line := range strings.Lines(back.String()) {
			text, err := jsonText([]byte(line), "text")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, text)
		}
		if !slices.Equal(got, texts) {
			t.Errorf("%s: the text comes back as %.100q", c.path, got)
		}
	}
}

func quoteJSON(t *testing.T, text string) string {
	t.Helper()
	b, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestStrip checks which tokens around a document are no part of its text.
func TestStrip(t *testing.T) {
	for _, c := range []struct {
		ids, around []int32
		eod         int32
		want        []int32
	}{
		{[]int32{1, 5, 5, 2}, []int32{1}, 2, []int32{5, 5}},
		{[]int32{5, 5, 2}, nil, 2, []int32{5, 5}},
		{[]int32{5, 2, 5}, nil, 2, []int32{5, 2, 5}},
		{[]int32{1, 5, 3}, []int32{1, 3}, -1, []int32{5}},
		{[]int32{2}, nil, 2, []int32{}},
		{nil, []int32{1}, 2, nil},
	} {
		if got := strip(c.ids, c.around, c.eod); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.ids, got, c.want)
		}
	}
}
