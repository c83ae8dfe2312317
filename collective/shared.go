package collective

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"lockstep/kernels/device"
)

// A shared is a group's transport where all of its members are on one host: memory that all of them see, with words to
// meet at and rings for messages, and the way into the symmetric memory of the others.
//
// Operations on small buffers go through slots, see slots.go. Others on symmetric memory, and on so little memory that copying
// it costs nothing, are done in place, see inplace.go. All others are messages between two members, whose links are rings,
// see ring.go.
//
// The memory begins with controlWords; then come memberWords, slots, a stage and a table of offsets for each member, and a
// ring for each pair.
type shared struct {
	group   *group
	locals  []int // the members' indexes among the ranks of this host
	control *controlWords
	members []*memberWords
	me      *memberWords
	slots   [][2]*slot
	stages  [][]byte
	sent    [][]uint64  // of each member: where the parts of its second buffer begin, and the end of the last
	links   []*ringLink // by position; nil at this member's own
	sending []*ringLink // those that have something queued

	stamp uint64 // the number of the last operation through slots or in place, see slots.go
	lone  uint64 // how many of them the last member does alone
	given [2]int // bytes in this member's slots
	spins int    // how often a wait looks before it gives way to other processes

	// unpublished is the running operation as long as it has not been published.
	unpublished *work

	// What one operation uses, kept so that it allocates nothing.
	views, dst, src [][]byte
	offsets         []int

	mu     sync.Mutex // guards what follows
	memory *mapping
	closed bool
}

const (
	// lineBytes keeps words that different members write in different cache lines, and in different pairs of lines, which
	// processors fetch together.
	lineBytes = 128
	// stageBytes is how much outside symmetric memory is copied to where the others reach it.
	stageBytes = 16 << 10
)

// A line is a word alone in its cache lines.
type line struct {
	atomic.Uint64
	_ [lineBytes - 8]byte
}

// controlWords are a group's words.
type controlWords struct {
	ready    line // members that have mapped the memory
	arrived  line // arrivals at operations that the last member does alone, since the group was made
	state    line // the number of such an operation<<stateBits | what has become of it
	sleepers line // members that sleep, or are about to
}

// memberWords are what one member writes, but for bell, and the others read.
type memberWords struct {
	// The operation that the member has entered last of those that are published, see publish.
	what     atomic.Uint64 // see header.what
	total    atomic.Uint64 // bytes of the buffer
	sequence atomic.Uint64 // its number
	gone     atomic.Uint32 // 1 once the member has left the group
	ready    atomic.Uint32 // 1 once it has mapped the memory
	_        [lineBytes - 32]byte
	finished line          // the stamp of the last operation of which the member has done its part
	bell     atomic.Uint32 // changes when the member shall wake
	asleep   atomic.Uint32 // 1 while it sleeps on bell, or is about to
	_        [lineBytes - 8]byte
	cores    coreSet // that the member may use
}

// A sharedLayout says where the parts of a group's memory begin.
type sharedLayout struct{ members, slots, stages, sent, rings, total int }

func layoutOf(p int) (l sharedLayout) {
	l.members = int(unsafe.Sizeof(controlWords{}))
	l.slots = l.members + p*int(unsafe.Sizeof(memberWords{}))
	l.stages = l.slots + 2*p*slotSize
	l.sent = l.stages + p*stageBytes
	l.rings = l.sent + p*sentBytes(p)
	l.total = l.rings + p*p*ringSize
	return l
}

// sentBytes is the size of a member's table of offsets.
func sentBytes(p int) int { return (8*(p+1) + lineBytes - 1) / lineBytes * lineBytes }

// share makes the memory of this host the group's transport. It returns when all members have done so.
func (w *World) share(g *group) error {
	l := layoutOf(g.Size())
	ctx, cancel := w.bounded()
	defer cancel()
	memory, err := w.local.sharing.common(ctx, g.id, slices.Sorted(slices.Values(g.ranks)), l.total, g.stalled)
	if err != nil {
		return err
	}
	s := newShared(g, memory, l)
	g.attach(s)
	s.me.cores = availableCores()
	s.me.ready.Store(1)
	all := uint64(g.Size())
	s.control.ready.Add(1)
	s.wakeAll()
	if err := s.await(func() bool { return s.control.ready.Load() == all }, s.notReady); err != nil {
		return err
	}
	s.spins = s.spinBudget()
	return nil
}

func newShared(g *group, memory *mapping, l sharedLayout) *shared {
	mem, p := memory.mem, g.Size()
	s := &shared{
		group: g, memory: memory, control: (*controlWords)(unsafe.Pointer(&mem[0])), links: make([]*ringLink, p),
		views: make([][]byte, p), dst: make([][]byte, 0, p), src: make([][]byte, 0, p),
	}
	for member, rank := range g.ranks {
		at := l.members + member*int(unsafe.Sizeof(memberWords{}))
		s.members = append(s.members, (*memberWords)(unsafe.Pointer(&mem[at])))
		at = l.slots + 2*member*slotSize
		s.slots = append(s.slots, [2]*slot{(*slot)(unsafe.Pointer(&mem[at])), (*slot)(unsafe.Pointer(&mem[at+slotSize]))})
		at = l.stages + member*stageBytes
		s.stages = append(s.stages, mem[at:at+stageBytes:at+stageBytes])
		at = l.sent + member*sentBytes(p)
		s.sent = append(s.sent, unsafe.Slice((*uint64)(unsafe.Pointer(&mem[at])), p+1))
		s.locals = append(s.locals, slices.Index(g.world.local.ranks, rank))
	}
	s.me = s.members[g.me]
	ringOf := func(from, to int) ring {
		at := l.rings + (from*p+to)*ringSize
		return newRing(mem[at : at+ringSize : at+ringSize])
	}
	for member := range g.ranks {
		if member != g.me {
			s.links[member] = &ringLink{shared: s, peer: member, out: ringOf(g.me, member), in: ringOf(member, g.me)}
		}
	}
	return s
}

// run does an operation through slots or in place where it can and reports whether it is done; if not, it is for an algorithm
// over links.
func (s *shared) run(w *work) (done bool, err error) {
	op := inPlaceOperations[w.kind]
	s.unpublished = w
	if op != nil {
		done, err = s.together(w, op)
	}
	if !done {
		s.publish()
	}
	s.unpublished = nil
	return done, err
}

// publish says which operation this member has entered, where all others see it at any time: members that have called
// different operations find out while they wait. An operation that goes on without a long wait is not published, since all
// members compare what they call there, see slots.go.
func (s *shared) publish() {
	w := s.unpublished
	if w == nil {
		return
	}
	s.unpublished = nil
	h := w.header(0, 0)
	s.me.sequence.Store(0) // until all is written
	s.me.what.Store(h.what())
	s.me.total.Store(h.total)
	s.me.sequence.Store(h.sequence)
	s.wakeAll()
}

// staged is the allocation of places in a member's stage.
const staged = 1<<(64-placeBits) - 1

// placeBuffers returns where the others reach an operation's buffers. Small ones that they do not reach where they are go
// into the stage.
func (s *shared) placeBuffers(w *work) (place, source uint64) {
	if w.kind == opAllToAll || w.kind == opAllToAllV {
		s.offsets = appendParts(s.offsets[:0], w.sent, w.src.Bytes, len(s.members))
		for i, offset := range s.offsets {
			s.sent[s.group.me][i] = uint64(offset)
		}
	}
	used := 0
	find := func(r device.Region) uint64 {
		place := s.group.world.place(r)
		if place == nowhere && used+r.Bytes <= stageBytes {
			place = staged<<placeBits | uint64(used)
			used += copy(s.stages[s.group.me][used:], r.Mapped())
		}
		return place
	}
	return find(w.buf), find(w.src)
}

// reachable reports whether every member's buffers are where the others reach them.
func (s *shared) reachable() bool {
	for i := range s.members {
		if slot := s.slot(i); slot.place == nowhere || slot.source == nowhere {
			return false
		}
	}
	return true
}

// reach returns the bytes [from, to) at a place in a member's memory.
func (s *shared) reach(member int, place uint64, from, to int) []byte {
	if place>>placeBits == staged {
		at := int(place & (1<<placeBits - 1))
		return s.stages[member][at+from : at+to]
	}
	return s.group.world.at(place, s.locals[member], from, to)
}

// operation returns what a member has published last, as a header; the zero header while that changes.
func (s *shared) operation(member int) header {
	m := s.members[member]
	sequence, what, total := m.sequence.Load(), m.what.Load(), m.total.Load()
	if m.sequence.Load() != sequence {
		return header{}
	}
	h := headerOf(what)
	h.total, h.sequence = total, sequence
	return h
}

// mismatch returns an error that names both operations, where a member has published another one in the place of this one's.
func (s *shared) mismatch() error {
	mine := s.operation(s.group.me)
	for member := range s.members {
		theirs := s.operation(member)
		if theirs != mine && theirs.sequence == mine.sequence {
			return theirs.check(&mine, s.group.ranks[member], s.group.name)
		}
	}
	return nil
}

// close leaves the group and gives its memory up. No operation runs.
func (s *shared) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.me.gone.Store(1)
	s.wakeAll()
	_ = s.memory.close() // what was mapped can be unmapped
}
