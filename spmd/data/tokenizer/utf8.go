package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// validUTF8 returns text with U+FFFD in place of what is no UTF-8: one for each maximal subpart of a character, or else for
// each byte (Unicode 16, section 3.9, "U+FFFD Substitution of Maximal Subparts"), as Python and Rust do. Go's own
// conversions replace each byte.
func validUTF8(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var valid strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && n == 1 {
			n = subpart(text)
		}
		valid.WriteRune(r)
		text = text[n:]
	}
	return valid.String()
}

// subpart returns how many bytes of text, which begins with no character, could begin one, at least 1.
func subpart(text string) int {
	lead := text[0]
	// The bounds of the second byte exclude overlong forms, surrogates and what is beyond U+10FFFF.
	need, low, high := 0, byte(0x80), byte(0xBF)
	switch {
	case lead >= 0xE0 && lead <= 0xEF:
		need = 2
		if lead == 0xE0 {
			low = 0xA0
		} else if lead == 0xED {
			high = 0x9F
		}
	case lead >= 0xF0 && lead <= 0xF4:
		need = 3
		if lead == 0xF0 {
			low = 0x90
		} else if lead == 0xF4 {
			high = 0x8F
		}
	}
	n := 1
	for n < need && n < len(text) && text[n] >= low && text[n] <= high {
		low, high = 0x80, 0xBF
		n++
	}
	return n
}
