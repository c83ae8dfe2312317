package tokenizer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

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

// The byte tokenizer's files make a tokenizer that gives the same ids, but for the end of a document, which it finds where
// it is written out.
func TestBytesFiles(t *testing.T) {
	contents, err := Bytes{}.Files()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for name, content := range contents {
		files[name] = string(content)
	}
	tok, err := Open(writeFiles(t, files))
	if err != nil {
		t.Fatal(err)
	}
	text := "aé日\x00\n  \tx"
	want := Bytes{}.Encode(nil, text)
	if got := tok.Encode(nil, text+endOfDocumentText); !slices.Equal(got, append(want, EndOfDocument)) {
		t.Errorf("ids %v, want %v and the end of a document", got, want)
	}
	if got := tok.Decode(append(want, EndOfDocument), false); got != text+endOfDocumentText {
		t.Errorf("decoded %q", got)
	}
	if tok.VocabSize() != (Bytes{}).VocabSize() || tok.EOD() != EndOfDocument || tok.BOS() != -1 {
		t.Errorf("%d ids, document ends with %d, text begins with %d", tok.VocabSize(), tok.EOD(), tok.BOS())
	}
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
