package cpu

import (
	"fmt"
	"math"
	"testing"

	"lockstep/kernels/device"
)

// treeSum adds the numbers in the order that SumFloat32 promises.
func treeSum(x []float32) float32 {
	if len(x) == 1 {
		return x[0]
	}
	half := 1
	for 2*half < len(x) {
		half *= 2
	}
	return treeSum(x[:half]) + treeSum(x[half:])
}

// value is a number whose sums depend on their order.
func value(source, i int) float64 {
	return math.Sin(float64(100*source+i)) * math.Pow(10, float64(i%7))
}

func TestSumFloat32(t *testing.T) {
	for n := 1; n <= 17; n++ {
		for _, length := range []int{0, 1, 255, 256, 700} {
			t.Run(fmt.Sprintf("%d-sources-of-%d", n, length), func(t *testing.T) {
				src := make([][]byte, n)
				want := make([]float32, length)
				column := make([]float32, n)
				typed := make([][]float32, n)
				for s := range src {
					typed[s] = make([]float32, length)
					for i := range typed[s] {
						typed[s][i] = float32(value(s, i))
					}
					src[s] = device.BytesOf(typed[s])
				}
				for i := range want {
					for s := range column {
						column[s] = typed[s][i]
					}
					want[i] = treeSum(column)
				}
				// Into a buffer of its own, then into one of its own and all sources.
				out := make([]float32, length)
				SumFloat32([][]byte{device.BytesOf(out)}, src)
				equal(t, out, want)
				clear(out)
				SumFloat32(append([][]byte{device.BytesOf(out)}, src...), src)
				for _, x := range append(typed, out) {
					equal(t, x, want)
				}
			})
		}
	}
}

func equal(t *testing.T, got, want []float32) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("element %d is %v, expected %v", i, got[i], want[i])
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

func TestSumsAllocateNothing(t *testing.T) {
	src := make([][]byte, 5)
	for i := range src {
		src[i] = make([]byte, 4<<10)
	}
	for _, n := range []int{2, 5} {
		if allocations := testing.AllocsPerRun(10, func() {
			SumFloat32(src[:n], src[:n])
		}); allocations != 0 {
			t.Errorf("%d sources: %v allocations", n, allocations)
		}
	}
}
