package pattern

import (
	"slices"
	"strings"
	"testing"
)

// The expressions of the tokenizers of GPT-2, Llama 3, DeepSeek-V3 (the last of its three) and GPT-4o.
const (
	gpt2     = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	deepseek = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
	gpt4o    = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` +
		`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|` +
		` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// split returns the matches in text.
func split(t testing.TB, expression, text string) []string {
	t.Helper()
	p, err := Compile(expression)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for at := 0; ; {
		begin, end := p.Find(text, at)
		if begin < 0 {
			return words
		}
		words = append(words, text[begin:end])
		at = end
	}
}

// The words are those of Oniguruma, as Python's tokenizers 0.23.3 returns them (Split with behavior "removed", inverted).
func TestFind(t *testing.T) {
	for _, c := range []struct {
		expression, text string
		want             []string
	}{
		{gpt2, "We'll   go, 12345 日本!\n\n x", []string{"We", "'ll", "  ", " go", ",", " 12345", " 日本", "!", "\n\n", " x"}},
		{gpt2, "a  \t", []string{"a", "  \t"}},
		{llama3, "I'M 12345\r\n\t\tfoo(bar)  \n  x'ſ", []string{"I", "'M", " ", "123", "45", "\r\n", "\t", "\tfoo", "(bar", ")", "  \n", " ", " x", "'ſ"}},
		{llama3, "\u00a0\u3000x\u0085é…\n", []string{"\u00a0", "\u3000x", "\u0085é", "…\n"}},
		{deepseek, "#include <a.h>\n e\u0301t  日本", []string{"#include", " <", "a", ".h", ">\n", " e\u0301t", " ", " 日本"}},
		{gpt4o, "fooBar'S HTTPServer's /x/\n1", []string{"foo", "Bar'S", " HTTPServer's", " /", "x", "/\n", "1"}},
		{`a+?b?`, "aaab", []string{"a", "a", "ab"}},
		{`a++b|a`, "aab a", []string{"aab", "a"}},
		{`a{2}|b{,2}c|d{1,}?e`, "aaabbbcdde", []string{"aa", "bbc", "dde"}},
		{`(?:ab|a)(?:bc)?(?=c)`, "abbc", []string{"ab"}[:0]},
		{`(ab|a)(bc)??c`, "abc abbcc", []string{"abc", "abbcc"}},
		{`[^\p{^Lu}x-z]|\P{L}\d`, "aBx12\u0663\u0664", []string{"B", "12", "\u0663\u0664"}},
		{`\p{Han}+|[\u3040-\u309F]`, "漢字かな", []string{"漢字", "か", "な"}},
		{`(?i:a(?i:b)(?!b))`, "AbaBB", []string{"Ab"}},
		{`.\t\*`, "\n\t*a\t*", []string{"a\t*"}},
	} {
		if got := split(t, c.expression, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%q in %q: %q, want %q", c.expression, c.text, got, c.want)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for expression, want := range map[string]string{
		`a*`:                       "matches the empty string",
		`a|`:                       "matches the empty string",
		`(?!a)`:                    "matches the empty string",
		`(a`:                       "byte 0 of the expression \"(a\": the group is not closed",
		`a)`:                       "without an opening",
		`[a`:                       "byte 0 of the expression \"[a\": the class is not closed",
		`[]a]`:                     "begins with ]",
		`[a[b]]`:                   "classes within classes",
		`[a&&b]`:                   "classes within classes",
		`[z-a]`:                    "the range that ends here is none",
		`[\s-a]`:                   "the range that ends here is none",
		`(?<=a)b`:                  "a group of this kind is not implemented",
		`(?>a)b`:                   "a group of this kind is not implemented",
		`^a`:                       "'^' is not implemented here",
		`\bx`:                      `the escape \b is not implemented`,
		`a\`:                       "a backslash at the end",
		`\p{Foo}`:                  `the property "Foo" is not known`,
		`\pL`:                      `wants a name in braces`,
		`(ab)+`:                    "a group that repeats is not implemented",
		`a{3,2}`:                   "the braces hold no numbers",
		`a{1001}`:                  "the braces hold no numbers",
		`a{1}+`:                    "a quantifier of a quantifier",
		`(?=a)?b`:                  "a lookahead that repeats",
		"\xFF":                     "not UTF-8",
		strings.Repeat("(", 200):   "more than 100 groups",
		strings.Repeat("a|", 70):   "more than 64 alternatives",
		strings.Repeat("a", 1e5):   "the limit is 65536",
		`\ud800`:                   `the escape \u is not implemented`,
		`(?i:a)b(?-i:c)`:           "a group of this kind is not implemented",
		"[" + `\p{L}` + "--" + "]": "the range that ends here is none",
	} {
		if p, err := Compile(expression); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, %v, want %q", expression, p, err, want)
		}
	}
}

// FuzzFind: what compiles finds matches in order, none empty, each of which begins where the first one from there does.
func FuzzFind(f *testing.F) {
	for _, expression := range []string{gpt2, llama3, deepseek, gpt4o, `[^a-c]+?(?!x)|(a|b{2,3})?c++`} {
		f.Add(expression, "Hello,  wörld's 12345\n\t x\u3000日本")
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		if len(expression) > 400 || len(text) > 60 || strings.Count(expression, "(") > 8 {
			return // what backtracks may take long
		}
		p, err := Compile(expression)
		if err != nil {
			return
		}
		text = strings.ToValidUTF8(text, "\uFFFD")
		for at := 0; ; {
			begin, end := p.Find(text, at)
			if begin < 0 {
				return
			}
			if begin < at || end <= begin || end > len(text) {
				t.Fatalf("%q in %q from %d: %d to %d", expression, text, at, begin, end)
			}
			if b, e := p.Find(text, begin); b != begin || e != end {
				t.Fatalf("%q in %q from %d: %d to %d, but from there %d to %d", expression, text, at, begin, end, b, e)
			}
			at = end
		}
	})
}

// A negative class and its complement share no character, and every character is in one of them.
func TestSets(t *testing.T) {
	for _, name := range []string{"L", "Lu", "N", "Nd", "P", "S", "M", "Han", "Greek"} {
		yes, no := mustSet(t, `[\p{`+name+`}\n]`), mustSet(t, `[^\p{`+name+`}\n]`)
		for r := rune(0); r <= 0x10FFFF; r++ {
			if yes.has(r) == no.has(r) || r < 0x80 && yes.has(r) != yes.hasASCII(byte(r)) {
				t.Fatalf("%s: U+%04X: %t and %t", name, r, yes.has(r), no.has(r))
			}
		}
	}
}

func mustSet(t *testing.T, class string) *set {
	t.Helper()
	p, err := Compile(class)
	if err != nil {
		t.Fatal(err)
	}
	return p.root.set
}
