package collective

import (
	"sync/atomic"
	"unsafe"
)

// How members arrive at an operation in shared memory, and operations on small buffers, which need no more than that.
//
// Each member has slots, which it writes and the others read: it says there which operation it calls and where its buffers
// are, stamps the slot with the operation's number, and waits for the others' stamps. So it takes one change of a word, seen
// by all, until everybody knows everything, and all find out there if they have called different operations.
//
// What the others need of a small buffer goes into the slot as well. When all stamps are there, each member takes what it
// needs from the slots: of an all-reduce, it folds all versions itself, in the order of the tree. That everybody reads
// everything costs less than a second wait would, as long as there is little of it.
//
// A member uses two slots in turn. It writes to one of them again two operations later, before which it has seen all stamps
// of the operation between; those were made by members that had left the one before. So nobody waits for others to leave.

const (
	// slotBytes is how much fits a slot. An operation goes through slots if its whole buffer fits one, and if a member reads
	// no more than slotsBytes from all slots together; see docs/benchmarks.md.
	slotBytes  = 4 << 10
	slotsBytes = 16 << 10
)

// A slot is what one member says at an operation. But for the stamp, which is written last, it needs no atomic words.
type slot struct {
	stamp    atomic.Uint64
	what     uint64 // see header.what
	total    uint64 // bytes of the buffer
	sequence uint64 // the operation's number in the group
	place    uint64 // where the buffer is, if the operation is done in place; see World.place
	source   uint64 // where the second buffer is, of operations that have two
	_        [lineBytes/2 - 48]byte
	data     [slotBytes]byte
	_        [lineBytes / 2]byte
}

const slotSize = int(unsafe.Sizeof(slot{}))

// slot returns a member's slot of the present operation.
func (s *shared) slot(member int) *slot { return s.slots[member][s.stamp%2] }

// slotted reports whether an operation goes through slots, which all members answer alike. Where members outnumber cores, it
// is better if the last one does it all, see inplace.go.
func (s *shared) slotted(w *work) bool {
	switch w.kind {
	case opAllReduce, opReduce, opAllGather, opBroadcast, opBarrier:
		return s.spins > 0 && w.total <= slotBytes && w.total*len(s.members) <= slotsBytes
	}
	return false
}

// arrive fills in this member's slot and stamps it.
func (s *shared) arrive(w *work, small bool) {
	s.stamp++
	h, mine := w.header(0, 0), s.slot(s.group.me)
	mine.what, mine.total, mine.sequence = h.what(), h.total, h.sequence
	if small {
		s.given[s.stamp%2] = copy(mine.data[:], s.gives(w))
	} else {
		mine.place, mine.source = s.placeBuffers(w)
	}
	mine.stamp.Store(s.stamp)
	s.wakeAll()
}

// awaitArrivals waits until all members have arrived, and compares their operations.
func (s *shared) awaitArrivals() error {
	mine := s.slot(s.group.me)
	for member := range s.members {
		theirs := s.slot(member)
		if err := s.await(func() bool { return theirs.stamp.Load() == s.stamp }, func() int { return member }); err != nil {
			return err
		}
		if theirs.what != mine.what || theirs.total != mine.total || theirs.sequence != mine.sequence {
			s.publish() // for members that wait in the other operation
			want := mine.operation()
			got := theirs.operation()
			return got.check(&want, s.group.ranks[member], s.group.name)
		}
	}
	return nil
}

// operation returns the operation that the slot belongs to.
func (s *slot) operation() header {
	h := headerOf(s.what)
	h.total, h.sequence = s.total, s.sequence
	return h
}

// gives returns what the others need of this member's buffer.
func (s *shared) gives(w *work) []byte {
	switch mem := w.buf.Mapped(); w.kind {
	case opAllReduce, opReduce:
		return mem
	case opBroadcast:
		if s.group.me == w.root {
			return mem
		}
	case opAllGather:
		offsets := s.group.parts(w)
		return mem[offsets[s.group.me]:offsets[s.group.me+1]]
	}
	return nil
}

// takeFromSlots fills this member's buffer from all slots.
func (s *shared) takeFromSlots(w *work) {
	switch mem := w.buf.Mapped(); w.kind {
	case opAllReduce, opReduce:
		if len(mem) > 0 && (w.kind == opAllReduce || s.group.me == w.root) {
			s.dst, s.src = append(s.dst[:0], mem), s.src[:0]
			for member := range s.members {
				s.src = append(s.src, s.slot(member).data[:len(mem):len(mem)])
			}
			w.reduction.Fold(s.dst, s.src)
		}
	case opBroadcast:
		if s.group.me != w.root {
			copy(mem, s.slot(w.root).data[:])
		}
	case opAllGather:
		offsets := s.group.parts(w)
		for member := range s.members {
			if member != s.group.me {
				copy(mem[offsets[member]:offsets[member+1]], s.slot(member).data[:])
			}
		}
	}
	s.fetchNext()
}

// fetchNext writes to the lines that this member's other slot was filled up to, so that they come back from the caches of
// those that have read them before the next operation needs them. The first one, with the stamp, would be waited for.
func (s *shared) fetchNext() {
	next := (s.stamp + 1) % 2
	data := s.slots[s.group.me][next].data[:s.given[next]]
	for i := lineBytes / 2; i < len(data); i += lineBytes / 2 {
		data[i] = 0
	}
}
