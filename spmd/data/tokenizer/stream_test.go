package tokenizer

import (
	"strings"
	"testing"
)

// What a Stream gives is the text, and never half a character.
func TestStream(t *testing.T) {
	for _, text := range []string{"", "abc", "aé日本😀\n", "\xE6\x97", "a\xF0\x9F", "\x80\x80\x80\x80\x80\x80é", "\xE6本0", "\uFFFD本\uFFFD"} {
		prompt := Bytes{}.Encode(nil, "à")
		s := NewStream(Bytes{}, prompt, false)
		var got strings.Builder
		for i, id := range (Bytes{}).Encode(nil, text) {
			piece := s.Next(id)
			got.WriteString(piece)
			if text[i] >= 0xC0 && piece != "" {
				t.Errorf("%q: the first byte of a character gave %q", text, piece)
			}
		}
		got.WriteString(s.Rest())
		if want := (Bytes{}).Decode(Bytes{}.Encode(nil, text), false); got.String() != want {
			t.Errorf("%q came as %q, want %q", text, got.String(), want)
		}
	}
}

// The substitutions are those of Python's bytes.decode(errors="replace").
func TestValidUTF8(t *testing.T) {
	for text, want := range map[string]string{
		"aé\uFFFD": "aé\uFFFD", "\x80": "\uFFFD", "\xE4\xBDA": "\uFFFDA", "\xE4\xBD": "\uFFFD", "\xED\xA0\x80": "\uFFFD\uFFFD\uFFFD",
		"\xF0\x9F\x98": "\uFFFD", "\xF0\x80\x80\x80": "\uFFFD\uFFFD\uFFFD\uFFFD", "\xF4\x90\x80": "\uFFFD\uFFFD\uFFFD",
		"\xC0\xAF": "\uFFFD\uFFFD", "\xE0\x80\xAF": "\uFFFD\uFFFD\uFFFD", "\xC3(": "\uFFFD(", "\xF1\x80\xC3\xA9": "\uFFFDé",
	} {
		if got := validUTF8(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// A prompt may end within a character.
func TestStreamAfterHalfACharacter(t *testing.T) {
	ids := Bytes{}.Encode(nil, "aé")
	s := NewStream(Bytes{}, ids[:2], false)
	if got := s.Next(ids[2]) + s.Next('b') + s.Rest(); got != "éb" {
		t.Errorf("%q, want the character and what follows", got)
	}
}
