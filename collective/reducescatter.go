package collective

// Reduce-scatter of n bytes over p members; q and k as in allreduce.go.
//
// Direct: each member sends every other its part; each folds the p versions of its own part in one pass, segment by
// segment, in the order of the tree. Steps: 1, of p-1 messages. Bytes sent by each member: n (p-1)/p.
//
// Halving: as in allreduce.go, but what a member gives away in step i are the parts of those members whose position
// differs in bit i from its own, so that part i ends up at member i in the order of the aligned tree. Where p is no power
// of two, member q+i first sends its vector to i and gets its part from there. Steps: k (+ 2). Bytes sent by each member:
// n (q-1)/q, and n or a part more for those concerned.
//
// Ring: in step s a member sends the part s+1 before its own to its right neighbour and folds what comes from the left
// into the part before that. Steps: p-1. Bytes sent by each member: n (p-1)/p. The order of the sum depends on the part, so
// it needs Options.AnyOrder.
//
// Two-level: see twolevel.go.

func (g *group) reduceScatter(w *work, mem []byte) error {
	offsets := g.parts(w)
	if w.algorithm == TwoLevel {
		return g.twoLevelReduceScatter(w, mem, offsets)
	}
	return g.teams.all.reduceScatter(w, mem, offsets)
}

func (t *team) reduceScatter(w *work, mem []byte, offsets []int) error {
	switch w.algorithm {
	case Direct:
		return t.directReduceScatter(w, mem, inOrder(offsets))
	case Ring:
		return t.ringReduceScatter(w, mem, offsets)
	}
	core, mine := t.core(), mem[offsets[t.me]:offsets[t.me+1]]
	if t.me >= core {
		if err := t.sendTo(w, stepFoldIn, t.me-core, mem); err != nil {
			return err
		}
		return t.receiveFrom(w, stepFoldOut, t.me-core, mine)
	}
	extra := t.me + core
	if extra < t.size {
		if err := t.foldFrom(w, stepFoldIn, extra, mem); err != nil {
			return err
		}
	}
	step := stepReduce
	for bit := 1; bit < core; bit *= 2 {
		if err := t.halveParts(w, step, bit, mem, offsets); err != nil {
			return err
		}
		step++
	}
	if extra < t.size {
		return t.sendTo(w, stepFoldOut, extra, mem[offsets[extra]:offsets[extra+1]])
	}
	return nil
}

// halveParts is one step of halving: of the parts that this member still holds, those of members that equal it in the bits
// below bit, it gives away and keeps half, by that bit.
func (t *team) halveParts(w *work, step, bit int, mem []byte, offsets []int) error {
	peer := t.me ^ bit
	given, kept := 0, 0
	for j := range t.size {
		n := offsets[j+1] - offsets[j]
		switch (j ^ t.me) & (2*bit - 1) {
		case 0:
			kept += n
		case bit:
			given += n
		}
	}
	if err := t.send(w, step, peer, given, nil); err != nil {
		return err
	}
	for j := peer & (2*bit - 1); j < t.size; j += 2 * bit {
		if err := t.more(peer, mem[offsets[j]:offsets[j+1]]); err != nil {
			return err
		}
	}
	if err := t.receive(w, step, peer, kept); err != nil {
		return err
	}
	for j := t.me & (2*bit - 1); j < t.size; j += 2 * bit {
		if err := t.foldRead(w, peer, mem[offsets[j]:offsets[j+1]]); err != nil {
			return err
		}
	}
	return t.flush(peer)
}

func (t *team) directReduceScatter(w *work, mem []byte, parts partition) error {
	if t.size == 1 {
		return nil
	}
	mine := parts.of(mem, t.me)
	for i := 1; i < t.size; i++ {
		to := t.wrap(t.me + i)
		out := parts.of(mem, to)
		if err := t.send(w, stepReduce, to, len(out), out); err != nil {
			return err
		}
	}
	for i := 1; i < t.size; i++ {
		if err := t.receive(w, stepReduce, t.wrap(t.me-i), len(mine)); err != nil {
			return err
		}
	}
	// All versions of a segment together stay in the second-level cache.
	segment := w.segment(2 * t.g.segment / t.size)
	for len(mine) > 0 {
		part := mine[:min(segment, len(mine))]
		if err := t.foldAll(w, part); err != nil {
			return err
		}
		mine = mine[len(part):]
	}
	return t.flushAll()
}

// foldAll reads all other members' versions of part and folds them with this member's own.
func (t *team) foldAll(w *work, part []byte) error {
	n, s := len(part), &t.g.scratch
	stride := (n + 63) / 64 * 64 // each aligned for any type
	theirs := s.bytes(stride * t.size)
	s.src = s.src[:0]
	for member := range t.size {
		if member == t.me {
			s.src = append(s.src, part)
			continue
		}
		version := theirs[member*stride:][:n]
		if err := t.read(member, version); err != nil {
			return err
		}
		s.src = append(s.src, version)
	}
	s.dst = append(s.dst[:0], part)
	w.reduction.Fold(s.dst, s.src)
	return nil
}

// flushAll waits until what was sent to the other members has left its memory.
func (t *team) flushAll() error {
	for i := 1; i < t.size; i++ {
		if err := t.flush(t.wrap(t.me + i)); err != nil {
			return err
		}
	}
	return nil
}

func (t *team) ringReduceScatter(w *work, mem []byte, offsets []int) error {
	right, left := t.wrap(t.me+1), t.wrap(t.me-1)
	part := func(member int) []byte {
		member = t.wrap(member)
		return mem[offsets[member]:offsets[member+1]]
	}
	for step := range t.size - 1 {
		out := part(t.me - step - 1)
		if err := t.send(w, stepReduce+step, right, len(out), out); err != nil {
			return err
		}
		if err := t.foldFrom(w, stepReduce+step, left, part(t.me-step-2)); err != nil {
			return err
		}
		if err := t.flush(right); err != nil {
			return err
		}
	}
	return nil
}
