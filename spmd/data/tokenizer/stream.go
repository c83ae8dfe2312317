package tokenizer

import "strings"

const (
	// maxContext is how many tokens before a new one can have to do with its text: the bytes of a character, and what
	// stands first.
	maxContext = 8
	// maxPending is how many tokens a character can need.
	maxPending = 4
)

// A Stream decodes tokens one by one and gives text as soon as it is certain: a character may need several tokens, and
// decoders treat the first token of a text in a way of its own.
type Stream struct {
	tokenizer   Tokenizer
	skipSpecial bool
	ids         []int32 // those that are pending, after some context
	pending     int
	shown       string // the text of the context
}

// NewStream returns a Stream of the tokens of t that follow prompt. Special tokens are left out if skipSpecial.
func NewStream(t Tokenizer, prompt []int32, skipSpecial bool) *Stream {
	s := &Stream{tokenizer: t, skipSpecial: skipSpecial, ids: prompt}
	s.settle()
	return s
}

// settle turns all ids into context.
func (s *Stream) settle() {
	s.ids = append([]int32(nil), s.ids[max(0, len(s.ids)-maxContext):]...)
	s.pending = 0
	s.shown = s.tokenizer.Decode(s.ids, s.skipSpecial)
}

// Next returns the text that becomes certain with id, often none.
func (s *Stream) Next(id int32) string {
	s.ids = append(s.ids, id)
	s.pending++
	if s.pending < maxPending && strings.HasSuffix(s.tokenizer.Decode(s.ids, s.skipSpecial), "\uFFFD") {
		return ""
	}
	return s.Rest()
}

// Rest returns the text of the tokens that are pending, at the end of all tokens.
func (s *Stream) Rest() string {
	text, shown := s.tokenizer.Decode(s.ids, s.skipSpecial), s.shown
	if !strings.HasPrefix(text, shown) {
		// The context ended within a character, which shows now.
		shown = strings.TrimRight(shown, "\uFFFD")
	}
	s.settle()
	return strings.TrimPrefix(text, shown)
}
