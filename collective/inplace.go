package collective

// Operations in place, over shared memory: what the members have in symmetric memory (or in their stages) is read where it
// lies and results are written to where they belong, with no copy in between. For p members and buffers of n bytes, an
// all-reduce reads and writes p n bytes together; through messages, even in shared memory, it is more than twice that.
//
// All members arrive, with an atomic addition to one word. The last to arrive knows where all buffers are, and says, by
// another word, what becomes of the operation:
//
//	last    the last member does it all, alone; the others wait for one change of one word: the quickest for small buffers
//	steal   it is cut into parts, which members take one after another, as long as there are any: nobody waits for one
//	        that is slow to wake, or whose core does something else
//	static  each member does its own part: large buffers, whose parts then stay in the same core's caches
//	links   some buffer is neither symmetric nor small: all take the algorithm over links
//	differ  the members have called different operations: all fail, and say which
//
// Who finishes the last part releases all. Nobody can arrive at the next operation before everybody has arrived at this
// one, so that the words need no resetting that could race: they count rounds.
type inPlaceOperation struct {
	// plan says who does how many parts of an operation on buffers of n bytes.
	plan func(n, p int) (state uint64, parts int)
	// part does one of several parts. Any member may do it, so it works on the members' buffers, s.views.
	part func(s *shared, w *work, part, parts int)
}

// The states of an operation at which all have arrived.
const (
	stateDone = iota + 1
	stateSteal
	stateStatic
	stateLinks
	stateDiffer

	stateBits = 3
	stateMask = 1<<stateBits - 1
)

// The sizes from which another plan is faster; see docs/benchmarks.md.
const (
	lastBytes  = 16 << 10 // up to here the last member does it all
	stealBytes = 2 << 20  // up to here parts are taken as members come
	chunkBytes = 16 << 10 // a part that is taken
)

var inPlaceOperations = [operationKinds]inPlaceOperation{
	opAllReduce: {planReduction, (*shared).reducePart},
	opAllGather: {planCopies, (*shared).gatherPart},
	opBroadcast: {planCopies, (*shared).broadcastPart},
	opBarrier:   {planNothing, func(*shared, *work, int, int) {}},
}

func planReduction(n, p int) (uint64, int) {
	switch {
	case n <= lastBytes:
		return stateDone, 1
	case n <= stealBytes:
		return stateSteal, (n + chunkBytes - 1) / chunkBytes
	}
	return stateStatic, p
}

// planCopies lets each member fetch what it gets, so that it ends in its own caches.
func planCopies(n, p int) (uint64, int) {
	if n <= lastBytes/4 {
		return stateDone, 1
	}
	return stateStatic, p
}

func planNothing(int, int) (uint64, int) { return stateDone, 1 }

// together does an operation in place. It reports whether the operation is done; if not, it is for the links.
func (s *shared) together(w *work, op *inPlaceOperation) (done bool, err error) {
	s.round++
	s.me.round.Store(s.round)
	if s.control.arrived.Add(1) == s.round*uint64(len(s.members)) {
		s.open(w, op)
	} else if err := s.await(func() bool { return s.control.state.Load()>>stateBits == s.round }, s.notArrived); err != nil {
		return false, err
	}
	_, parts := op.plan(w.buf.Bytes, len(s.members))
	switch s.control.state.Load() & stateMask {
	case stateSteal:
		for part := s.control.next.Add(1) - 1; part < uint64(parts); part = s.control.next.Add(1) - 1 {
			s.do(w, op, int(part), parts)
		}
	case stateStatic:
		s.do(w, op, s.group.me, parts)
	case stateLinks:
		return false, nil
	case stateDiffer:
		return false, s.mismatch()
	}
	finished := s.round<<stateBits | stateDone
	if err := s.await(func() bool { return s.control.state.Load() == finished }, s.notArrived); err != nil {
		return false, err
	}
	if w.writes && s.me.place.Load() == staged {
		copy(w.buf.Mapped(), s.stages[s.group.me])
	}
	return true, nil
}

// open decides what becomes of the operation, as the last member to arrive, and tells the others.
func (s *shared) open(w *work, op *inPlaceOperation) {
	state, parts := op.plan(w.buf.Bytes, len(s.members))
	switch {
	case s.mismatch() != nil:
		state = stateDiffer
	case w.buf.Bytes > 0 && !s.reachable():
		state = stateLinks
	case state == stateDone:
		s.look(w)
		for part := range parts {
			op.part(s, w, part, parts)
		}
	}
	s.control.next.Store(0)
	s.control.finished.Store(0)
	s.control.state.Store(s.round<<stateBits | state)
	s.wakeAll()
}

// reachable reports whether every member's buffer is where the others reach it.
func (s *shared) reachable() bool {
	for _, m := range s.members {
		if m.place.Load() == nowhere {
			return false
		}
	}
	return true
}

// look fills in views, the members' buffers.
func (s *shared) look(w *work) {
	for i, m := range s.members {
		switch place := m.place.Load(); {
		case w.buf.Bytes == 0:
			s.views[i] = nil
		case place == staged:
			s.views[i] = s.stages[i][:w.buf.Bytes]
		default:
			s.views[i] = s.group.world.at(place, s.locals[i], w.buf.Bytes)
		}
	}
}

// do does a part, and releases everybody if it was the last one.
func (s *shared) do(w *work, op *inPlaceOperation, part, parts int) {
	s.look(w)
	op.part(s, w, part, parts)
	if s.control.finished.Add(1) == uint64(parts) {
		s.control.state.Store(s.round<<stateBits | stateDone)
		s.wakeAll()
	}
}

// reducePart folds a part of all buffers into the same part of all.
func (s *shared) reducePart(w *work, part, parts int) {
	blocks := (w.buf.Bytes + lineBytes - 1) / lineBytes
	from, to := blocks*part/parts*lineBytes, min(blocks*(part+1)/parts*lineBytes, w.buf.Bytes)
	if from >= to {
		return
	}
	s.dst = s.dst[:0]
	for _, v := range s.views {
		s.dst = append(s.dst, v[from:to:to])
	}
	s.src = append(s.src[:0], s.dst...)
	w.reduction.Fold(s.dst, s.src)
}

// gatherPart fetches the other members' parts of the buffer for one or, as the only part, for all.
func (s *shared) gatherPart(w *work, part, parts int) {
	offsets := s.group.parts(w)
	for i, to := range s.views {
		if parts > 1 && i != part {
			continue
		}
		for j, from := range s.views {
			if i != j {
				copy(to[offsets[j]:offsets[j+1]], from[offsets[j]:])
			}
		}
	}
}

// broadcastPart fetches the root's buffer for one member or, as the only part, for all.
func (s *shared) broadcastPart(w *work, part, parts int) {
	for i, to := range s.views {
		if i != w.root && (parts == 1 || i == part) {
			copy(to, s.views[w.root])
		}
	}
}
