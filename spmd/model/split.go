package model

// A Split says which tokens of each sample a rank works on, where ranks share samples (context parallelism). The zero Split is
// all of them. A sample of T tokens is cut for Ring times Ulysses ranks:
//
//   - in 2*Ring chunks, of which ring rank r has number r and number 2*Ring-1-r. Under a causal mask a token attends to all
//     before it, so that a run of tokens would cost the more the later it is; this way all cost the same (Brandon et al.,
//     "Striped Attention", 2023, and the zigzag order of Megatron-LM and Llama 3).
//   - Ring rank r is a group of Ulysses ranks, which have that many equal parts of its two chunks, one after the other.
//
// In core.go is what attention does with it; all else that layers do is token by token.
type Split struct{ Ring, RingRank, Ulysses, UlyssesRank int }

// ring and ulysses return the sizes, at least 1.
func (s Split) ring() int { return max(s.Ring, 1) }

func (s Split) ulysses() int { return max(s.Ulysses, 1) }

// Ranks returns how many ranks share a sample.
func (s Split) Ranks() int { return s.ring() * s.ulysses() }

// Whole returns the length of a sample, of which this rank has Sequence tokens.
func (s Size) Whole() int { return s.Sequence * s.Split.Ranks() }

// pair returns the number of tokens of a ring rank, and how many of them are in its first chunk.
func (s Size) pair() (tokens, first int) {
	tokens = s.Sequence * s.Split.ulysses()
	return tokens, tokens / 2
}

// chunks returns where the two chunks of a ring rank begin in a sample.
func (s Size) chunks(rank int) [2]int {
	tokens, first := s.pair()
	return [2]int{rank * first, s.Whole() - (rank+1)*(tokens-first)}
}

// A run is a stretch of this rank's tokens of a sample that follow each other: their numbers on this rank, and that of the first
// in the sample.
type run struct{ from, to, position int }

// runs returns the runs of this rank's tokens, in order; the second one is empty where there is one only.
func (s Size) runs() [2]run {
	_, first := s.pair()
	chunks := s.chunks(s.Split.RingRank)
	from := s.Split.UlyssesRank * s.Sequence // among the tokens of the two chunks
	border := min(max(first-from, 0), s.Sequence)
	if chunks[0]+first == chunks[1] {
		return [2]run{{0, s.Sequence, chunks[0] + from}}
	}
	return [2]run{{0, border, chunks[0] + from}, {border, s.Sequence, chunks[1] + from + border - first}}
}

// Positions returns the numbers of this rank's tokens in their sample.
func (s Size) Positions() []int {
	positions := make([]int, 0, s.Sequence)
	for _, r := range s.runs() {
		for i := range r.to - r.from {
			positions = append(positions, r.position+i)
		}
	}
	return positions
}

// Cut copies this rank's tokens, [B,T], from whole samples [B,Whole].
func (s Size) Cut(local, whole []int32) {
	for b := range s.Batch {
		for _, r := range s.runs() {
			copy(local[b*s.Sequence+r.from:b*s.Sequence+r.to], whole[b*s.Whole()+r.position:])
		}
	}
}

// DocumentShape returns the shape of MicroBatch.Documents.
func (s Size) DocumentShape() []int {
	tokens, _ := s.pair()
	return []int{s.Split.ring(), s.Batch, tokens}
}

// CutDocuments fills MicroBatch.Documents from the first tokens of the documents of whole samples [B,Whole].
func (s Size) CutDocuments(local, whole []int32) {
	tokens, first := s.pair()
	queries := s.chunks(s.Split.RingRank)
	i := 0
	for step := range s.Split.ring() {
		keys := s.chunks(s.source(step))
		_, most := s.keys(step)
		for b := range s.Batch {
			for t := range tokens {
				at := queries[0] + t
				if t >= first {
					at = queries[1] + t - first
				}
				start := int(whole[b*s.Whole()+at])
				before := min(max(start-keys[0], 0), first) + min(max(start-keys[1], 0), tokens-first)
				local[i] = int32(min(before, most))
				i++
			}
		}
	}
}

// source returns the ring rank whose keys this one has in a step: its own in step 0, then those of the rank before it, and so on.
func (s Size) source(step int) int {
	return (s.Split.RingRank - step + s.Split.ring()) % s.Split.ring()
}

// queries and keys return which of this ring rank's queries attend to which of the keys that it has in a step, both as ranges of
// tokens: to the rank's own with a causal mask, to those of a rank before it only the first chunk, which precedes all of this
// rank's; to those of a rank behind it only the second chunk does, which they precede.
func (s Size) queries(step int) (from, to int) {
	tokens, first := s.pair()
	if s.source(step) > s.Split.RingRank {
		return first, tokens
	}
	return 0, tokens
}

func (s Size) keys(step int) (from, to int) {
	tokens, first := s.pair()
	if s.source(step) < s.Split.RingRank {
		return 0, first
	}
	return 0, tokens
}
