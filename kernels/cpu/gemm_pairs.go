package cpu

import (
	"math"
	"unsafe"
)

// pairKernels multiply bfloat16, two products at a time. A pair is two neighbours along K, the first one in the lower half of 32
// bits. Panels have pairs where others have float32, and so everything but the making of pairs is the same.
//
// An operand of float32 is rounded to bfloat16, to nearest, ties to even. Subnormal numbers count as zeros, in operands and in sums.
type pairKernels struct {
	// tile has the panels of the set's other tile, and
	//
	//	sum += a[k*rows+i].second * b[k*columns+j].second
	//	sum += a[k*rows+i].first * b[k*columns+j].first
	//
	// in the innermost loop, each of which rounds once.
	tile tileKernels
	// round computes y[i] = x[i], rounded. Lengths, here and below, are multiples of castWhole.
	round func(y []uint16, x []float32)
	// roundPairs computes the pairs y[i] = (a[i], b[i]), rounded, joinPairs those of numbers that are bfloat16.
	roundPairs func(y, a, b []float32)
	joinPairs  func(y []float32, a, b []uint16)
}

// makePairs makes p a product of pairs.
func (p *product) makePairs() {
	p.tile = &p.set.pairs.tile
	p.a.pairs, p.b.pairs = p.k, p.k
	p.k = (p.k + 1) / 2
}

// packPairs is pack for pairs.
func (s *source) packPairs(set *kernelSet, p *panelKernels, dst []float32, e extent, depth int, wide []float32) {
	at, elements := s.at(e), s.elements(e.k+e.depth)-s.elements(e.k)
	if pairs, stride := s.inPlace(at, elements); pairs != nil {
		p.packInto(dst, pairs, stride, true, e.n, e.depth, depth)
		return
	}
	if s.deep {
		for i := 0; i < e.n; i += p.width {
			rows := min(p.width, e.n-i)
			for r := range rows {
				s.pairsAlong(set.pairs, wide[r*e.depth:][:e.depth], at+(i+r)*s.stride, elements)
			}
			p.packInto(dst[i*depth:], wide, e.depth, true, rows, e.depth, depth)
		}
		return
	}
	piece := max(wideElements/e.n, 1)
	for k := 0; k < e.depth; k += piece {
		rows := min(piece, e.depth-k)
		for r := range rows {
			row := at + 2*(k+r)*s.stride
			s.pairsOf(set.pairs, wide[r*e.n:][:e.n], row, 2*(k+r)+1 < elements)
		}
		p.packInto(dst[k*p.width:], wide, e.n, false, e.n, rows, depth)
	}
}

// inPlace returns the lines from a position on as pairs, where they are that in memory, and how many pairs apart they begin.
func (s *source) inPlace(at, elements int) (pairs []float32, stride int) {
	if !s.deep || s.bfloat16s == nil || s.stride%2 != 0 || elements%2 != 0 {
		return nil, 0
	}
	first := unsafe.Pointer(&s.bfloat16s[at])
	if uintptr(first)%unsafe.Alignof(float32(0)) != 0 {
		return nil, 0
	}
	return unsafe.Slice((*float32)(first), (len(s.bfloat16s)-at)/2), s.stride / 2
}

// pairsAlong makes pairs of elements that follow one another. The last one may have no second.
func (s *source) pairsAlong(k *pairKernels, y []float32, at, elements int) {
	narrow := unsafe.Slice((*uint16)(unsafe.Pointer(&y[0])), 2*len(y))
	if elements < len(narrow) {
		narrow[elements] = 0
	}
	if s.bfloat16s != nil {
		copy(narrow, s.bfloat16s[at:][:elements])
		return
	}
	x, whole := s.float32s[at:][:elements], elements/castWhole*castWhole
	k.round(narrow[:whole], x[:whole])
	for i := whole; i < elements; i++ {
		narrow[i] = roundNormal(x[i])
	}
}

// pairsOf makes pairs of a row and the next one, if there is a next one.
func (s *source) pairsOf(k *pairKernels, y []float32, at int, both bool) {
	n := len(y)
	whole := n / castWhole * castWhole
	if !both {
		whole = 0
	}
	if s.bfloat16s != nil {
		if whole > 0 {
			k.joinPairs(y[:whole], s.bfloat16s[at:][:whole], s.bfloat16s[at+s.stride:][:whole])
		}
		for i := whole; i < n; i++ {
			second := uint16(0)
			if both {
				second = s.bfloat16s[at+s.stride+i]
			}
			y[i] = pair(s.bfloat16s[at+i], second)
		}
		return
	}
	if whole > 0 {
		k.roundPairs(y[:whole], s.float32s[at:][:whole], s.float32s[at+s.stride:][:whole])
	}
	for i := whole; i < n; i++ {
		second := uint16(0)
		if both {
			second = roundNormal(s.float32s[at+s.stride+i])
		}
		y[i] = pair(roundNormal(s.float32s[at+i]), second)
	}
}

// pair returns a pair as what panels have. A float32 that is moved about keeps all its bits.
func pair(first, second uint16) float32 {
	return math.Float32frombits(uint32(first) | uint32(second)<<16)
}

// roundNormal rounds to bfloat16 as the processor does: a subnormal number becomes a zero.
func roundNormal(x float32) uint16 {
	const exponent = 0x7f800000
	if math.Float32bits(x)&exponent == 0 {
		return uint16(math.Float32bits(x)>>16) & 0x8000
	}
	var y [1]uint16
	narrowGeneric(y[:], []float32{x})
	return y[0]
}
