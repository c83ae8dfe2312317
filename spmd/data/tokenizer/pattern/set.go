package pattern

import (
	"slices"
	"unicode"
	"unicode/utf8"
)

// A span is the characters from lo to hi, both included.
type span struct{ lo, hi rune }

// A set is a set of characters that is quick to ask.
type set struct {
	spans []span // sorted, with gaps between
	ascii [2]uint64
	// pages are bitmaps of 256 characters each of the basic plane, nil for an empty one. What lies beyond is rare and
	// searched in spans.
	pages [256]*[4]uint64
}

// newSet makes a set of spans in any order.
func newSet(spans []span) *set {
	s := &set{spans: normalized(spans)}
	full := &[4]uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	for _, sp := range s.spans {
		for r := sp.lo; r <= min(sp.hi, 0xFFFF); {
			if r&0xFF == 0 && r+0xFF <= sp.hi {
				s.pages[r>>8] = full
				r += 0x100
				continue
			}
			page := &s.pages[r>>8]
			if *page == nil {
				*page = new([4]uint64)
			}
			(*page)[r>>6&3] |= 1 << (r & 63)
			r++
		}
	}
	if page := s.pages[0]; page != nil {
		s.ascii = [2]uint64(page[:2])
	}
	return s
}

// normalized returns spans sorted and joined where they touch.
func normalized(spans []span) []span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return int(a.lo) - int(b.lo) })
	var joined []span
	for _, s := range spans {
		if n := len(joined); n > 0 && s.lo <= joined[n-1].hi+1 {
			joined[n-1].hi = max(joined[n-1].hi, s.hi)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}

// complement returns the characters that are not in spans.
func complement(spans []span) []span {
	var rest []span
	next := rune(0)
	for _, s := range normalized(spans) {
		if s.lo > next {
			rest = append(rest, span{next, s.lo - 1})
		}
		next = s.hi + 1
	}
	if next <= unicode.MaxRune {
		rest = append(rest, span{next, unicode.MaxRune})
	}
	return rest
}

// tableSpans returns the characters of a table.
func tableSpans(t *unicode.RangeTable) []span {
	var spans []span
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			spans = append(spans, span{lo, hi})
			return
		}
		for r := lo; r <= hi; r += stride {
			spans = append(spans, span{r, r})
		}
	}
	for _, r := range t.R16 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range t.R32 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	return spans
}

// folded returns spans with all characters that are the same but for their case, by Unicode's simple folding.
func folded(spans []span) []span {
	all := slices.Clone(spans)
	for _, s := range spans {
		for r := s.lo; r <= s.hi; r++ {
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				all = append(all, span{f, f})
			}
		}
	}
	return all
}

// hasASCII reports whether the set has c, below 0x80.
func (s *set) hasASCII(c byte) bool { return s.ascii[c>>6]>>(c&63)&1 != 0 }

// has reports whether the set has r.
func (s *set) has(r rune) bool {
	if r < 0x10000 {
		page := s.pages[r>>8]
		return page != nil && page[r>>6&3]>>(r&63)&1 != 0
	}
	_, found := slices.BinarySearchFunc(s.spans, r, func(s span, r rune) int {
		switch {
		case s.hi < r:
			return -1
		case s.lo > r:
			return 1
		}
		return 0
	})
	return found
}

// width returns the length of the character of text at i if the set has it, else 0.
func (s *set) width(text string, i int) int {
	if i >= len(text) {
		return 0
	}
	if c := text[i]; c < utf8.RuneSelf {
		return int(s.ascii[c>>6] >> (c & 63) & 1)
	}
	r, n := utf8.DecodeRuneInString(text[i:])
	if s.has(r) {
		return n
	}
	return 0
}

// hasOther reports whether the set has any character beyond ASCII.
func (s *set) hasOther() bool { return len(s.spans) > 0 && s.spans[len(s.spans)-1].hi >= utf8.RuneSelf }
