package cpu

import (
	"fmt"
	"math"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// TestPairs holds products of pairs against their definition, to the bit: operands of either type, dense and in wider rows, with an
// odd number of products, over several blocks of K.
func TestPairs(t *testing.T) {
	forEachSet(t, func(t *testing.T, set *kernelSet) {
		if set.pairs == nil {
			t.Skip("it has no kernels for bfloat16")
		}
		d, s := open(t, set.name, 2)
		for _, shape := range [][3]int{{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {13, 49, 270}, {40, 70, 1601}} {
			for bits := range 32 {
				o := kernels.MatMulOptions{TransA: bits&1 != 0, TransB: bits&2 != 0, Accumulate: bits&4 != 0, BFloat16: true}
				p := newMatMulCase(shape[0], shape[1], shape[2], bits%3, o)
				if bits%5 == 0 { // a subnormal number, and one that rounding would make normal
					p.a[0], p.b[0] = 0x1p-130, math.Float32frombits(0x007fffff)
				}
				a, b, c := p.operands(t, d, s)
				for i, x := range []*kernels.Tensor{&a, &b} {
					if bits>>(3+i)&1 != 0 {
						*x = castDown(t, d, s, *x)
					}
				}
				d.MatMul(s, c, a, b, o)
				sameBits(t, fmt.Sprintf("%v of %v and %v", p, a.DType, b.DType), read(t, s, c), p.pairs())
			}
		}
	})
}

// castDown returns x as BFloat16, with rows as far apart as those of x.
func castDown(t testing.TB, d *Device, s device.Stream, x kernels.Tensor) kernels.Tensor {
	y := operands{t, d}.tensor(device.BFloat16, x.Shape[0], max(x.Stride[0], x.Shape[1])).Narrow(1, 0, x.Shape[1])
	d.Cast(s, y, x)
	return y
}

// pairs computes the product as pairKernels says.
func (p matMulCase) pairs() []float32 {
	element := func(x []float32, i, k, rows, cols int, trans bool) float32 {
		if trans {
			return normal(x[k*rows+i])
		}
		return normal(x[i*cols+k])
	}
	pairs := partsOf(p.k, 2)
	depth, _ := even(pairs, maxDepth, depthUnit)
	c := make([]float32, p.m*p.n)
	for at := range c {
		i, j := at/p.n, at%p.n
		product := func(k int, sum float32) float32 {
			if k >= p.k {
				return sum
			}
			return fma(element(p.a, i, k, p.m, p.k, p.o.TransA), element(p.b, j, k, p.n, p.k, !p.o.TransB), sum)
		}
		if p.o.Accumulate {
			c[at] = p.c[at]
		}
		for block := 0; block < pairs; block += depth {
			sum := float32(0)
			for k := block; k < min(block+depth, pairs); k++ {
				sum = product(2*k, product(2*k+1, sum))
			}
			c[at] += sum
		}
	}
	return c
}

// normal returns x rounded to bfloat16, and zero for a subnormal number.
func normal(x float32) float32 {
	if math.Abs(float64(x)) < 0x1p-126 {
		return 0
	}
	return math.Float32frombits(uint32(device.RoundBFloat16(x)) << 16)
}

// fma computes a*b + c, rounded once. The product is exact in float64; where the sum is not, its last bit is set, so that it cannot
// be taken for a tie (S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE TC 57, 2008).
func fma(a, b, c float32) float32 {
	x, y := float64(a)*float64(b), float64(c)
	sum := x + y
	part := sum - x
	rest := (x - (sum - part)) + (y - part)
	if bits := math.Float64bits(sum); rest != 0 && bits&1 == 0 {
		if (rest > 0) == (sum > 0) {
			bits++
		} else {
			bits--
		}
		sum = math.Float64frombits(bits)
	}
	return float32(sum)
}
