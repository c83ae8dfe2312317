package data

import (
	"math/bits"
	"strconv"

	"lockstep/spmd/random"
)

// feistelRounds is the number of rounds of the network. Four make a good random function into a permutation that no
// test of polynomial effort tells from a random one (Luby, Rackoff, "How to Construct Pseudorandom Permutations from
// Pseudorandom Functions", SIAM J. Comput. 17, 1988); their bound is loose for small domains, so there are eight.
const feistelRounds = 8

// A permutation is a bijection of 0..n-1 that needs no table, so that the order of a data set of any size costs
// nothing to hold, and place i of any epoch is computed alone.
//
// It is a Feistel network over Philox on the numbers of 2*half bits, the smallest even width that holds n-1. A result
// of n or more goes through the network again, until it falls below n (cycle walking: Black, Rogaway, "Ciphers with
// Arbitrary Finite Domains", CT-RSA 2002); as the domain is at most 4n wide, that takes fewer than 4 turns on average.
type permutation struct {
	round random.Source
	n     uint64
	half  int
}

// newPermutation returns the order of an epoch with n samples of a part.
func newPermutation(seed uint64, part int, epoch int64, n uint64) permutation {
	name := strconv.FormatInt(epoch, 10)
	if part > 0 {
		name += "/" + strconv.Itoa(part)
	}
	return permutation{
		round: random.New(seed, "shuffle", name),
		n:     n,
		half:  (bits.Len64(n-1) + 1) / 2,
	}
}

// at returns the image of i, which is below n.
func (p permutation) at(i uint64) uint64 {
	if p.n <= 1 {
		return 0
	}
	mask := uint64(1)<<p.half - 1
	for {
		left, right := i>>p.half, i&mask
		for r := range uint64(feistelRounds) {
			left, right = right, left^p.round.Uint64(r<<32|right)&mask
		}
		if i = left<<p.half | right; i < p.n {
			return i
		}
	}
}
