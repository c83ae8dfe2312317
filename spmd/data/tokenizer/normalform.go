package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A normalForm is one of Unicode's normal forms, as Hugging Face's tokenizers have it: with the characters of Unicode 9, in
// which younger ones have no order and no decomposition. Other than golang.org/x/text it puts nothing into long runs of marks.
type normalForm struct {
	form       norm.Form
	decomposed norm.Form // NFD or NFKD
	composes   bool
	younger    *unicode.RangeTable
}

func newNormalForm(name string) normalForm {
	f := normalForm{younger: youngerMarks()}
	switch name {
	case "NFC":
		f.form, f.decomposed, f.composes = norm.NFC, norm.NFD, true
	case "NFD":
		f.form, f.decomposed = norm.NFD, norm.NFD
	case "NFKC":
		f.form, f.decomposed, f.composes = norm.NFKC, norm.NFKD, true
	case "NFKD":
		f.form, f.decomposed = norm.NFKD, norm.NFKD
	}
	return f
}

// youngerMarks returns the characters that have a combining class or a decomposition in Unicode 15 and had none in Unicode 9,
// mostly because they did not exist.
func youngerMarks() *unicode.RangeTable {
	return &unicode.RangeTable{
		R16: []unicode.Range16{
			{0x07FD, 0x07FD, 1}, {0x0898, 0x089F, 1}, {0x08CA, 0x08D3, 1}, {0x09FE, 0x09FE, 1}, {0x0C3C, 0x0C3C, 1}, {0x0D3B, 0x0D3C, 1},
			{0x0EBA, 0x0EBA, 1}, {0x1715, 0x1715, 1}, {0x1ABF, 0x1ACE, 1}, {0x1DF6, 0x1DFA, 1}, {0x32FF, 0x32FF, 1}, {0xA7F2, 0xA7F4, 1},
			{0xA82C, 0xA82C, 1}, {0xAB69, 0xAB69, 1},
		},
		R32: []unicode.Range32{
			{0x10781, 0x107BA, 1}, {0x10D24, 0x10D27, 1}, {0x10EAB, 0x10EAC, 1}, {0x10EFD, 0x10EFF, 1}, {0x10F46, 0x10F50, 1},
			{0x10F82, 0x10F85, 1}, {0x11070, 0x11070, 1}, {0x1133B, 0x1133B, 1}, {0x1145E, 0x1145E, 1}, {0x11839, 0x1183A, 1},
			{0x11938, 0x11938, 1}, {0x1193D, 0x1193E, 1}, {0x11943, 0x11943, 1}, {0x119E0, 0x119E0, 1}, {0x11A34, 0x11A34, 1},
			{0x11A47, 0x11A47, 1}, {0x11A99, 0x11A99, 1}, {0x11D42, 0x11D45, 1}, {0x11D97, 0x11D97, 1}, {0x11F41, 0x11F42, 1},
			{0x16FF0, 0x16FF1, 1}, {0x1E030, 0x1E06D, 1}, {0x1E08F, 0x1E08F, 1}, {0x1E130, 0x1E136, 1}, {0x1E2AE, 0x1E2AE, 1},
			{0x1E2EC, 0x1E2EF, 1}, {0x1E4EC, 0x1E4EF, 1}, {0x1F16C, 0x1F16C, 1}, {0x1FBF0, 0x1FBF9, 1},
		},
	}
}

// normalize puts text into the form.
func (f normalForm) normalize(text string) string {
	if f.form.IsNormalString(text) {
		return text // which is so in Unicode 9 too: younger marks can only be more in each other's way
	}
	var out strings.Builder
	out.Grow(len(text))
	for len(text) > 0 {
		// No ASCII character has to do with what precedes it.
		end := 1
		for end < len(text) && text[end] >= utf8.RuneSelf {
			end++
		}
		if f.form.IsNormalString(text[:end]) {
			out.WriteString(text[:end])
		} else {
			out.WriteString(f.rewrite(text[:end]))
		}
		text = text[end:]
	}
	return out.String()
}

// A ranked character is one with its canonical combining class, 0 for what others combine with.
type ranked struct {
	char  rune
	class uint8
}

// rewrite is the algorithm of Unicode Standard Annex 15: decompose, sort runs of marks by their classes, compose.
func (f normalForm) rewrite(text string) string {
	var chars []ranked
	for _, r := range text {
		if unicode.Is(f.younger, r) {
			chars = append(chars, ranked{r, 0})
			continue
		}
		for _, d := range f.decomposed.String(string(r)) {
			chars = append(chars, ranked{d, norm.NFC.PropertiesString(string(d)).CCC()})
		}
	}
	for i := 0; i < len(chars); i++ {
		begin := i
		for i < len(chars) && chars[i].class != 0 {
			i++
		}
		slices.SortStableFunc(chars[begin:i], func(a, b ranked) int { return int(a.class) - int(b.class) })
	}
	if f.composes {
		chars = f.compose(chars)
	}
	var out strings.Builder
	for _, c := range chars {
		out.WriteRune(c.char)
	}
	return out.String()
}

// compose joins each character with the last one of class 0, where there is a character for both and none between that is
// in the way.
func (f normalForm) compose(chars []ranked) []ranked {
	out, starter := chars[:0], -1
	for _, c := range chars {
		if n := len(out); starter >= 0 && (starter == n-1 || out[n-1].class < c.class) {
			if r, ok := f.composite(out[starter].char, c.char); ok {
				out[starter].char = r
				continue
			}
		}
		if c.class == 0 {
			starter = len(out)
		}
		out = append(out, c)
	}
	return out
}

// composite returns the one character that a and b make, if there is.
func (f normalForm) composite(a, b rune) (rune, bool) {
	text := norm.NFC.String(string(a) + string(b))
	r, n := utf8.DecodeRuneInString(text)
	return r, n == len(text) && !unicode.Is(f.younger, r)
}
