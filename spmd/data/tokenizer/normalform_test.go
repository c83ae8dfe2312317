package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Where no character is young and no run of marks long, the normal forms are those of golang.org/x/text.
func TestNormalForms(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	marks := []rune("\u0301\u0316\u0345\u0327\u0323\u3099\u05B0\u0F71\u1161\u11A8\u0338\u093C")
	for name, form := range map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD} {
		f := newNormalForm(name)
		for range 20000 {
			var text strings.Builder
			for range 1 + rng.IntN(12) {
				r := rune(rng.IntN([]int{0x80, 0x700, 0x3400, 0x20000}[rng.IntN(4)]))
				switch rng.IntN(4) {
				case 0:
					r = marks[rng.IntN(len(marks))]
				case 1:
					r = 0xAC00 + rng.Int32N(11172)
				}
				if !unicode.Is(f.younger, r) {
					text.WriteRune(r)
				}
			}
			if got, want := f.normalize(text.String()), form.String(text.String()); got != want {
				t.Fatalf("%s of %+q is %+q, want %+q", name, text.String(), got, want)
			}
		}
	}
}

// What Python's tokenizers 0.23.3 make of younger characters and of a long run of marks.
func TestNormalFormsOfUnicode9(t *testing.T) {
	long := strings.Repeat("\u0301\u0316", 40)
	for _, c := range []struct{ form, text, want string }{
		{"NFC", "a\u0301\u0316\u1DF7\u0301", "\u00E1\u0316\u1DF7\u0301"},
		{"NFC", "x\u1DF6\u0316\u0EBA\u0EB8", "x\u1DF6\u0316\u0EBA\u0EB8"},
		{"NFC", "e\u0301\U00011935\U00011930", "\u00E9\U00011935\U00011930"},
		{"NFD", "\u00E9\U00011938", "e\u0301\U00011938"},
		{"NFKC", "\uFB01\u32FF\u00B2", "fi\u32FF2"},
		{"NFC", "a" + long, "\u00E1" + strings.Repeat("\u0316", 40) + strings.Repeat("\u0301", 39)},
	} {
		if got := newNormalForm(c.form).normalize(c.text); got != c.want {
			t.Errorf("%s of %+q is %+q, want %+q", c.form, c.text, got, c.want)
		}
	}
}
