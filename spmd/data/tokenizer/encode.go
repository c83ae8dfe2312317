package tokenizer

import (
	"hash/maphash"
	"strings"
)

const (
	// cacheSlots is how many words an encoder remembers, with up to maxCached bytes each.
	cacheSlots = 1 << 16
	maxCached  = 64
)

// An encoder turns text into tokens, for one caller at a time. It remembers the tokens of words.
type encoder struct {
	*huggingFace
	merger merger
	seed   maphash.Seed
	cache  []cached
	dst    []int32
	pieces []piece
}

// A cached word stands in the slot of its hash until another comes.
type cached struct {
	word   string
	tokens []int32
}

func newEncoder(t *huggingFace) *encoder {
	return &encoder{huggingFace: t, merger: merger{model: t.model}, seed: maphash.MakeSeed(), cache: make([]cached, cacheSlots)}
}

// encode appends the tokens of text, which is valid UTF-8, to e.dst: added tokens first, then what is normalized between
// them, and added tokens in that.
func (e *encoder) encode(text string) {
	e.pieces = e.raw.split(e.pieces[:0], text)
	pieces := e.pieces
	for _, p := range pieces {
		if p.id >= 0 {
			e.dst = append(e.dst, p.id)
			continue
		}
		part := text[p.begin:p.end]
		for _, normalize := range e.normalizers {
			part = normalize(part)
		}
		if len(e.normalized.tokens) == 0 {
			e.pretokenize(0, part, p.begin == 0)
			continue
		}
		for _, q := range e.normalized.split(nil, part) {
			if q.id >= 0 {
				e.dst = append(e.dst, q.id)
			} else {
				e.pretokenize(0, part[q.begin:q.end], p.begin == 0 && q.begin == 0)
			}
		}
	}
}

// pretokenize gives text to stage next, or to the model after the last. first: it is the begin of all text.
func (e *encoder) pretokenize(next int, text string, first bool) {
	switch {
	case text == "":
	case next < len(e.stages):
		e.stages[next].split(e, next+1, text, first)
	default:
		e.word(text)
	}
}

// word appends the tokens of a word, which is a whole text where there is no pre-tokenizer.
func (e *encoder) word(word string) {
	for e.model.whole == nil && len(word) > maxCached {
		end := e.model.part(word)
		e.remembered(word[:end])
		word = word[end:]
	}
	if word != "" {
		e.remembered(word)
	}
}

// remembered appends the tokens of word from the cache if it has them.
func (e *encoder) remembered(word string) {
	if len(word) > maxCached {
		e.tokens(word)
		return
	}
	slot := &e.cache[maphash.String(e.seed, word)%cacheSlots]
	if slot.word == word {
		e.dst = append(e.dst, slot.tokens...)
		return
	}
	begin := len(e.dst)
	e.tokens(word)
	slot.word = strings.Clone(word) // it is a part of a text that need not stay
	slot.tokens = append(slot.tokens[:0], e.dst[begin:]...)
}

// tokens appends the tokens of word.
func (e *encoder) tokens(word string) {
	if id, ok := e.model.whole[word]; ok {
		e.dst = append(e.dst, id)
		return
	}
	e.dst = e.merger.merge(e.dst, word)
}
