package data

// An mt19937 is the Mersenne Twister (Matsumoto and Nishimura, ACM Trans. Model. Comput. Simul. 8, 1998), seeded and used as by
// numpy.random.RandomState(seed).shuffle, which draws the orders of Megatron-Core.
type mt19937 struct {
	state [624]uint32
	next  int
}

func newMT19937(seed uint32) *mt19937 {
	m := &mt19937{next: 624}
	for i := range m.state {
		m.state[i] = seed
		seed = 1812433253*(seed^seed>>30) + uint32(i) + 1
	}
	return m
}

// uint32 returns the next number.
func (m *mt19937) uint32() uint32 {
	if m.next == len(m.state) {
		m.twist()
	}
	y := m.state[m.next]
	m.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (m *mt19937) twist() {
	const n, middle = 624, 397
	for i := range n {
		y := m.state[i]&0x80000000 | m.state[(i+1)%n]&0x7fffffff
		m.state[i] = m.state[(i+middle)%n] ^ y>>1 ^ (y&1)*0x9908b0df
	}
	m.next = 0
}

// upTo returns a number from 0 to most: bits are drawn until they are not above it, 32 at a time where they suffice.
func (m *mt19937) upTo(most uint64) uint64 {
	mask := most
	for shift := 1; shift < 64; shift *= 2 {
		mask |= mask >> shift
	}
	for {
		draw := uint64(m.uint32())
		if most > 1<<32-1 {
			draw = draw<<32 | uint64(m.uint32())
		}
		if draw &= mask; draw <= most {
			return draw
		}
	}
}

// shuffle permutes n elements as RandomState.shuffle does an array.
func shuffle[T any](m *mt19937, elements []T) {
	for i := len(elements) - 1; i > 0; i-- {
		j := m.upTo(uint64(i))
		elements[i], elements[j] = elements[j], elements[i]
	}
}

// normalize divides weights by their sum, which is taken in the order of numpy.sum.
func normalize(weights []float64) []float64 {
	sum := pairwiseSum(weights)
	normalized := make([]float64, len(weights))
	for i, w := range weights {
		normalized[i] = w / sum
	}
	return normalized
}

// pairwiseSum is numpy's sum: up to 128 numbers in eight interleaved sums, more in two halves.
func pairwiseSum(x []float64) float64 {
	n := len(x)
	switch {
	case n < 8:
		sum := 0.0
		for _, v := range x {
			sum += v
		}
		return sum
	case n > 128:
		half := n / 2
		half -= half % 8
		return pairwiseSum(x[:half]) + pairwiseSum(x[half:])
	}
	var r [8]float64
	copy(r[:], x)
	i := 8
	for ; i < n-n%8; i += 8 {
		for k := range r {
			r[k] += x[i+k]
		}
	}
	sum := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
	for ; i < n; i++ {
		sum += x[i]
	}
	return sum
}
