package tokenizer

import (
	"fmt"
	"strings"

	"lockstep/spmd/data/tokenizer/pattern"
)

// A stage is a pre-tokenizer. It splits a text and hands each part to the next stage, the last ones to the model.
type stage interface {
	// split splits text; next is the number of the next stage. first: the text is the begin of all text.
	split(e *encoder, next int, text string, first bool)
}

// gpt2Pattern splits text in the way of GPT-2; it is part of the pre-tokenizer ByteLevel.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// newStages returns the pre-tokenizers of c, in order. place is where c stands in the file.
func newStages(c *component, place string) ([]stage, error) {
	if c == nil {
		return nil, nil
	}
	switch c.Type {
	case "Sequence":
		return sequence(c.PreTokenizers, place+".pretokenizers", newStages)
	case "Split":
		find, err := newFinder(c.Pattern, place+".pattern")
		if err != nil {
			return nil, err
		}
		s, err := newSplitter(find, c.Behavior, c.Invert, place)
		return []stage{s}, err
	case "Digits":
		behavior := "Contiguous"
		if c.IndividualDigits {
			behavior = "Isolated"
		}
		find, err := pattern.Compile(`\p{N}`)
		if err != nil {
			return nil, err
		}
		s, err := newSplitter(find, behavior, false, place)
		return []stage{s}, err
	case "Metaspace":
		m, err := newMetaspace(c, place)
		return []stage{m}, err
	case "ByteLevel":
		find, err := pattern.Compile(gpt2Pattern)
		if err != nil {
			return nil, err
		}
		b := byteLevel{prefixSpace: c.AddPrefixSpace == nil || *c.AddPrefixSpace}
		if c.UseRegex == nil || *c.UseRegex {
			b.words = isolate{find}
		}
		return []stage{b}, nil
	}
	return nil, fmt.Errorf("%s: a pre-tokenizer of type %q is not implemented", place, c.Type)
}

// newSplitter returns the stage that splits where find matches.
func newSplitter(find finder, behavior string, invert bool, place string) (stage, error) {
	switch behavior {
	case "Isolated":
		return isolate{find}, nil
	case "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext":
		return splitter{find, behavior, invert}, nil
	}
	return nil, fmt.Errorf("%s.behavior: %q is not one of Isolated, Removed, Contiguous, MergedWithPrevious, MergedWithNext", place, behavior)
}

// isolate makes parts of each match and of what lies between matches.
type isolate struct{ find finder }

func (s isolate) split(e *encoder, next int, text string, first bool) {
	for at := 0; at < len(text); {
		begin, end := s.find.Find(text, at)
		if begin < 0 {
			begin, end = len(text), len(text)
		}
		if at < begin {
			e.pretokenize(next, text[at:begin], first && at == 0)
		}
		if begin < end {
			e.pretokenize(next, text[begin:end], first && begin == 0)
		}
		at = end
	}
}

// splitter splits in the other ways that there are.
type splitter struct {
	find     finder
	behavior string
	invert   bool // what matches and what does not change places
}

func (s splitter) split(e *encoder, next int, text string, first bool) {
	// held is what may still grow, up to its end; heldMatch says whether it ended with a match.
	begin, end, held, heldMatch := 0, 0, false, false
	flush := func() {
		if held {
			e.pretokenize(next, text[begin:end], first && begin == 0)
		}
		held = false
	}
	take := func(lo, hi int, match bool) {
		if lo == hi {
			return
		}
		match = match != s.invert
		joins := false
		switch s.behavior {
		case "Removed":
			if match {
				flush()
				return
			}
		case "Contiguous":
			joins = match == heldMatch
		case "MergedWithPrevious":
			joins = match && !heldMatch
		case "MergedWithNext":
			joins = !match && heldMatch
		}
		if !held || !joins {
			flush()
			begin = lo
		}
		end, held, heldMatch = hi, true, match
	}
	at := 0
	for at < len(text) {
		lo, hi := s.find.Find(text, at)
		if lo < 0 {
			break
		}
		take(at, lo, false)
		take(lo, hi, true)
		at = hi
	}
	take(at, len(text), false)
	flush()
}

// metaspace writes a visible character for each space, as SentencePiece does, and may put one at the begin.
type metaspace struct {
	replacement string
	always      bool // at the begin of each part
	onlyFirst   bool // at the begin of all text
	parts       stage
}

func newMetaspace(c *component, place string) (metaspace, error) {
	m := metaspace{replacement: c.Replacement}
	scheme := c.PrependScheme
	if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
		scheme = "never"
	}
	switch scheme {
	case "always", "":
		m.always = true
	case "first":
		m.onlyFirst = true
	case "never":
	default:
		return m, fmt.Errorf("%s.prepend_scheme: %q is not one of always, first, never", place, scheme)
	}
	if m.replacement == "" {
		return m, fmt.Errorf("%s.replacement: it is missing", place)
	}
	if c.Split == nil || *c.Split {
		m.parts = splitter{literal(m.replacement), "MergedWithNext", false}
	}
	return m, nil
}

func (m metaspace) split(e *encoder, next int, text string, first bool) {
	text = strings.ReplaceAll(text, " ", m.replacement)
	if (m.always || m.onlyFirst && first) && !strings.HasPrefix(text, m.replacement) {
		text = m.replacement + text
	}
	if m.parts == nil {
		e.pretokenize(next, text, first)
		return
	}
	m.parts.split(e, next, text, first)
}

// decode puts the spaces back, but for those of the first token where split may have put one.
func (m metaspace) decode(i int, token string) string {
	space := " "
	if i == 0 && (m.always || m.onlyFirst) {
		space = ""
	}
	return strings.ReplaceAll(token, m.replacement, space)
}

// byteLevel makes the model read bytes. It is the last stage.
type byteLevel struct {
	prefixSpace bool
	words       stage // splits in the way of GPT-2, or nil
}

func (b byteLevel) split(e *encoder, next int, text string, first bool) {
	if b.prefixSpace && !strings.HasPrefix(text, " ") {
		text = " " + text
	}
	if b.words == nil {
		e.pretokenize(next, text, first)
		return
	}
	b.words.split(e, next, text, first)
}
