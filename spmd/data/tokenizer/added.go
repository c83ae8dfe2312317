package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// An addedSet finds added tokens in a text: the leftmost, and the longest of those that begin there.
type addedSet struct {
	tokens []addedToken
	nodes  []trieNode // of the contents of tokens, nodes[0] the root
	first  [256]bool  // the bytes that they begin with
	only   byte       // the one of them, if there is but one
	single bool
}

// A trieNode is a prefix of a token.
type trieNode struct {
	edges []trieEdge
	token int // that ends here, -1 for none
}

type trieEdge struct {
	b  byte
	to int32
}

// newAddedSet makes a set of tokens whose contents are what is looked for.
func newAddedSet(tokens []addedToken) *addedSet {
	s := &addedSet{tokens: tokens, nodes: []trieNode{{token: -1}}}
	for i, t := range tokens {
		at := int32(0)
		for k := range len(t.Content) {
			at = s.child(at, t.Content[k])
		}
		s.nodes[at].token = i
		s.only = t.Content[0]
		s.first[s.only] = true
	}
	s.single = len(s.nodes[0].edges) == 1
	return s
}

// child returns the node after node at by b, made if there is none.
func (s *addedSet) child(at int32, b byte) int32 {
	if to := s.follow(at, b); to >= 0 {
		return to
	}
	to := int32(len(s.nodes))
	s.nodes[at].edges = append(s.nodes[at].edges, trieEdge{b, to})
	s.nodes = append(s.nodes, trieNode{token: -1})
	return to
}

// follow returns the node after node at by b, -1 if there is none.
func (s *addedSet) follow(at int32, b byte) int32 {
	for _, e := range s.nodes[at].edges {
		if e.b == b {
			return e.to
		}
	}
	return -1
}

// find returns the first token in text from byte from on, and where it ends; token is -1 if there is none.
func (s *addedSet) find(text string, from int) (begin, end, token int) {
	if len(s.tokens) == 0 {
		return 0, 0, -1
	}
	for i := from; ; i++ {
		if s.single {
			next := strings.IndexByte(text[i:], s.only)
			if next < 0 {
				return 0, 0, -1
			}
			i += next
		} else {
			for i < len(text) && !s.first[text[i]] {
				i++
			}
			if i == len(text) {
				return 0, 0, -1
			}
		}
		end, token = 0, -1
		at := int32(0)
		for k := i; k < len(text); k++ {
			if at = s.follow(at, text[k]); at < 0 {
				break
			}
			if t := s.nodes[at].token; t >= 0 {
				end, token = k+1, t
			}
		}
		if token >= 0 {
			return i, end, token
		}
	}
}

// A piece is a part of a text: an added token, or what lies between them.
type piece struct {
	begin, end int
	id         int32 // of the added token, -1 for text
}

// split appends the pieces of text. A token that is no single word where it must be is text, and a search goes on after
// it, as in Hugging Face's.
func (s *addedSet) split(pieces []piece, text string) []piece {
	done := 0 // the end of the last piece
	for at := 0; at <= len(text); {
		begin, end, i := s.find(text, at)
		if i < 0 {
			break
		}
		at = end
		token := &s.tokens[i]
		if token.SingleWord && (endsInWord(text[:begin]) || beginsWithWord(text[end:])) {
			continue
		}
		if token.LStrip {
			begin = max(len(strings.TrimRightFunc(text[:begin], unicode.IsSpace)), done)
		}
		if token.RStrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		if done < begin {
			pieces = append(pieces, piece{done, begin, -1})
		}
		pieces = append(pieces, piece{begin, end, token.ID})
		done = end
	}
	if done < len(text) {
		pieces = append(pieces, piece{done, len(text), -1})
	}
	return pieces
}

func endsInWord(text string) bool {
	r, n := utf8.DecodeLastRuneInString(text)
	return n > 0 && isWord(r)
}

func beginsWithWord(text string) bool {
	r, n := utf8.DecodeRuneInString(text)
	return n > 0 && isWord(r)
}

// isWord reports whether r is one of \w as Unicode defines it (Technical Standard 18, annex C).
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}
