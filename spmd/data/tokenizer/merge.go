package tokenizer

// maxShortWord is how many symbols a word may have for the search through all of its pairs after each merge, which takes
// quadratic time, but no heap.
const maxShortWord = 48

// A merger merges the symbols of one word after the other. It keeps its memory.
type merger struct {
	model   *bpe
	symbols []int32
	ranks   []uint32 // of the pair of a symbol and the next
	next    []int32  // the number of the symbol after a symbol, -1 for none
	prev    []int32
	heap    []uint64
}

// merge appends the tokens of word to dst.
func (m *merger) merge(dst []int32, word string) []int32 {
	m.symbols = m.model.appendSymbols(m.symbols[:0], word)
	if len(m.symbols) <= maxShortWord {
		return m.mergeShort(dst)
	}
	return m.mergeLong(dst)
}

// rank returns the rank of the pair of a and b, noRank if it is not in the list.
func (m *merger) rank(a, b int32) uint32 {
	if v, ok := m.model.merges.get(a, b); ok {
		return v.rank
	}
	return noRank
}

func (m *merger) mergeShort(dst []int32) []int32 {
	symbols, ranks := m.symbols, m.ranks[:0]
	for i := 1; i < len(symbols); i++ {
		ranks = append(ranks, m.rank(symbols[i-1], symbols[i]))
	}
	m.ranks = ranks
	for {
		best, at := uint32(noRank), 0
		for i, rank := range ranks {
			if rank < best {
				best, at = rank, i
			}
		}
		if best == noRank {
			return append(dst, symbols...)
		}
		merged, _ := m.model.merges.get(symbols[at], symbols[at+1])
		symbols[at] = merged.id
		symbols = append(symbols[:at+1], symbols[at+2:]...)
		ranks = append(ranks[:at], ranks[at+1:]...)
		if at > 0 {
			ranks[at-1] = m.rank(symbols[at-1], symbols[at])
		}
		if at < len(ranks) {
			ranks[at] = m.rank(symbols[at], symbols[at+1])
		}
	}
}

// mergeLong takes the pairs from a heap, by rank and then from left to right. A pair that has changed since it was put
// there is not the one of its rank any more.
func (m *merger) mergeLong(dst []int32) []int32 {
	n := len(m.symbols)
	m.next, m.prev, m.heap = m.next[:0], m.prev[:0], m.heap[:0]
	for i := range int32(n) {
		m.next, m.prev = append(m.next, i+1), append(m.prev, i-1)
	}
	m.next[n-1] = -1
	for i := range n - 1 {
		m.pushPair(int32(i))
	}
	const gone = -1
	for len(m.heap) > 0 {
		top := m.pop()
		at := int32(uint32(top))
		right := m.next[at]
		if m.symbols[at] == gone || right < 0 {
			continue
		}
		merged, ok := m.model.merges.get(m.symbols[at], m.symbols[right])
		if !ok || merged.rank != uint32(top>>32) {
			continue
		}
		m.symbols[at], m.symbols[right] = merged.id, gone
		m.next[at] = m.next[right]
		if m.next[at] >= 0 {
			m.prev[m.next[at]] = at
			m.pushPair(at)
		}
		if m.prev[at] >= 0 {
			m.pushPair(m.prev[at])
		}
	}
	for i := int32(0); i >= 0; i = m.next[i] {
		dst = append(dst, m.symbols[i])
	}
	return dst
}

// pushPair puts the pair of symbol i and the next into the heap if it can be merged.
func (m *merger) pushPair(i int32) {
	rank := m.rank(m.symbols[i], m.symbols[m.next[i]])
	if rank == noRank {
		return
	}
	h := append(m.heap, uint64(rank)<<32|uint64(i))
	k := len(h) - 1
	for k > 0 && h[k] < h[(k-1)/2] {
		h[k], h[(k-1)/2] = h[(k-1)/2], h[k]
		k = (k - 1) / 2
	}
	m.heap = h
}

// pop takes the least from the heap.
func (m *merger) pop() uint64 {
	h := m.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for k := 0; ; {
		least := k
		for _, child := range [2]int{2*k + 1, 2*k + 2} {
			if child < last && h[child] < h[least] {
				least = child
			}
		}
		if least == k {
			break
		}
		h[k], h[least] = h[least], h[k]
		k = least
	}
	m.heap = h
	return top
}
