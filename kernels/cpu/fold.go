package cpu

import "unsafe"

// foldBlock is how many elements of each source fold combines at a time, so that partial sums stay in the fastest cache.
const foldBlock = 256

// foldLevels bounds the depth of the tree: 2^foldLevels sources, more than a group has ranks.
const foldLevels = 16

const floatBytes = 4

// SumFloat32 adds float32 sources, element by element, in the order of the aligned pairwise tree
// ((0+1)+(2+3))+((4+5)+(6+7)), and stores the sum into every destination, in one pass over the memory. Destinations may
// be among the sources. All slices are of one length, a multiple of the element's size. Where the number of sources is no
// power of two, those after the largest power of two below it are a tree of their own, added last. It serves as the Fold
// of a collective.Reduction.
func SumFloat32(dst, src [][]byte) {
	switch {
	case len(src) == 0 || len(dst) == 0:
	case len(src) == 2:
		foldTwo(dst, src)
	default:
		foldMany(dst, src)
	}
}

// foldTwo is fold without partial sums, for exchanges between two ranks.
func foldTwo(dst, src [][]byte) {
	block := foldBlock * floatBytes
	for from := 0; from < len(src[0]); from += block {
		to := min(from+block, len(src[0]))
		fastAdd(numbers(dst[0][from:to]), numbers(src[0][from:to]), numbers(src[1][from:to]))
		for _, d := range dst[1:] {
			copy(d[from:to], dst[0][from:to])
		}
	}
}

func foldMany(dst, src [][]byte) {
	var sums [foldLevels + 1][foldBlock]float32
	block := foldBlock * floatBytes
	for from := 0; from < len(src[0]); from += block {
		to := min(from+block, len(src[0]))
		sum := foldBlocks(&sums, src, from, to)
		for _, d := range dst {
			copy(numbers(d[from:to]), sum)
		}
	}
}

// foldBlocks returns the sum of the bytes [from, to) of the sources. As in a binary counter, bit k of the number of
// sources taken so far says whether sums[k] holds the sum of a complete tree over 2^k of them; the next source is carried
// upwards through the trees that it completes.
func foldBlocks(sums *[foldLevels + 1][foldBlock]float32, src [][]byte, from, to int) []float32 {
	if len(src) == 1 {
		return numbers(src[0][from:to])
	}
	var last []float32
	for i := 0; i+1 < len(src); i += 2 {
		level, n := 1, i/2
		for ; n&1 == 1; n >>= 1 {
			level++
		}
		// sums[level] is free; the pair's sum goes there, then takes up the complete trees below.
		a, b := numbers(src[i][from:to]), numbers(src[i+1][from:to])
		last = sums[level][:len(a)]
		fastAdd(last, a, b)
		for l := 1; l < level; l++ {
			fastAdd(last, sums[l][:len(a)], last)
		}
	}
	return foldRest(sums, src, last, from, to)
}

// foldRest adds up the trees that are left when the number of sources is no power of two, the smallest first.
func foldRest(sums *[foldLevels + 1][foldBlock]float32, src [][]byte, last []float32, from, to int) []float32 {
	n := len(src)
	if n&(n-1) == 0 {
		return last
	}
	rest := sums[0][:(to-from)/floatBytes]
	started := n&1 == 1
	if started {
		copy(rest, numbers(src[n-1][from:to]))
	}
	for level, left := 1, n>>1; left > 0; level, left = level+1, left>>1 {
		switch {
		case left&1 == 0:
		case started:
			fastAdd(rest, sums[level][:len(rest)], rest)
		default:
			copy(rest, sums[level][:len(rest)])
			started = true
		}
	}
	return rest
}

func numbers(b []byte) []float32 {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/floatBytes)
}
