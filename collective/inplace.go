package collective

import "fmt"

// Operations in place, over shared memory: what the members have in symmetric memory (or in their stages) is read where it
// lies and results are written to where they belong, with no copy in between. For p members and buffers of n bytes, an
// all-reduce reads and writes p n bytes together; through messages, even in shared memory, it is more than twice that.
//
// The members arrive as at operations through slots (see slots.go), with the places of their buffers in the slots. Each
// then does its own part of the operation and waits until all have done theirs. What a member touches stays in its core's
// caches from one operation to the next. If some buffer is neither symmetric nor small, all see that in the slots and take an
// algorithm over links.
//
// Where members outnumber cores, small buffers wait less if the last member to arrive does everything, because the others
// need to run only once. They arrive with an atomic addition to one word, too, and another word then says what has become
// of the operation.

// An inPlaceOperation does one part of an operation, of as many as there are members, on the members' buffers: s.views and,
// where the operation has two, s.sources. What it reads, no other part writes.
type inPlaceOperation func(s *shared, w *work, part int) error

// What has become of an operation that the last member was to do alone.
const (
	stateDone   = iota + 1
	stateLinks  // it is for the links
	stateDiffer // the members have called different operations

	stateBits = 2
	stateMask = 1<<stateBits - 1
)

// aloneBytes is, for each member, the size up to which the last member does everything where members outnumber cores; see
// docs/benchmarks.md.
const aloneBytes = 16 << 10

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

// together does an operation through slots or in place. It reports whether the operation is done; if not, it is for the links.
func (s *shared) together(w *work, op inPlaceOperation) (done bool, err error) {
	small := s.slotted(w)
	s.arrive(w, small)
	if s.alone(w) {
		return s.leaveToLast(w, op)
	}
	if err := s.awaitArrivals(); err != nil {
		return false, err
	}
	switch {
	case small:
		s.takeFromSlots(w)
		return true, nil
	case !s.reachable():
		return false, nil
	}
	s.look(w)
	if err := op(s, w, s.group.me); err != nil {
		return false, err
	}
	s.me.finished.Store(s.stamp)
	s.wakeAll()
	for member, m := range s.members {
		if err := s.await(func() bool { return m.finished.Load() == s.stamp }, func() int { return member }); err != nil {
			return false, err
		}
	}
	s.unstage(w)
	return true, nil
}

// alone reports whether the last member to arrive does everything. The members of an all-to-all-v know their own sizes only.
func (s *shared) alone(w *work) bool {
	return s.spins == 0 && w.total <= aloneBytes*len(s.members) && w.kind != opAllToAllV
}

// leaveToLast does an operation as the last member to arrive, or waits until that one has done it.
func (s *shared) leaveToLast(w *work, op inPlaceOperation) (done bool, err error) {
	s.lone++
	if s.control.arrived.Add(1) == s.lone*uint64(len(s.members)) {
		state, err := s.doAlone(w, op)
		if err != nil {
			return false, err
		}
		s.control.state.Store(s.lone<<stateBits | state)
		s.wakeAll()
	} else if err := s.await(func() bool { return s.control.state.Load()>>stateBits == s.lone }, s.notArrived); err != nil {
		return false, err
	}
	switch s.control.state.Load() & stateMask {
	case stateLinks:
		return false, nil
	case stateDiffer:
		return false, s.awaitArrivals()
	}
	s.unstage(w)
	return true, nil
}

// doAlone does all parts of an operation, or says why not.
func (s *shared) doAlone(w *work, op inPlaceOperation) (state uint64, err error) {
	switch {
	case s.awaitArrivals() != nil:
		return stateDiffer, nil
	case !s.reachable():
		return stateLinks, nil
	}
	s.look(w)
	for part := range s.members {
		if err := op(s, w, part); err != nil {
			return 0, err
		}
	}
	return stateDone, nil
}

// unstage fetches a result that lies in the stage.
func (s *shared) unstage(w *work) {
	if place := s.slot(s.group.me).place; w.writes && place>>placeBits == staged {
		copy(w.buf.Mapped(), s.reach(s.group.me, place, 0, w.buf.Bytes))
	}
}

// look fills in views, the members' buffers, and offsets, where their parts begin.
func (s *shared) look(w *work) {
	s.offsets = s.group.parts(w)
	if w.kind == opAllToAll || w.kind == opAllToAllV {
		return // whose sizes differ
	}
	for i := range s.members {
		n := w.total
		if (w.kind == opScatter || w.kind == opGather) && i != w.root {
			n = s.offsets[i+1] - s.offsets[i]
		}
		s.views[i] = s.reach(i, s.slot(i).place, 0, n)
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
	to := s.reach(part, s.slot(part).place, 0, s.offsets[len(s.members)])
	for i := range s.members {
		from, end := int(s.sent[i][part]), int(s.sent[i][part+1])
		if want := s.offsets[i+1] - s.offsets[i]; end-from != want {
			return fmt.Errorf("rank %d has %d bytes for rank %d, which expects %d; the sizes that members of group %s pass must agree",
				s.group.ranks[i], end-from, s.group.ranks[part], want, s.group.name)
		}
		copy(to[s.offsets[i]:s.offsets[i+1]], s.reach(i, s.slot(i).source, from, end))
	}
	return nil
}
