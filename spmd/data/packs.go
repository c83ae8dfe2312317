package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/bits"
	"path/filepath"
)

// A packing puts whole documents into samples. A document of L tokens takes L-1 positions of a sample, one for each token that
// is predicted, so that nothing is spent on its end; positions that stay empty have token 0, the label Padding, and a document each.
// As a table of int64 in little-endian order, which is kept in a file and mapped:
//
//	packs, entries, truncated, split, empty     how many samples and pieces of documents there are, and what became of documents
//	                                            that do not fit: cut off, divided, or without a token to predict
//	first[packs+1]                              the first entry of each pack; the number of entries ends the list
//	at[entries]                                 the first token of an entry
//	n[entries]                                  the positions that it takes
type packing struct {
	source Source
	table  []byte
	path   string // of the file that table is mapped from, "" where it is memory
}

const packHeader = 5

func (p *packing) number(i int64) int64 { return int64(binary.LittleEndian.Uint64(p.table[8*i:])) }
func (p *packing) packs() int64         { return p.number(0) }
func (p *packing) entries() int64       { return p.number(1) }

// String says what became of documents that do not fit.
func (p *packing) String() string {
	text := fmt.Sprintf("packed from %s", count(p.entries(), "document"))
	for i, what := range []string{"truncated", "split", "without a token to predict"} {
		if n := p.number(int64(i) + 2); n > 0 {
			text += fmt.Sprintf(", %s %s", group(n), what)
		}
	}
	return text
}

// sample implements sampler.
func (p *packing) sample(j int64, r *row) error {
	if p.path == "" {
		return p.fill(j, r)
	}
	return guardMapping(p.path, func() error { return p.fill(j, r) })
}

func (p *packing) fill(j int64, r *row) error {
	at := 0
	for e := p.number(packHeader + j); e < p.number(packHeader+j+1); e++ {
		starts := packHeader + p.packs() + 1
		n := int(p.number(starts + p.entries() + e))
		if err := p.source.ReadTokens(r.tokens[:n+1], p.number(starts+e)); err != nil {
			return err
		}
		r.fill(at, n)
		at += n
	}
	for ; at < len(r.ids); at++ {
		r.ids[at], r.labels[at], r.starts[at] = 0, Padding, int32(at)
	}
	return nil
}

func (p *packing) close() error {
	if p.path == "" {
		return nil
	}
	return unmap(p.table)
}

// openPacks packs documents [first,last) of a source, or maps the table that was made of them before. The table is small next
// to the tokens and quickly made, but each rank would hold a copy.
func openPacks(o Options, source Source, first, last int64) (*packing, error) {
	if o.Cache == "" {
		return &packing{source: source, table: pack(o, source, first, last)}, nil
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d %s %s %s %d %d %d", storeVersion, source.Identity(), o.Packing, o.Overlong, o.SequenceLength, first, last))
	path := filepath.Join(o.Cache, "packs-"+hex.EncodeToString(key[:8]))
	if _, err := readableSize(path); err != nil {
		table := pack(o, source, first, last)
		err := replaceFile(path, func(w io.Writer) error { _, err := w.Write(table); return err })
		if err != nil {
			return nil, err
		}
	}
	table, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	return &packing{source, table, path}, nil
}

// An entry is a piece of a document in a pack.
type entry struct {
	at   int64
	n    int32
	pack int32
}

// pack puts documents [first,last) of a source into samples and returns the table.
func pack(o Options, source Source, first, last int64) []byte {
	b := binPacker{length: int64(o.SequenceLength), alone: o.Packing == "none", rooms: newIntSet(o.SequenceLength + 1),
		newest: make([]int32, o.SequenceLength+1)}
	var truncated, split, empty int64
	for i := first; i < last; i++ {
		at, tokens := source.Document(i)
		switch {
		case tokens < 2:
			empty++
			continue
		case tokens-1 <= b.length:
		case o.Overlong == "split":
			split++
			// Each piece begins with the last token of the one before, so that all are predicted.
			for ; tokens-1 > b.length; tokens -= b.length {
				b.add(at, b.length)
				at += b.length
			}
		default:
			truncated++
			tokens = b.length + 1
		}
		b.add(at, tokens-1)
	}
	return b.table(truncated, split, empty)
}

// A binPacker is best-fit packing (Johnson et al., "Worst-Case Performance Bounds for Simple One-Dimensional Packing
// Algorithms", SIAM J. Comput. 3, 1974): a piece goes where it leaves the least room, or opens a sample. Samples are numbered
// as they are opened, so that their order is about that of the documents.
type binPacker struct {
	length  int64
	alone   bool
	entries []entry
	rooms   intSet  // the rooms, in positions, that some sample has
	newest  []int32 // by room: the sample that got it last, plus 1
	older   []int32 // by sample: the one before it with the same room, plus 1
}

func (b *binPacker) add(at, n int64) {
	pack := int32(len(b.older))
	room := b.length
	if fit, ok := b.rooms.next(int(n)); ok && !b.alone {
		room = int64(fit)
		pack = b.newest[room] - 1
		if b.newest[room] = b.older[pack]; b.newest[room] == 0 {
			b.rooms.remove(int(room))
		}
	} else {
		b.older = append(b.older, 0)
	}
	b.entries = append(b.entries, entry{at, int32(n), pack})
	if room -= n; room > 0 {
		b.older[pack], b.newest[room] = b.newest[room], pack+1
		b.rooms.add(int(room))
	}
}

// table writes the packs, their entries in the order in which they came.
func (b *binPacker) table(truncated, split, empty int64) []byte {
	packs, entries := int64(len(b.older)), int64(len(b.entries))
	first := make([]int64, packs+1)
	for _, e := range b.entries {
		first[e.pack+1]++
	}
	for i := range packs {
		first[i+1] += first[i]
	}
	le := binary.LittleEndian
	table := make([]byte, 0, 8*(packHeader+packs+1+2*entries))
	for _, n := range append([]int64{packs, entries, truncated, split, empty}, first...) {
		table = le.AppendUint64(table, uint64(n))
	}
	begin := len(table)
	table = table[:cap(table)]
	for _, e := range b.entries {
		le.PutUint64(table[begin+8*int(first[e.pack]):], uint64(e.at))
		le.PutUint64(table[begin+8*int(entries+first[e.pack]):], uint64(e.n))
		first[e.pack]++
	}
	return table
}

// An intSet is a set of small integers that finds the smallest one from a number on: bits, and above each 64 words of them a
// word that says which are not zero.
type intSet [][]uint64

func newIntSet(n int) intSet {
	var s intSet
	for {
		n = (n + 63) / 64
		s = append(s, make([]uint64, n))
		if n <= 1 {
			return s
		}
	}
}

func (s intSet) add(i int) {
	for level := range s {
		s[level][i/64] |= 1 << (i % 64)
		i /= 64
	}
}

func (s intSet) remove(i int) {
	for level := range s {
		if s[level][i/64] &^= 1 << (i % 64); s[level][i/64] != 0 {
			return
		}
		i /= 64
	}
}

// next returns the smallest member that is not below i.
func (s intSet) next(i int) (int, bool) {
	for level := range s {
		if i/64 >= len(s[level]) {
			return 0, false
		}
		if word := s[level][i/64] >> (i % 64); word != 0 {
			i += bits.TrailingZeros64(word)
			for level--; level >= 0; level-- {
				i = 64*i + bits.TrailingZeros64(s[level][i])
			}
			return i, true
		}
		i = i/64 + 1
	}
	return 0, false
}
