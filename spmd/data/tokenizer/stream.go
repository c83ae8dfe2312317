package tokenizer

import "strings"

// maxContext is how many tokens before a new one can have to do with its text: the bytes of a character, and what stands
// first.
const maxContext = 8

// maxHeld limits how many tokens are held back where no character comes of them.
const maxHeld = 64

// replacement stands for bytes that are no character.
const replacement = "\uFFFD"

// A Stream decodes tokens one by one and gives text as soon as it is certain: a character may need several tokens, and
// decoders treat the first token of a text in a way of its own.
type Stream struct {
	tokenizer   Tokenizer
	skipSpecial bool
	ids         []int32 // some context and those after it whose text is not certain yet
	shown       string  // what has been given of the text of ids
}

// NewStream returns a Stream of the tokens of t that follow prompt. Special tokens are left out if skipSpecial.
func NewStream(t Tokenizer, prompt []int32, skipSpecial bool) *Stream {
	s := &Stream{tokenizer: t, skipSpecial: skipSpecial, ids: prompt}
	s.settle()
	return s
}

// settle makes context of all ids.
func (s *Stream) settle() {
	s.ids = append([]int32(nil), s.ids[max(0, len(s.ids)-maxContext):]...)
	s.shown = s.tokenizer.Decode(s.ids, s.skipSpecial)
}

// Next returns the text that becomes certain with id, often none.
func (s *Stream) Next(id int32) string {
	s.ids = append(s.ids, id)
	text := s.tokenizer.Decode(s.ids, s.skipSpecial)
	// At the end U+FFFD may be the begin of a character.
	certain := strings.TrimRight(text, replacement)
	if certain == text || len(s.ids) > maxHeld {
		return s.Rest()
	}
	more, found := strings.CutPrefix(certain, s.shown)
	if !found {
		return ""
	}
	s.shown = certain
	return more
}

// Rest returns the text of the tokens that is still held back, at the end of all tokens.
func (s *Stream) Rest() string {
	text := s.tokenizer.Decode(s.ids, s.skipSpecial)
	more, found := strings.CutPrefix(text, s.shown)
	if !found {
		// The prompt ended within a character, which shows now.
		more = strings.TrimPrefix(text, strings.TrimRight(s.shown, replacement))
	}
	s.settle()
	return more
}
