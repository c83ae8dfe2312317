// Package random makes the random numbers of a run. They have no state: each value is a function of the run's seed, what
// it is for, and its index, so that every layout of ranks draws the same ones and a resumed run needs no saved generator.
//
// The generator is Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
package random

import (
	"hash/fnv"
	"math"
	"math/bits"
)

// A Source draws the numbers for one purpose. Sources are values; use is safe from any number of goroutines.
type Source struct {
	key    [2]uint32
	stream uint64
}

// New returns the numbers of seed for a purpose, such as "init" or "shuffle", and what within it, such as a parameter's
// Hugging Face name.
func New(seed uint64, purpose, what string) Source {
	h := fnv.New64a()
	h.Write([]byte(purpose))
	h.Write([]byte{0})
	h.Write([]byte(what))
	return Source{key: [2]uint32{uint32(seed), uint32(seed >> 32)}, stream: h.Sum64()}
}

// block returns four words for counter i.
func (s Source) block(i uint64) [4]uint32 {
	return philox([4]uint32{uint32(i), uint32(i >> 32), uint32(s.stream), uint32(s.stream >> 32)}, s.key)
}

// Uint64 returns the i-th number.
func (s Source) Uint64(i uint64) uint64 {
	b := s.block(i / 2)
	k := i % 2 * 2
	return uint64(b[k]) | uint64(b[k+1])<<32
}

// Float64 returns the i-th number of the uniform distribution on [0, 1), with 53 random bits.
func (s Source) Float64(i uint64) float64 { return float64(s.Uint64(i)>>11) * 0x1p-53 }

// Normal fills dst with the numbers at indices first, first+1, ... of the standard normal distribution, by the method of
// Box and Muller on pairs: a value depends on its index alone, not on how a tensor is cut.
func (s Source) Normal(dst []float32, first uint64) {
	for k := range dst {
		i := first + uint64(k)
		b := s.block(i / 4)
		j := i % 4 / 2 * 2
		// u is in (0, 1], so that its logarithm is finite.
		u := (float64(b[j]) + 1) * 0x1p-32
		sin, cos := math.Sincos(2 * math.Pi * float64(b[j+1]) * 0x1p-32)
		r := math.Sqrt(-2 * math.Log(u))
		if i%2 == 0 {
			dst[k] = float32(r * cos)
		} else {
			dst[k] = float32(r * sin)
		}
	}
}

// philox is the ten-round bijection of counter c under key k.
func philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, c[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}
