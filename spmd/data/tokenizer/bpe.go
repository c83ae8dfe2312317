package tokenizer

import (
	"fmt"
	"math"
	"math/bits"
	"unicode/utf8"
)

// A bpe is a model of byte pair encoding (Sennrich et al., 2016): a word starts as symbols, one for each character, or byte,
// and the pair of neighbours that comes first in the list of merges, the leftmost of equal ones, becomes one symbol until no
// pair is in the list.
type bpe struct {
	merges pairTable
	// joins holds the pairs of single symbols that stand side by side within a merged one. Between two others no merge ever
	// happens, so that a text falls into parts there that know nothing of each other.
	joins    pairTable
	cuttable bool // joins is complete

	byteLevel bool           // symbols are bytes
	single    [256]int32     // the symbols of bytes, or of ASCII characters; -1 for none
	runes     map[rune]int32 // of the other characters
	fallback  [256]int32     // the symbols that stand for the bytes of characters without one; -1 for none
	unknown   int32          // stands for what has no symbol; -1 to leave it out
	fuse      bool           // one unknown for several in a row

	whole map[string]int32 // words that are tokens by themselves whatever the merges say, nil for none
}

// newBPE makes the model of f. byteLevel says that the pre-tokenizer turns text into the byte alphabet.
func newBPE(f *modelFile, vocab map[string]int32, byteLevel bool) (*bpe, error) {
	m := &bpe{byteLevel: byteLevel, unknown: -1, fuse: f.FuseUnk, runes: map[rune]int32{}}
	if f.UnkToken != nil {
		id, ok := vocab[*f.UnkToken]
		if !ok {
			return nil, fmt.Errorf("model.unk_token: %q is not in the vocabulary", *f.UnkToken)
		}
		m.unknown = id
	}
	if err := m.addSymbols(vocab, f.ByteFallback); err != nil {
		return nil, err
	}
	if err := m.addMerges(f, vocab); err != nil {
		return nil, err
	}
	if f.IgnoreMerges {
		m.whole = vocab
		if byteLevel {
			m.whole = make(map[string]int32, len(vocab))
			reverse := alphabetBytes()
			for token, id := range vocab {
				if bytes, ok := reverse.decode(token); ok {
					m.whole[bytes] = id
				}
			}
		}
	}
	return m, nil
}

// addSymbols fills in the symbols of single characters and bytes.
func (m *bpe) addSymbols(vocab map[string]int32, fallback bool) error {
	for b, char := range byteAlphabet() {
		m.single[b], m.fallback[b] = -1, -1
		if id, ok := vocab[fmt.Sprintf("<0x%02X>", b)]; ok && fallback {
			m.fallback[b] = id
		}
		if !m.byteLevel {
			char = rune(b)
		}
		if id, ok := vocab[string(char)]; ok && (m.byteLevel || b < utf8.RuneSelf) {
			m.single[b] = id
		} else if m.byteLevel && fallback {
			return fmt.Errorf("model.byte_fallback: it is not implemented for a byte-level vocabulary without %q", char)
		}
	}
	for token, id := range vocab {
		if r, n := utf8.DecodeRuneInString(token); n == len(token) && r >= utf8.RuneSelf && !m.byteLevel {
			m.runes[r] = id
		}
	}
	return nil
}

// addMerges fills in merges and joins.
func (m *bpe) addMerges(f *modelFile, vocab map[string]int32) error {
	m.merges, m.joins = newPairTable(len(f.Merges)), newPairTable(len(f.Merges))
	m.cuttable = true
	var name []byte
	for rank, content := range f.Merges {
		a, b, err := parseMerge(content)
		if err != nil {
			return fmt.Errorf("model.merges[%d]: %w", rank, err)
		}
		var ids [3]int32
		name = append(append(name[:0], a...), b...)
		for i, token := range []string{a, b, string(name)} {
			id, ok := vocab[token]
			if !ok {
				return fmt.Errorf("model.merges[%d]: %q is not in the vocabulary", rank, token)
			}
			ids[i] = id
		}
		m.merges.set(ids[0], ids[1], pairValue{uint32(rank), ids[2]})
		m.addJoin(vocab, a, b)
	}
	return nil
}

// addJoin notes that the last symbol of a and the first one of b may be joined.
func (m *bpe) addJoin(vocab map[string]int32, a, b string) {
	last, _ := utf8.DecodeLastRuneInString(a)
	first, _ := utf8.DecodeRuneInString(b)
	x, okX := vocab[string(last)]
	y, okY := vocab[string(first)]
	for _, token := range []string{a, b} {
		// What is not made of characters has no last and first one.
		if _, isByte := byteToken(token); isByte || vocab[token] == m.unknown {
			okX = false
		}
	}
	if !okX || !okY {
		m.cuttable = false
		return
	}
	m.joins.set(x, y, pairValue{})
}

// appendSymbols appends the symbols of word. Only where all characters have some are they exactly one after another, see
// symbolsAt.
func (m *bpe) appendSymbols(dst []int32, word string) []int32 {
	unknown := false // one is due; it waits for others to be fused with
	for i := 0; i < len(word); {
		first, _, n := m.symbolsAt(word, i)
		switch {
		case first < 0 && m.unknown >= 0:
			if unknown && !m.fuse {
				dst = append(dst, m.unknown)
			}
			unknown = true
		case first < 0:
		case m.bySymbol(word[i:i+n]) >= 0:
			if unknown {
				dst, unknown = append(dst, m.unknown), false
			}
			dst = append(dst, first)
		default:
			for k := range n {
				dst = append(dst, m.fallback[word[i+k]])
			}
		}
		i += n
	}
	if unknown {
		dst = append(dst, m.unknown)
	}
	return dst
}

// bySymbol returns the symbol of a character, -1 for none.
func (m *bpe) bySymbol(char string) int32 {
	if m.byteLevel || char[0] < utf8.RuneSelf {
		return m.single[char[0]]
	}
	r, _ := utf8.DecodeRuneInString(char)
	if id, ok := m.runes[r]; ok {
		return id
	}
	return -1
}

// symbolsAt returns the first and the last symbol of the character of word at i, -1 if it has none, and its length.
func (m *bpe) symbolsAt(word string, i int) (first, last int32, n int) {
	n = 1
	if !m.byteLevel && word[i] >= utf8.RuneSelf {
		_, n = utf8.DecodeRuneInString(word[i:])
	}
	if id := m.bySymbol(word[i : i+n]); id >= 0 {
		return id, id, n
	}
	for k := range n {
		if m.fallback[word[i+k]] < 0 {
			return -1, -1, n
		}
	}
	return m.fallback[word[i]], m.fallback[word[i+n-1]], n
}

// part returns the end of the first part of word that no merge leaves.
func (m *bpe) part(word string) int {
	_, last, i := m.symbolsAt(word, 0)
	for i < len(word) {
		first, next, n := m.symbolsAt(word, i)
		if m.cuttable && first >= 0 && last >= 0 {
			if _, joins := m.joins.get(last, first); !joins {
				return i
			}
		}
		last = next
		i += n
	}
	return i
}

// A pairTable maps pairs of ids to values: open addressing, at most half full.
type pairTable struct {
	entries []pairEntry
	shift   int
}

type pairEntry struct {
	key   uint64 // both ids; emptyPair for none
	value pairValue
}

// A pairValue is the place of a merge in the list, and its result.
type pairValue struct {
	rank uint32
	id   int32
}

const (
	emptyPair = math.MaxUint64 // no pair, as ids are not negative
	// noRank is beyond those of all merges.
	noRank = math.MaxUint32
)

// newPairTable returns a table for n pairs.
func newPairTable(n int) pairTable {
	size := max(bits.Len(uint(2*n)), 4)
	t := pairTable{entries: make([]pairEntry, 1<<size), shift: 64 - size}
	for i := range t.entries {
		t.entries[i].key = emptyPair
	}
	return t
}

// slot returns the entry of a pair, or the empty one where it would be.
func (t *pairTable) slot(a, b int32) *pairEntry {
	key := uint64(uint32(a))<<32 | uint64(uint32(b))
	// Fibonacci hashing.
	for i := key * 0x9E3779B97F4A7C15 >> t.shift; ; i = (i + 1) & uint64(len(t.entries)-1) {
		if e := &t.entries[i]; e.key == key || e.key == emptyPair {
			return e
		}
	}
}

// set sets the value of a pair, in place of an earlier one.
func (t *pairTable) set(a, b int32, value pairValue) {
	e := t.slot(a, b)
	e.key, e.value = uint64(uint32(a))<<32|uint64(uint32(b)), value
}

// get returns the value of a pair.
func (t *pairTable) get(a, b int32) (pairValue, bool) {
	e := t.slot(a, b)
	return e.value, e.key != emptyPair
}
