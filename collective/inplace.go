package collective

import "fmt"

// Operations in place, over shared memory: what the members have in symmetric memory (or in their stages) is read where it
// lies and results are written to where they belong, with no copy in between. For p members and buffers of n bytes, an
// all-reduce reads and writes p n bytes together; through messages, even in shared memory, it is more than twice that.
//
// All members arrive, with an atomic addition to one word. The last to arrive knows where all buffers are, and says, by
// another word, what becomes of the operation:
//
//	parts   each member does its own part of the operation; who finishes the last one releases all. What a member touches
//	        stays in its core's caches from one operation to the next.
//	done    the last member has done it all, alone: where members outnumber cores, small buffers wait less so, because the
//	        others need to run only once
//	links   some buffer is neither symmetric nor small: all take an algorithm over links
//	differ  the members have called different operations: all fail, and say which
//
// Nobody can arrive at the next operation before everybody has arrived at this one, so that the words need no resetting that
// could race: they count rounds.

// An inPlaceOperation does one part of an operation, of as many as there are members, on the members' buffers: s.views and,
// where the operation has two, s.sources. What it reads, no other part writes.
type inPlaceOperation func(s *shared, w *work, part int) error

// The states of an operation at which all have arrived.
const (
	stateDone = iota + 1
	stateParts
	stateLinks
	stateDiffer

	stateBits = 3
	stateMask = 1<<stateBits - 1
)

// aloneBytes is, for each member, the size up to which the last member does everything where members outnumber cores; see
// docs/benchmarks.md.
const aloneBytes = 8 << 10

var inPlaceOperations = [operationKinds]inPlaceOperation{
	opAllReduce:     (*shared).allReducePart,
	opReduceScatter: (*shared).reduceScatterPart,
	opAllGather:     (*shared).allGatherPart,
	opBroadcast:     (*shared).broadcastPart,
	opReduce:        (*shared).reducePart,
	opScatter:       (*shared).scatterPart,
	opGather:        (*shared).gatherPart,
	opAllToAll:      (*shared).allToAllPart,
	opAllToAllV:     (*shared).allToAllPart,
	opBarrier:       func(*shared, *work, int) error { return nil },
}

// together does an operation in place. It reports whether the operation is done; if not, it is for the links.
func (s *shared) together(w *work, op inPlaceOperation) (done bool, err error) {
	s.round++
	s.me.round.Store(s.round)
	if s.control.arrived.Add(1) == s.round*uint64(len(s.members)) {
		if err := s.open(w, op); err != nil {
			return false, err
		}
	} else if err := s.await(func() bool { return s.control.state.Load()>>stateBits == s.round }, s.notArrived); err != nil {
		return false, err
	}
	switch s.control.state.Load() & stateMask {
	case stateParts:
		if err := s.take(w, op); err != nil {
			return false, err
		}
	case stateLinks:
		return false, nil
	case stateDiffer:
		return false, s.mismatch()
	}
	if w.writes && s.me.place.Load()>>placeBits == staged {
		copy(w.buf.Mapped(), s.reach(s.group.me, s.me.place.Load(), 0, w.buf.Bytes))
	}
	return true, nil
}

// open decides what becomes of the operation, as the last member to arrive, and tells the others.
func (s *shared) open(w *work, op inPlaceOperation) error {
	state := uint64(stateParts)
	switch {
	case s.mismatch() != nil:
		state = stateDiffer
	case !s.reachable():
		state = stateLinks
	case s.alone(w):
		state = stateDone
		s.look(w)
		for part := range s.members {
			if err := op(s, w, part); err != nil {
				return err
			}
		}
	}
	s.control.finished.Store(0)
	s.control.state.Store(s.round<<stateBits | state)
	s.wakeAll()
	return nil
}

// alone reports whether the last member to arrive does everything. The members of an all-to-all-v know their own sizes only.
func (s *shared) alone(w *work) bool {
	small := s.spins == 0 && w.total <= aloneBytes*len(s.members)
	return w.kind == opBarrier || small && w.kind != opAllToAllV
}

// take does this member's part, and releases everybody if it was the last one; else it waits for that.
func (s *shared) take(w *work, op inPlaceOperation) error {
	s.look(w)
	if err := op(s, w, s.group.me); err != nil {
		return err
	}
	s.me.finished.Store(s.round)
	done := s.round<<stateBits | stateDone
	if s.control.finished.Add(1) == uint64(len(s.members)) {
		s.control.state.Store(done)
		s.wakeAll()
		return nil
	}
	return s.await(func() bool { return s.control.state.Load() == done }, s.notFinished)
}

// look fills in views, the members' buffers, and offsets, where their parts begin.
func (s *shared) look(w *work) {
	s.offsets = s.group.parts(w)
	if w.kind == opAllToAll || w.kind == opAllToAllV {
		return // whose sizes differ
	}
	for i, m := range s.members {
		n := w.total
		if (w.kind == opScatter || w.kind == opGather) && i != w.root {
			n = s.offsets[i+1] - s.offsets[i]
		}
		s.views[i] = s.reach(i, m.place.Load(), 0, n)
	}
}

// fold folds the bytes [from, to) of all members' buffers into the same bytes of those of the given ones.
func (s *shared) fold(w *work, into [][]byte, from, to int) {
	if from >= to {
		return
	}
	s.dst, s.src = s.dst[:0], s.src[:0]
	for _, v := range into {
		s.dst = append(s.dst, v[from:to:to])
	}
	for _, v := range s.views {
		s.src = append(s.src, v[from:to:to])
	}
	w.reduction.Fold(s.dst, s.src)
}

// evenly cuts n bytes into as many parts as there are members, at the borders of cache lines, and returns one.
func (s *shared) evenly(n, part int) (from, to int) {
	lines, p := (n+lineBytes-1)/lineBytes, len(s.members)
	return min(lines*part/p*lineBytes, n), min(lines*(part+1)/p*lineBytes, n)
}

func (s *shared) allReducePart(w *work, part int) error {
	from, to := s.evenly(w.total, part)
	s.fold(w, s.views, from, to)
	return nil
}

func (s *shared) reducePart(w *work, part int) error {
	from, to := s.evenly(w.total, part)
	s.fold(w, s.views[w.root:w.root+1], from, to)
	return nil
}

func (s *shared) reduceScatterPart(w *work, part int) error {
	s.fold(w, s.views[part:part+1], s.offsets[part], s.offsets[part+1])
	return nil
}

func (s *shared) allGatherPart(_ *work, part int) error {
	for i, from := range s.views {
		if i != part {
			copy(s.views[part][s.offsets[i]:s.offsets[i+1]], from[s.offsets[i]:])
		}
	}
	return nil
}

func (s *shared) broadcastPart(w *work, part int) error {
	if part != w.root {
		copy(s.views[part], s.views[w.root])
	}
	return nil
}

func (s *shared) scatterPart(w *work, part int) error {
	if part != w.root {
		copy(s.views[part], s.views[w.root][s.offsets[part]:])
	}
	return nil
}

func (s *shared) gatherPart(w *work, part int) error {
	if part != w.root {
		copy(s.views[w.root][s.offsets[part]:], s.views[part])
	}
	return nil
}

// allToAllPart fetches what the others have for one member. Where it begins in their buffers, they have published.
func (s *shared) allToAllPart(w *work, part int) error {
	to := s.reach(part, s.members[part].place.Load(), 0, s.offsets[len(s.members)])
	for i, m := range s.members {
		from, end := int(s.sent[i][part].Load()), int(s.sent[i][part+1].Load())
		if want := s.offsets[i+1] - s.offsets[i]; end-from != want {
			return fmt.Errorf("rank %d has %d bytes for rank %d, which expects %d; the sizes that members of group %s pass must agree",
				s.group.ranks[i], end-from, s.group.ranks[part], want, s.group.name)
		}
		copy(to[s.offsets[i]:s.offsets[i+1]], s.reach(i, m.source.Load(), from, end))
	}
	return nil
}
