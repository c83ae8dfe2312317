package random

import (
	"math"
	"testing"
)

// TestPhilox compares with the known-answer vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
func TestPhilox(t *testing.T) {
	for _, test := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{
			[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{
			[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := philox(test.counter, test.key); got != test.want {
			t.Errorf("philox(%08x, %08x) = %08x, the reference has %08x", test.counter, test.key, got, test.want)
		}
	}
}

func TestSourcesDiffer(t *testing.T) {
	base := New(1, "init", "lm_head.weight")
	if base != New(1, "init", "lm_head.weight") {
		t.Error("a source is not a function of its arguments")
	}
	// The separator keeps the two names apart; both halves of the seed count.
	for _, other := range []Source{
		New(2, "init", "lm_head.weight"), New(1<<32|1, "init", "lm_head.weight"), New(1, "shuffle", "lm_head.weight"),
		New(1, "init", "model.norm.weight"), New(1, "initl", "m_head.weight"),
	} {
		if other.Uint64(0) == base.Uint64(0) || other.Uint64(7) == base.Uint64(7) {
			t.Errorf("%v draws the numbers of %v", other, base)
		}
	}
}

func TestUint64TakesEachWordOnce(t *testing.T) {
	s := New(42, "test", "words")
	seen := map[uint64]uint64{}
	for i := range uint64(1000) {
		v := s.Uint64(i)
		if j, ok := seen[v]; ok {
			t.Fatalf("numbers %d and %d are both %#x", j, i, v)
		}
		seen[v] = i
	}
}

func TestFloat64(t *testing.T) {
	s := New(42, "test", "uniform")
	const n = 100_000
	sum, squares := 0.0, 0.0
	for i := range uint64(n) {
		v := s.Float64(i)
		if v < 0 || v >= 1 {
			t.Fatalf("number %d is %v, outside [0, 1)", i, v)
		}
		sum += v
		squares += v * v
	}
	mean, variance := sum/n, squares/n-(sum/n)*(sum/n)
	// Five standard deviations of the estimates.
	if math.Abs(mean-0.5) > 5*math.Sqrt(1.0/12/n) || math.Abs(variance-1.0/12) > 5*math.Sqrt(1.0/180/n) {
		t.Errorf("mean %v and variance %v, expected 1/2 and 1/12", mean, variance)
	}
}

func TestNormalMoments(t *testing.T) {
	const n = 200_000
	x := make([]float32, n)
	New(42, "test", "normal").Normal(x, 0)
	var m [5]float64
	lag, cross := 0.0, 0.0 // of neighbours, which share a pair or a block
	for i, v := range x {
		p := 1.0
		for k := range m {
			m[k] += p / n
			p *= float64(v)
		}
		if i > 0 {
			lag += float64(v) * float64(x[i-1]) / n
			cross += float64(v*v) * float64(x[i-1]*x[i-1]) / n
		}
	}
	// The variances of the estimates are E[x^2k] - E[x^k]^2: 1, 2, 15, 96; of the products 1 and 8 (and their overlaps).
	for k, want := range map[int][2]float64{1: {0, 1}, 2: {1, 2}, 3: {0, 15}, 4: {3, 96}} {
		if math.Abs(m[k]-want[0]) > 5*math.Sqrt(want[1]/n) {
			t.Errorf("moment %d is %v, expected %v", k, m[k], want[0])
		}
	}
	if math.Abs(lag) > 5*math.Sqrt(1.0/n) || math.Abs(cross-1) > 5*math.Sqrt(16.0/n) {
		t.Errorf("neighbours depend on each other: E[xy] = %v, E[x^2 y^2] = %v", lag, cross)
	}
}

// TestNormalIsAFunctionOfTheIndex draws the same range in pieces that cut pairs and blocks apart.
func TestNormalIsAFunctionOfTheIndex(t *testing.T) {
	s := New(3, "test", "pieces")
	whole := make([]float32, 101)
	s.Normal(whole, 1<<33)
	for _, size := range []int{1, 2, 3, 7} {
		for at := 0; at < len(whole); at += size {
			piece := make([]float32, min(size, len(whole)-at))
			s.Normal(piece, 1<<33+uint64(at))
			for i, v := range piece {
				if v != whole[at+i] {
					t.Fatalf("pieces of %d: number %d is %v, not %v", size, at+i, v, whole[at+i])
				}
			}
		}
	}
}
