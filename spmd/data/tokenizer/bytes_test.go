package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func mustBytesJSON(t testing.TB) string {
	t.Helper()
	content, err := bytesJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestBytes(t *testing.T) {
	var tok Bytes
	text := "aé日\x00\n" + endOfDocumentText
	ids := tok.Encode([]int32{7}, text)
	if len(ids) != 1+len(text) || ids[1] != 'a' || ids[2] != 0xC3 || ids[3] != 0xA9 {
		t.Errorf("ids %v", ids)
	}
	ids = append(ids[1:], EndOfDocument, 0xE6, 'x', -1, EndOfDocument+1)
	if got, want := tok.Decode(ids, false), text+endOfDocumentText+"\uFFFDx"; got != want {
		t.Errorf("decoded %q, want %q", got, want)
	}
	if got, want := tok.Decode(ids, true), text+"\uFFFDx"; got != want {
		t.Errorf("decoded %q without special tokens, want %q", got, want)
	}
	for name, want := range map[string]int32{endOfDocumentText: EndOfDocument, "Ġ": ' ', "a": 'a'} {
		if id, ok := tok.ID(name); !ok || id != want {
			t.Errorf("%q has id %d, %t, want %d", name, id, ok, want)
		}
	}
	if id, ok := tok.ID("aa"); ok {
		t.Errorf("\"aa\" has id %d", id)
	}
}

// The alphabet's landmarks, from the published vocabulary of GPT-2.
func TestByteAlphabet(t *testing.T) {
	alphabet := byteAlphabet()
	for b, want := range map[byte]rune{0: 'Ā', '\n': 'Ċ', ' ': 'Ġ', '!': '!', 'a': 'a', '~': '~', 0x7F: 'ġ', 0x80: 'Ģ', 0xA0: 'ł',
		0xA1: '¡', 0xAC: '¬', 0xAD: 'Ń', 0xAE: '®', 0xFF: 'ÿ'} {
		if alphabet[b] != want {
			t.Errorf("byte 0x%02X is %q, want %q", b, alphabet[b], want)
		}
	}
	seen := make(map[rune]bool)
	for _, char := range alphabet {
		seen[char] = true
	}
	if len(seen) != 256 {
		t.Errorf("%d characters for 256 bytes", len(seen))
	}
}

func TestTokenizerFiles(t *testing.T) {
	config, err := bytesConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{mustBytesJSON(t), string(config)} {
		if !json.Valid([]byte(content)) || !strings.Contains(content, endOfDocumentText) {
			t.Errorf("not JSON, or without the end of a document:\n%s", content)
		}
	}
	dir := writeFiles(t, map[string]string{"tokenizer.json": mustBytesJSON(t), "tokenizer_config.json": string(config)})
	if _, err := Open(dir); err != nil {
		t.Error(err)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	dir := writeFiles(t, map[string]string{"tokenizer.model": "\n"})
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "has a SentencePiece tokenizer.model") {
		t.Errorf("SentencePiece: %v", err)
	}
	dir = writeFiles(t, map[string]string{"tokenizer.json": "{"})
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir+"/tokenizer.json: byte 1") {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestCheckTokenizer(t *testing.T) {
	good := mustBytesJSON(t)
	// What Transformers makes of the file when it saves it.
	saved := strings.Replace(good, `"post_processor": null`,
		`"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}`, 1)
	inVocab := strings.Replace(good, `"ÿ": 255`, `"ÿ": 255, "<|endoftext|>": 256`, 1)
	for i, content := range []string{good, saved, inVocab} {
		if err := checkTokenizer([]byte(content)); err != nil {
			t.Errorf("form %d: %v", i, err)
		}
	}
	for want, change := range map[string][2]string{
		`has a model of type "Unigram"`:            {`"type": "BPE"`, `"type": "Unigram"`},
		"is a BPE with 2 merges":                   {`"merges": []`, `"merges": ["a b", ["c", "d"]]`},
		`has a normalizer of type "NFC"`:           {`"normalizer": null`, `"normalizer": {"type": "NFC"}`},
		`has no pre-tokenizer of type "ByteLevel"`: {`"pre_tokenizer": {`, `"pre_tokenizer": {"add_prefix_space": true}, "x": {`},
		`post-processor of type "TemplateProcessing", which adds`: {`"post_processor": null`,
			`"post_processor": {"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}`},
		"marks parts of words in its vocabulary":          {`"end_of_word_suffix": null`, `"end_of_word_suffix": "</w>"`},
		`not "<|endoftext|>" alone with id 256`:           {`"id": 256`, `"id": 257`},
		"has 0 added tokens":                              {`"added_tokens": [`, `"added_tokens": [], "x": [`},
		"has 255 tokens beside the end of a document":     {`"ÿ": 255`, `"þ": 254`},
		`does not give byte 0x61, written "a", the id 97`: {`"a": 97`, `"a": 98`},
		"has a vocabulary that is no object of ids":       {`"vocab": {`, `"vocab": [["a", 1.5]], "x": {`},
		"cannot unmarshal":                                {`"version": "1.0"`, `"version": 1`},
	} {
		content := strings.Replace(good, change[0], change[1], 1)
		if content == good {
			t.Errorf("%q: nothing was changed", want)
		}
		if err := checkTokenizer([]byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// FuzzCheckTokenizer: what passes is JSON that gives each byte its number.
func FuzzCheckTokenizer(f *testing.F) {
	good := mustBytesJSON(f)
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, `"merges": []`, `"merges": [1]`, 1)))
	f.Add([]byte(`{"model": {"type": "BPE", "vocab": []}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		if checkTokenizer(content) != nil {
			return
		}
		var file struct {
			Model struct{ Vocab map[string]int }
		}
		if err := json.Unmarshal(content, &file); err != nil {
			t.Fatal(err)
		}
		if file.Model.Vocab["a"] != 'a' || file.Model.Vocab["Ġ"] != ' ' || len(file.Model.Vocab) > (EndOfDocument+1) {
			t.Errorf("accepted a vocabulary of %d tokens with a = %d", len(file.Model.Vocab), file.Model.Vocab["a"])
		}
	})
}

// writeFiles writes files into a directory for the test.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
