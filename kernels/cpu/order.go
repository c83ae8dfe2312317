package cpu

import (
	"math/bits"
	"sync"
)

// orderedIDs is how many ids are sorted at a time. Operators take longer lists in pieces, in order.
const orderedIDs = 32 << 10

// An orderEntry is an id with its position in the list that it comes from; entries compare by id, then position.
type orderEntry uint64

func newOrderEntry(id, position int) orderEntry { return orderEntry(id)<<32 | orderEntry(position) }

func (e orderEntry) id() int       { return int(e >> 32) }
func (e orderEntry) position() int { return int(e & (1<<32 - 1)) }

// An idOrder sorts the ids of an operator. It is the device's, so that sorting allocates nothing; mu is held by the
// operator that uses it.
type idOrder struct {
	mu      sync.Mutex
	entries []orderEntry // sorted
	memory  [2][orderedIDs]orderEntry
}

// digitBits is what one pass of the sort looks at: its counters fit the fastest cache.
const digitBits = 8

// sort makes entries the ids, of which the first has the given position, in ascending order, equal ones in the order of
// their positions; negative ids are left out. It is a radix sort from the lowest digit up (D. Knuth, "The Art of Computer Programming", vol. 3,
// section 5.2.5), of as many passes as the largest id has digits.
func (o *idOrder) sort(ids []int32, position int) {
	from, largest := o.memory[0][:0], 0
	for i, id := range ids {
		if id >= 0 {
			from = append(from, newOrderEntry(int(id), position+i))
			largest = max(largest, int(id))
		}
	}
	to := o.memory[1][:len(from)]
	for shift := 32; shift < 32+bits.Len(uint(largest)); shift += digitBits {
		var start [1 << digitBits]int32
		for _, e := range from {
			start[e>>shift%(1<<digitBits)]++
		}
		sum := int32(0)
		for digit, n := range start {
			start[digit] = sum
			sum += n
		}
		for _, e := range from {
			digit := e >> shift % (1 << digitBits)
			to[start[digit]] = e
			start[digit]++
		}
		from, to = to, from
	}
	o.entries = from
}
