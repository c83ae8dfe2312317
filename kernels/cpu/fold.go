package cpu

import (
	"math/bits"
	"unsafe"
)

// The functions of this file serve as the Fold of a collective.Reduction: each combines sources, element by element, and
// stores the result into every destination, in one pass over the memory. Destinations may be among the sources. All slices
// are of one length, a multiple of the element's size.
//
// The order is that of the aligned pairwise tree ((0+1)+(2+3))+((4+5)+(6+7)). Where the number of sources is no power of
// two, let q be the largest one below it: source q+i is first combined with source i, as the second operand. The bfloat16
// versions convert to float32, which is exact, and round once, at the end.

// SumFloat32 adds float32 sources.
func SumFloat32(dst, src [][]byte) {
	if sumInRegisters(dst, src) {
		return
	}
	fold(dst, src, asFloat32, addition)
}

// MaxFloat32 takes the largest of float32 sources. A NaN in any source makes a NaN.
func MaxFloat32(dst, src [][]byte) { fold(dst, src, asFloat32, maximum) }

// MinFloat32 takes the smallest of float32 sources. A NaN in any source makes a NaN.
func MinFloat32(dst, src [][]byte) { fold(dst, src, asFloat32, minimum) }

// SumBFloat16 adds bfloat16 sources in float32.
func SumBFloat16(dst, src [][]byte) { fold(dst, src, asBFloat16, addition) }

// MaxBFloat16 takes the largest of bfloat16 sources. A NaN in any source makes a NaN.
func MaxBFloat16(dst, src [][]byte) { fold(dst, src, asBFloat16, maximum) }

// MinBFloat16 takes the smallest of bfloat16 sources. A NaN in any source makes a NaN.
func MinBFloat16(dst, src [][]byte) { fold(dst, src, asBFloat16, minimum) }

const (
	// foldBlock is how many elements of each source are combined at a time, so that partial results stay in the fastest
	// cache.
	foldBlock = 256
	// foldLevels bounds the depth of the tree: 2^foldLevels sources, more than a group has ranks.
	foldLevels = 16
)

// encoding is how a fold reaches the numbers in memory.
type encoding int

const (
	asFloat32 encoding = iota
	asBFloat16
)

// size returns the bytes of one element.
func (e encoding) size() int {
	if e == asBFloat16 {
		return 2
	}
	return 4
}

// partials are a fold's partial results, one for each level of the tree, and room for two blocks of a source that is
// converted or combined with another before it enters the tree.
type partials struct {
	levels [foldLevels + 1][foldBlock]float32
	leaf   [2][foldBlock]float32
	second [foldBlock]float32
}

func fold(dst, src [][]byte, e encoding, c combination) {
	if len(src) == 0 || len(dst) == 0 {
		return
	}
	var p partials
	block := foldBlock * e.size()
	for from := 0; from < len(src[0]); from += block {
		to := min(from+block, len(src[0]))
		result := p.tree(src, from, to, e, c)
		for _, d := range dst {
			e.store(d[from:to], result)
		}
	}
}

// tree returns the result for the bytes [from, to) of the sources. As in a binary counter, bit k of the number of leaves
// taken so far says whether levels[k] holds the result of a complete tree over 2^k of them; the next pair is carried
// upwards through the trees that it completes. A leaf is a source, or several ones that are added in registers.
func (p *partials) tree(src [][]byte, from, to int, e encoding, c combination) []float32 {
	core := 1 << (bits.Len(uint(len(src))) - 1)
	group := 1
	if e == asFloat32 && c == addition && core == len(src) && core > foldGroup {
		group = foldGroup
	}
	last := p.source(0, src, group, core, from, to, e, c)
	for i := 0; i+group < core; i += 2 * group {
		a, b := last, p.source(1, src[i+group:], group, core, from, to, e, c)
		if i > 0 {
			a = p.source(0, src[i:], group, core, from, to, e, c)
		}
		level := 1
		for n := i / (2 * group); n&1 == 1; n >>= 1 {
			level++
		}
		// levels[level] is free; the pair's result goes there, then takes up the complete trees below.
		last = p.levels[level][:len(a)]
		c.combine(last, a, b)
		for l := 1; l < level; l++ {
			c.combine(last, p.levels[l][:len(a)], last)
		}
	}
	return last
}

// source returns a leaf of the tree: the sum of the first group sources of src, or the first one, combined with the one that
// is core later, if there is one.
func (p *partials) source(slot int, src [][]byte, group, core, from, to int, e encoding, c combination) []float32 {
	if group > 1 {
		sum := p.leaf[slot][:(to-from)/e.size()]
		sumGroup(sum, src, from/e.size())
		return sum
	}
	leaf := e.load(p.leaf[slot][:], src[0][from:to])
	if core >= len(src) {
		return leaf
	}
	n := len(leaf)
	c.combine(p.leaf[slot][:n], leaf, e.load(p.second[:], src[core][from:to]))
	return p.leaf[slot][:n]
}

// load returns b as float32: itself, or converted into room.
func (e encoding) load(room []float32, b []byte) []float32 {
	if e == asFloat32 {
		return numbers[float32](b)
	}
	x := numbers[uint16](b)
	whole := len(x) / castWhole * castWhole
	fastWiden(room[:whole], x[:whole])
	widenGeneric(room[whole:len(x)], x[whole:])
	return room[:len(x)]
}

// store writes x to b.
func (e encoding) store(b []byte, x []float32) {
	if e == asFloat32 {
		copy(numbers[float32](b), x)
		return
	}
	y := numbers[uint16](b)
	whole := len(x) / castWhole * castWhole
	fastNarrow(y[:whole], x[:whole])
	narrowGeneric(y[whole:], x[whole:])
}

// A combination is what a fold does to two numbers. It is no function value, because what is passed to one escapes to the
// heap.
type combination int

const (
	addition combination = iota
	maximum
	minimum
)

// combine computes y[i] of a[i] and b[i].
func (c combination) combine(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	switch c {
	case addition:
		fastAdd(y, a, b)
	case maximum:
		for i := range y {
			y[i] = max(a[i], b[i])
		}
	case minimum:
		for i := range y {
			y[i] = min(a[i], b[i])
		}
	}
}

func numbers[T float32 | uint16](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/int(unsafe.Sizeof(*new(T))))
}
