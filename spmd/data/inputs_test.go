package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// records reads all pieces of an input.
func records(t *testing.T, in input) []string {
	t.Helper()
	pieces, err := in.pieces()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pieces {
		if err := in.read(p, func(b []byte) error { got = append(got, string(b)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// parquetBytes returns a Parquet file of rows, in row groups of at most n.
func parquetBytes[T any](t *testing.T, rows []T, n int64) string {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b, parquet.MaxRowsPerRowGroup(n), parquet.PageBufferSize(200), parquet.Compression(&parquet.Zstd))
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestLinesAreCutAnywhere cuts a file at every byte: each line is read once, by the piece in which it begins.
func TestLinesAreCutAnywhere(t *testing.T) {
	text := byteOrderMark + "{\"a\":1}\n\n{\"b\":2}\r\n  \n{\"c\":\"\\n\"}"
	want := []string{`{"a":1}`, `{"b":2}`, `{"c":"\n"}`}
	size := int64(len(text))
	for cut := range size + 1 {
		var got []string
		for _, part := range [][2]int64{{0, cut}, {cut, size}} {
			err := readLines(strings.NewReader(text), part[0], part[1], func(b []byte) error { got = append(got, string(b)); return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("cut at %d: %q", cut, got)
		}
	}
}

func TestJSONInput(t *testing.T) {
	long := `{"text":"` + strings.Repeat("x", 300_000) + `"}` // more than the reader's buffer
	dir := writeFiles(t, map[string]string{
		"a.jsonl": "{\"text\":\"one\"}\n" + long + "\n{\"text\":\"two\"}",
		"b.json":  " [ {\"text\": \"three\"},\n{\"text\":\"four\"} ]\n",
		"c.jsonl": "",
	})
	in := jsonInput{filepath.Join(dir, "a.jsonl"), filepath.Join(dir, "b.json"), filepath.Join(dir, "c.jsonl")}
	want := []string{`{"text":"one"}`, long, `{"text":"two"}`, `{"text": "three"}`, `{"text":"four"}`}
	if got := records(t, in); !slices.Equal(got, want) {
		t.Errorf("got %.200q", got)
	}
}

// TestInputErrors checks that what is wrong with a file names the file, the place and the remedy.
func TestInputErrors(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"gzip": "\x1f\x8b123", "parquet": "PAR1....PAR1", "csv": "text,label\n", "lines": "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"body\":\"c\"}\n",
		"open": `[{"text":"a"},`, "more": `[{"text":"a"}] 1`, "number": `{"text":1}`, "null": `{"text":null}`, "latin": "{\"text\":\"\xe9\"}",
		"cut.parquet": parquetBytes(t, []struct {
			Text string `parquet:"text"`
		}{{"a"}}, 10)[:40],
		"other.parquet": parquetBytes(t, []struct {
			Body string `parquet:"body"`
			N    int64  `parquet:"text"`
		}{{"a", 1}}, 10),
	})
	for _, c := range []struct{ format, name, key, want string }{
		{"jsonl", "gzip", "text", "compressed"},
		{"jsonl", "parquet", "text", "Parquet file"},
		{"jsonl", "csv", "text", "begins with \"t\""},
		{"jsonl", "lines", "text", "lines:3: the object has no key \"text\", its keys are \"body\""},
		{"jsonl", "open", "text", "element 1"},
		{"jsonl", "more", "text", "goes on after its array"},
		{"jsonl", "number", "text", "number:1: \"text\" is not a string"},
		{"jsonl", "null", "text", "is not a string"},
		{"jsonl", "latin", "text", "not UTF-8"},
		{"text", "latin", "text", "not UTF-8"},
		{"parquet", "cut.parquet", "text", "cut.parquet"},
		{"parquet", "other.parquet", "words", "no column \"words\", the columns are \"body\", \"text\""},
		{"parquet", "other.parquet", "text", "not one text a row"},
		{"xml", "csv", "text", "is not known"},
	} {
		path := filepath.Join(dir, c.name)
		err := func() error {
			in, err := newInput(c.format, []string{path}, c.key)
			if err != nil {
				return err
			}
			pieces, err := in.pieces()
			for _, p := range pieces {
				if err == nil {
					err = in.read(p, func(b []byte) error { _, err := textOf(c.format, c.key)(b); return err })
				}
			}
			return err
		}()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: got %v, want %q", c.format, c.name, err, c.want)
		}
	}
}

// TestParquetInput reads texts of many pages and row groups, and whole rows with what is nested in them.
func TestParquetInput(t *testing.T) {
	type row struct {
		ID   int64   `parquet:"id"`
		Text *string `parquet:"text,optional"`
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var rows []row
	var want []string
	for i := range 500 {
		text := strings.Repeat("é", rng.IntN(40)) + fmt.Sprint(i)
		rows, want = append(rows, row{int64(i), &text}), append(want, text)
	}
	in := parquetInput{[]string{filepath.Join(writeFiles(t, map[string]string{"a.parquet": parquetBytes(t, rows, 70)}), "a.parquet")}, "text"}
	if got := records(t, in); !slices.Equal(got, want) {
		t.Errorf("got %d texts, %.300q", len(got), got)
	}
	for _, part := range [][2]int64{{0, 1}, {13, 14}, {69, 70}, {140, 200}, {499, 500}} {
		var got []string
		err := in.read(piece{first: part[0], last: part[1]}, func(b []byte) error { got = append(got, string(b)); return nil })
		if err != nil || !slices.Equal(got, want[part[0]:part[1]]) {
			t.Errorf("rows %v: got %q, %v", part, got, err)
		}
	}
	rows[33].Text = nil
	in.paths[0] = filepath.Join(writeFiles(t, map[string]string{"a.parquet": parquetBytes(t, rows, 1000)}), "a.parquet")
	err := in.read(piece{last: 500}, func([]byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "null") {
		t.Errorf("a row without text: %v", err)
	}

	type message struct{ Role, Content string }
	type talk struct {
		Messages []message `parquet:"messages,list"`
		Tags     []string  `parquet:"tags,list"`
	}
	talks := []talk{{[]message{{"user", "hi"}, {"assistant", "ho"}}, []string{"a"}}, {nil, nil}, {[]message{{"user", "\u2028"}}, []string{"b", "c"}}}
	all := parquetInput{paths: []string{filepath.Join(writeFiles(t, map[string]string{"a.parquet": parquetBytes(t, talks, 2)}), "a.parquet")}}
	for i, text := range records(t, all) {
		var got talk
		if err := json.Unmarshal([]byte(text), &got); err != nil || !slices.Equal(got.Messages, talks[i].Messages) || !slices.Equal(got.Tags, talks[i].Tags) {
			t.Errorf("row %d: %s, %v", i, text, err)
		}
	}
}

// FuzzJSONInput feeds files of anything to the JSON reader: it may refuse them but not fail, and however lines are cut into
// pieces, the records are the same.
func FuzzJSONInput(f *testing.F) {
	for _, s := range []string{"", "{\"text\":\"a\"}\n{\"text\":\"b\"}", "[{},{}]", "{\n}", "[", "\n\n{", byteOrderMark + "{}", "{\"text\":\"\\ud800\"}"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		read := func(first, last int64) (got []string) {
			err := readLines(bytes.NewReader(text), first, last, func(b []byte) error {
				got = append(got, string(b))
				_, _ = jsonText(b, "text")
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		size := int64(len(text))
		middle := min(int64(cut), size)
		if whole, parts := read(0, size), append(read(0, middle), read(middle, size)...); !slices.Equal(whole, parts) {
			t.Errorf("cut at %d: %q, whole %q", middle, parts, whole)
		}
		_ = readArrayBytes(text)
	})
}

// FuzzParquetInput feeds damaged files to the Parquet reader.
func FuzzParquetInput(f *testing.F) {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[struct {
		Text string `parquet:"text"`
	}](&b)
	if _, err := w.Write(make([]struct {
		Text string `parquet:"text"`
	}, 3)); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:20])
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(writeFiles(t, map[string]string{"a.parquet": string(content)}), "a.parquet")
		for _, column := range []string{"text", ""} {
			in := parquetInput{[]string{path}, column}
			pieces, err := in.pieces()
			if err != nil {
				continue
			}
			for _, p := range pieces[:min(len(pieces), 4)] {
				_ = in.read(p, func([]byte) error { return nil })
			}
		}
	})
}

// readArrayBytes reads an array that is in memory.
func readArrayBytes(text []byte) error {
	return readArray(bufio.NewReader(bytes.NewReader(text)), func([]byte) error { return nil })
}
