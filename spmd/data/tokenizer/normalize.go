package tokenizer

import (
	"fmt"
	"strings"
	"unicode"

	"lockstep/spmd/data/tokenizer/pattern"
)

// A normalizer changes a text before it is split. Several follow one another.
type normalizer func(string) string

// newNormalizers returns the normalizers of c, in order. place is where c stands in the file.
func newNormalizers(c *component, place string) ([]normalizer, error) {
	if c == nil {
		return nil, nil
	}
	switch c.Type {
	case "Sequence":
		return sequence(c.Normalizers, place+".normalizers", newNormalizers)
	case "NFC", "NFD", "NFKC", "NFKD":
		return []normalizer{newNormalForm(c.Type).normalize}, nil
	case "Lowercase":
		return []normalizer{lowercase}, nil
	case "Strip":
		return []normalizer{c.strip}, nil
	case "Prepend":
		return []normalizer{func(text string) string {
			if text == "" {
				return text
			}
			return c.Prepend + text
		}}, nil
	case "Replace":
		replace, err := newReplacer(c, place)
		return []normalizer{replace}, err
	}
	return nil, fmt.Errorf("%s: a normalizer of type %q is not implemented", place, c.Type)
}

// sequence makes the parts of a component of type Sequence, in order.
func sequence[T any](parts []component, place string, make func(*component, string) ([]T, error)) ([]T, error) {
	var all []T
	for i := range parts {
		some, err := make(&parts[i], fmt.Sprintf("%s[%d]", place, i))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// lowercase maps each character to lower case by itself, whatever its neighbours.
func lowercase(text string) string {
	// The one character whose lower case is two (SpecialCasing.txt, without conditions).
	return strings.Map(unicode.ToLower, strings.ReplaceAll(text, "\u0130", "i\u0307"))
}

// strip removes white space from the ends.
func (c *component) strip(text string) string {
	if c.StripLeft {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
	}
	if c.StripRight {
		text = strings.TrimRightFunc(text, unicode.IsSpace)
	}
	return text
}

// newReplacer returns the function of a component of type Replace.
func newReplacer(c *component, place string) (normalizer, error) {
	find, err := newFinder(c.Pattern, place+".pattern")
	if err != nil {
		return nil, err
	}
	return func(text string) string {
		begin, end := find.Find(text, 0)
		if begin < 0 {
			return text
		}
		var out strings.Builder
		out.Grow(len(text) + len(text)/2)
		at := 0
		for ; begin >= 0; begin, end = find.Find(text, at) {
			out.WriteString(text[at:begin])
			out.WriteString(c.Content)
			at = end
		}
		out.WriteString(text[at:])
		return out.String()
	}, nil
}

// A finder finds the first match in a text from a byte on; -1, -1 if there is none.
type finder interface {
	Find(text string, from int) (begin, end int)
}

// A literal finds itself.
type literal string

func (l literal) Find(text string, from int) (begin, end int) {
	i := strings.Index(text[from:], string(l))
	if i < 0 {
		return -1, -1
	}
	return from + i, from + i + len(l)
}

// newFinder returns what looks for p.
func newFinder(p *patternFile, place string) (finder, error) {
	switch {
	case p != nil && p.String != nil && *p.String != "":
		return literal(*p.String), nil
	case p != nil && p.Regex != nil:
		find, err := pattern.Compile(*p.Regex)
		if err != nil {
			return nil, fmt.Errorf("%s.Regex: %w", place, err)
		}
		return find, nil
	}
	return nil, fmt.Errorf("%s: wants {\"String\": ...}, not empty, or {\"Regex\": ...}", place)
}
