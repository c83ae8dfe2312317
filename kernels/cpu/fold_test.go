package cpu

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"lockstep/kernels/device"
)

// treeOf combines the numbers in the order that the folds promise.
func treeOf(x []float32, combine func(a, b float32) float32) float32 {
	core := 1
	for 2*core <= len(x) {
		core *= 2
	}
	leaves := slices.Clone(x[:core])
	for i := core; i < len(x); i++ {
		leaves[i-core] = combine(leaves[i-core], x[i])
	}
	for ; len(leaves) > 1; leaves = leaves[:len(leaves)/2] {
		for i := range len(leaves) / 2 {
			leaves[i] = combine(leaves[2*i], leaves[2*i+1])
		}
	}
	return leaves[0]
}

func add(a, b float32) float32 { return a + b }

// value is a number whose sums depend on their order.
func value(source, i int) float64 {
	return math.Sin(float64(100*source+i)) * math.Pow(10, float64(i%7))
}

// folds are all functions of fold.go with what they do to two numbers.
var folds = map[string]struct {
	fold    func(dst, src [][]byte)
	combine func(a, b float32) float32
	narrow  bool
}{
	"SumFloat32":  {SumFloat32, add, false},
	"MaxFloat32":  {MaxFloat32, func(a, b float32) float32 { return max(a, b) }, false},
	"MinFloat32":  {MinFloat32, func(a, b float32) float32 { return min(a, b) }, false},
	"SumBFloat16": {SumBFloat16, add, true},
	"MaxBFloat16": {MaxBFloat16, func(a, b float32) float32 { return max(a, b) }, true},
	"MinBFloat16": {MinBFloat16, func(a, b float32) float32 { return min(a, b) }, true},
}

func TestFolds(t *testing.T) {
	for name, f := range folds {
		for n := 1; n <= 17; n++ {
			for _, length := range []int{0, 1, 255, 256, 700} {
				t.Run(fmt.Sprintf("%s/%d-sources-of-%d", name, n, length), func(t *testing.T) {
					sources, want := make([][]float32, n), make([]float32, length)
					for s := range sources {
						sources[s] = make([]float32, length)
						for i := range sources[s] {
							sources[s][i] = float32(value(s, i))
						}
						if f.narrow {
							widenGeneric(sources[s], narrowed(sources[s]))
						}
					}
					column := make([]float32, n)
					for i := range want {
						for s := range column {
							column[s] = sources[s][i]
						}
						want[i] = treeOf(column, f.combine)
					}
					encode := device.BytesOf[float32]
					if f.narrow {
						encode = func(x []float32) []byte { return device.BytesOf(narrowed(x)) }
					}
					src := make([][]byte, n)
					for s := range src {
						src[s] = encode(sources[s])
					}
					checkFold(t, f.fold, src, encode(want))
				})
			}
		}
	}
}

// checkFold folds into a buffer of its own, then into one of its own and all sources.
func checkFold(t *testing.T, fold func(dst, src [][]byte), src [][]byte, want []byte) {
	t.Helper()
	out := make([]byte, len(want))
	fold([][]byte{out}, src)
	if !bytes.Equal(out, want) {
		t.Fatal("the result differs from the tree's")
	}
	clear(out)
	fold(append([][]byte{out}, src...), src)
	for i, b := range append(src, out) {
		if !bytes.Equal(b, want) {
			t.Fatalf("destination %d differs from the tree's", i)
		}
	}
}

func narrowed(x []float32) []uint16 {
	y := make([]uint16, len(x))
	narrowGeneric(y, x)
	return y
}

func TestFoldOfNaN(t *testing.T) {
	nan := float32(math.NaN())
	for name, f := range folds {
		for at := range 5 {
			src := make([][]byte, 5)
			for s := range src {
				x := []float32{float32(s)}
				if s == at {
					x[0] = nan
				}
				if src[s] = device.BytesOf(x); f.narrow {
					src[s] = device.BytesOf(narrowed(x))
				}
			}
			out := make([]byte, len(src[0]))
			f.fold([][]byte{out}, src)
			x := []float32{0}
			if f.narrow {
				widenGeneric(x, numbers[uint16](out))
			} else {
				copy(x, numbers[float32](out))
			}
			if x[0] == x[0] {
				t.Errorf("%s of a NaN in source %d is %v", name, at, x[0])
			}
		}
	}
}

func TestSumOfNothing(t *testing.T) {
	x := []byte{1, 2, 3, 4}
	SumFloat32([][]byte{x}, nil)
	SumFloat32(nil, [][]byte{x})
	if x[0] != 1 || x[3] != 4 {
		t.Errorf("a sum without sources or destinations wrote %v", x)
	}
}

// TestFoldKernels compares the kernels of every set with the tree: from an element on that is none of the first, and
// without touching what is beyond the last.
func TestFoldKernels(t *testing.T) {
	forEachSet(t, func(t *testing.T, s *kernelSet) {
		for _, n := range []int{2, 4, 8} {
			k, ok := s.folds.of(n)
			if !ok {
				t.Skip("the set has no kernels of its own")
			}
			for _, length := range []int{0, foldRound, 7 * foldRound} {
				const at, beyond = 5, 3
				sources, src := make([][]float32, n), make([][]byte, n)
				for i := range sources {
					sources[i] = noise(at+length+beyond, uint64(i+1), 3)
					src[i] = device.BytesOf(sources[i])
				}
				want, column := make([]float32, length+1), make([]float32, n)
				for i := range length {
					for j := range column {
						column[j] = sources[j][at+i]
					}
					want[i] = treeOf(column, add)
				}
				got := make([]float32, length+1)
				k.into(&got[0], src, at, length)
				equalBits(t, "into one", got, want)
				for i, source := range sources {
					expected := slices.Concat(source[:at], want[:length], source[at+length:])
					if i == 0 {
						k.all(src, at, length)
						expected = slices.Concat(noise(at, 1, 3), want[:length], noise(at+length+beyond, 1, 3)[at+length:])
					}
					equalBits(t, "into all", source, expected)
				}
			}
		}
	})
}

func BenchmarkSumFloat32(b *testing.B) {
	for _, n := range []int{2, 4, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			src := make([][]byte, n)
			for i := range src {
				src[i] = make([]byte, 1<<20)
			}
			b.SetBytes(int64(n) << 20)
			for b.Loop() {
				SumFloat32(src, src)
			}
		})
	}
}

func TestFoldsAllocateNothing(t *testing.T) {
	src := make([][]byte, 5)
	for i := range src {
		src[i] = make([]byte, 4<<10)
	}
	for _, n := range []int{2, 5} {
		for name, f := range folds {
			if allocations := testing.AllocsPerRun(10, func() { f.fold(src[:n], src[:n]) }); allocations != 0 {
				t.Errorf("%s of %d sources: %v allocations", name, n, allocations)
			}
		}
	}
}
