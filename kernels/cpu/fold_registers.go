package cpu

import (
	"math/bits"
	"unsafe"
)

// foldKernels add float32 sources in registers, in the order of the pairwise tree, and write each result once: a fold that
// goes through memory for its partial sums is bound by the first-level cache instead of by the memory that it reads. They
// take sources' elements [at, at+n), n a multiple of foldRound, and check no bounds.
type foldKernels struct {
	// into writes the sums to dst: dst[i] = (src[0][at+i] + src[1][at+i]) + ...
	into func(dst *float32, src [][]byte, at, n int)
	// all writes them to all sources.
	all func(src [][]byte, at, n int)
}

// A foldTable has the kernels for 2, 4 and 8 sources, or none.
type foldTable [3]foldKernels

// of returns the kernels for n sources, if there are any.
func (t foldTable) of(n int) (k foldKernels, ok bool) {
	if i := bits.TrailingZeros(uint(n)) - 1; i >= 0 && i < len(t) && n == 2<<i {
		k = t[i]
	}
	return k, k.into != nil
}

const (
	// foldRound is what the kernels take at a time: two cache lines of each source.
	foldRound = 32
	// foldCall bounds the elements of one call, in all sources together: the Go runtime cannot preempt assembly.
	foldCall = 32 << 10
	// foldGroup is the most sources that a kernel adds, and what fastSumInto8 does.
	foldGroup = 8
)

// sumInRegisters is SumFloat32 where a kernel does it in one pass: for 2, 4 or 8 sources, and one destination or the sources
// as destinations. It reports whether that is so.
func sumInRegisters(dst, src [][]byte) bool {
	k, ok := fastFolds().of(len(src))
	all := sameMemory(dst, src)
	if !ok || len(dst) != 1 && !all {
		return false
	}
	elements := len(src[0]) / 4
	for _, s := range src {
		_ = s[:4*elements]
	}
	whole := elements / foldRound * foldRound
	for at := 0; at < whole; at += foldCall / len(src) {
		n := min(foldCall/len(src), whole-at)
		if all {
			k.all(src, at, n)
		} else {
			k.into(&numbers[float32](dst[0])[at:whole][:n][0], src, at, n)
		}
	}
	for i := whole; i < elements; i++ {
		sum := sumOf(src, i)
		for _, d := range dst {
			numbers[float32](d)[i] = sum
		}
	}
	return true
}

// sumGroup adds foldGroup sources' elements from the one at on into dst.
func sumGroup(dst []float32, src [][]byte, at int) {
	for _, s := range src[:foldGroup] {
		_ = s[:4*(at+len(dst))]
	}
	whole := len(dst) / foldRound * foldRound
	if whole > 0 {
		fastSumInto8(&dst[0], src, at, whole)
	}
	for i := whole; i < len(dst); i++ {
		dst[i] = sumOf(src[:foldGroup], at+i)
	}
}

func sumInto8Generic(dst *float32, src [][]byte, at, n int) {
	y := unsafe.Slice(dst, n)
	for i := range y {
		y[i] = sumOf(src[:foldGroup], at+i)
	}
}

// sumOf returns the sum of element i of the sources, of which there are a power of two.
func sumOf(src [][]byte, i int) float32 {
	if n := len(src); n > 1 {
		return sumOf(src[:n/2], i) + sumOf(src[n/2:], i)
	}
	return numbers[float32](src[0])[i]
}

// sameMemory reports whether a and b are the same slices.
func sameMemory(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if unsafe.SliceData(a[i]) != unsafe.SliceData(b[i]) || len(a[i]) != len(b[i]) {
			return false
		}
	}
	return true
}
