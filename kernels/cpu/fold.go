package cpu

import "unsafe"

// foldBlock is how many elements of each source fold combines at a time, so that partial sums stay in the fastest cache.
const foldBlock = 256

// foldLevels bounds the depth of the tree: 2^foldLevels sources, more than a group has ranks.
const foldLevels = 16

// SumFloat32 adds float32 sources, element by element, in the order of the aligned pairwise tree
// ((0+1)+(2+3))+((4+5)+(6+7)), and stores the sum into every destination, in one pass over the memory. Destinations may
// be among the sources. All slices are of one length, a multiple of the element's size. Where the number of sources is no
// power of two, those after the largest power of two below it are a tree of their own, added last. It serves as the Fold
// of a collective.Reduction.
func SumFloat32(dst, src [][]byte) { fold[float32](dst, src) }

// SumFloat64 is SumFloat32 for float64 elements.
func SumFloat64(dst, src [][]byte) { fold[float64](dst, src) }

func fold[T float32 | float64](dst, src [][]byte) {
	switch {
	case len(src) == 0 || len(dst) == 0:
	case len(src) == 2:
		foldTwo[T](dst, src)
	default:
		foldMany[T](dst, src)
	}
}

// foldTwo is fold without partial sums, for exchanges between two ranks.
func foldTwo[T float32 | float64](dst, src [][]byte) {
	var zero T
	block := foldBlock * int(unsafe.Sizeof(zero))
	for from := 0; from < len(src[0]); from += block {
		to := min(from+block, len(src[0]))
		addNumbers(numbers[T](dst[0][from:to]), numbers[T](src[0][from:to]), numbers[T](src[1][from:to]))
		for _, d := range dst[1:] {
			copy(d[from:to], dst[0][from:to])
		}
	}
}

func foldMany[T float32 | float64](dst, src [][]byte) {
	var (
		zero T
		sums [foldLevels + 1][foldBlock]T
	)
	block := foldBlock * int(unsafe.Sizeof(zero))
	for from := 0; from < len(src[0]); from += block {
		to := min(from+block, len(src[0]))
		sum := foldBlocks(&sums, src, from, to)
		for _, d := range dst {
			copy(numbers[T](d[from:to]), sum)
		}
	}
}

// foldBlocks returns the sum of the bytes [from, to) of the sources. As in a binary counter, bit k of the number of
// sources taken so far says whether sums[k] holds the sum of a complete tree over 2^k of them; the next source is carried
// upwards through the trees that it completes.
func foldBlocks[T float32 | float64](sums *[foldLevels + 1][foldBlock]T, src [][]byte, from, to int) []T {
	if len(src) == 1 {
		return numbers[T](src[0][from:to])
	}
	var last []T
	for i := 0; i+1 < len(src); i += 2 {
		level, n := 1, i/2
		for ; n&1 == 1; n >>= 1 {
			level++
		}
		// sums[level] is free; the pair's sum goes there, then takes up the complete trees below.
		a, b := numbers[T](src[i][from:to]), numbers[T](src[i+1][from:to])
		last = sums[level][:len(a)]
		addNumbers(last, a, b)
		for l := 1; l < level; l++ {
			addNumbers(last, sums[l][:len(a)], last)
		}
	}
	return foldRest(sums, src, last, from, to)
}

// foldRest adds up the trees that are left when the number of sources is no power of two, the smallest first.
func foldRest[T float32 | float64](sums *[foldLevels + 1][foldBlock]T, src [][]byte, last []T, from, to int) []T {
	n := len(src)
	if n&(n-1) == 0 {
		return last
	}
	rest := sums[0][:(to-from)/int(unsafe.Sizeof(sums[0][0]))]
	started := n&1 == 1
	if started {
		copy(rest, numbers[T](src[n-1][from:to]))
	}
	for level, left := 1, n>>1; left > 0; level, left = level+1, left>>1 {
		switch {
		case left&1 == 0:
		case started:
			addNumbers(rest, sums[level][:len(rest)], rest)
		default:
			copy(rest, sums[level][:len(rest)])
			started = true
		}
	}
	return rest
}

// addNumbers computes y = a + b, in vectors where it can; that changes no bit. It calls functions by name and not through a
// value, so that the compiler sees that the partial sums can stay on the stack.
func addNumbers[T float32 | float64](y, a, b []T) {
	if y, ok := any(y).([]float32); ok {
		fastAdd(y, any(a).([]float32), any(b).([]float32))
		return
	}
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] + b[i]
	}
}

func numbers[T float32 | float64](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/int(unsafe.Sizeof(zero)))
}
