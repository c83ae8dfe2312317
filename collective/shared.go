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
// Operations on symmetric memory, and on so little memory that copying it costs nothing, are done in place, see inplace.go.
// All others are messages between two members, whose links are rings, see ring.go.
//
// The memory begins with controlWords; then come memberWords, a stage and a table of offsets for each member, and a ring for
// each pair.
type shared struct {
	group   *group
	locals  []int // the members' indexes among the ranks of this host
	control *controlWords
	members []*memberWords
	me      *memberWords
	stages  [][]byte
	sent    [][]atomic.Uint64 // of each member: where the parts of its second buffer begin, and the end of the last
	links   []*ringLink       // by position; nil at this member's own
	sending []*ringLink       // those that have something queued

	round uint64 // operations in place that this member has arrived at
	spins int    // how often a wait looks before it gives way to other processes

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
	arrived  line // arrivals at operations in place, since the group was made
	state    line // round<<stateBits | a state: what becomes of the operation that all have arrived at
	finished line // members that have done their parts of it
	sleepers line // members that sleep, or are about to
}

// memberWords are what one member writes, but for bell, and the others read.
type memberWords struct {
	// The operation that the member has entered last.
	what     atomic.Uint64 // kind, data type, reduction and root
	total    atomic.Uint64 // bytes of the buffer
	sequence atomic.Uint64 // its number
	place    atomic.Uint64 // where the buffer is; see World.place
	source   atomic.Uint64 // where the second buffer is, of operations that have two
	round    atomic.Uint64 // of the operations in place, the last that the member has arrived at
	finished atomic.Uint64 // the last of them of which it has done its part
	gone     atomic.Uint32 // 1 once the member has left the group
	ready    atomic.Uint32 // 1 once it has mapped the memory
	_        [lineBytes - 64]byte
	bell     atomic.Uint32 // changes when the member shall wake
	asleep   atomic.Uint32 // 1 while it sleeps on bell, or is about to
	_        [lineBytes - 8]byte
	cores    coreSet // that the member may use
}

// A sharedLayout says where the parts of a group's memory begin.
type sharedLayout struct{ members, stages, sent, rings, total int }

func layoutOf(p int) (l sharedLayout) {
	l.members = int(unsafe.Sizeof(controlWords{}))
	l.stages = l.members + p*int(unsafe.Sizeof(memberWords{}))
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
		at = l.stages + member*stageBytes
		s.stages = append(s.stages, mem[at:at+stageBytes:at+stageBytes])
		at = l.sent + member*sentBytes(p)
		s.sent = append(s.sent, unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&mem[at])), p+1))
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

// run does an operation in place where it can and reports whether it is done; if not, it is for an algorithm over links.
// What it is, is published first, so that members which have called different operations find out while they wait.
func (s *shared) run(w *work) (done bool, err error) {
	op := inPlaceOperations[w.kind]
	s.publish(w, op != nil)
	if op == nil {
		return false, nil
	}
	return s.together(w, op)
}

// publish says which operation this member has entered and, if it is to be done in place, where its buffers are.
func (s *shared) publish(w *work, inPlace bool) {
	if inPlace {
		place, source := s.placeBuffers(w)
		s.me.place.Store(place)
		s.me.source.Store(source)
	}
	if w.kind == opAllToAll || w.kind == opAllToAllV {
		s.offsets = appendParts(s.offsets[:0], w.sent, w.src.Bytes, len(s.members))
		for i, offset := range s.offsets {
			s.sent[s.group.me][i].Store(uint64(offset))
		}
	}
	h := w.header(0, 0)
	s.me.sequence.Store(0) // until all is written
	s.me.what.Store(uint64(h.kind)<<48 | uint64(h.dtype)<<40 | uint64(h.op)<<32 | uint64(uint32(h.root)))
	s.me.total.Store(h.total)
	s.me.sequence.Store(h.sequence)
}

// staged is the allocation of places in a member's stage.
const staged = 1<<(64-placeBits) - 1

// placeBuffers returns where the others reach an operation's buffers. Small ones that they do not reach where they are go
// into the stage.
func (s *shared) placeBuffers(w *work) (place, source uint64) {
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
	for _, m := range s.members {
		if m.place.Load() == nowhere || m.source.Load() == nowhere {
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

// operation returns what a member has entered last, as a header; the zero header while that changes.
func (s *shared) operation(member int) header {
	m := s.members[member]
	sequence, what, total := m.sequence.Load(), m.what.Load(), m.total.Load()
	if m.sequence.Load() != sequence {
		return header{}
	}
	return header{
		kind: operationKind(what >> 48), dtype: device.DType(what >> 40), op: ReduceOp(what >> 32), root: int32(uint32(what)),
		total: total, sequence: sequence,
	}
}

// mismatch returns an error that names both operations, where a member has entered another one in the place of this one's.
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
