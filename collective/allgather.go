package collective

// All-gather of p parts, n bytes in all.
//
// Doubling, p a power of two: in step i the partner is the member whose position differs in bit i, and both exchange all
// that they hold, 2^i neighbouring parts. Where p is no power of two (J. Bruck et al., "Efficient Algorithms for All-to-All
// Communications in Multiport Message-Passing Systems", 1997): in step i a member sends the parts that it holds, its own and
// those after it, to the member 2^i before it, as far as that one lacks them. Steps: log2(p), rounded up. Bytes sent by each
// member: n (p-1)/p.
//
// Direct: each member sends its part to every other. Steps: 1, of p-1 messages. Bytes sent by each member: n (p-1)/p.
//
// Ring: in each step a member sends to its right neighbour the part that it received last, its own first. Steps: p-1. Bytes
// sent by each member: n (p-1)/p, all of them to one other member.
//
// Two-level: see twolevel.go.

func (g *group) allGather(w *work, mem []byte) error {
	offsets := g.parts(w)
	if w.algorithm == TwoLevel {
		return g.twoLevelAllGather(w, mem, offsets)
	}
	return g.teams.all.allGather(w, mem, offsets, stepGather)
}

// allGather numbers its steps from first on.
func (t *team) allGather(w *work, mem []byte, offsets []int, first int) error {
	switch {
	case w.algorithm == Direct:
		return t.directGather(w, mem, inOrder(offsets), first)
	case w.algorithm == Ring:
		return t.ringGather(w, mem, offsets, first)
	case t.size == t.core():
		return t.doublingGather(w, mem, offsets, first)
	}
	return t.bruckGather(w, mem, offsets, first)
}

func (t *team) directGather(w *work, mem []byte, parts partition, first int) error {
	mine := parts.of(mem, t.me)
	for i := 1; i < t.size; i++ {
		if err := t.send(w, first, t.wrap(t.me+i), len(mine), mine); err != nil {
			return err
		}
	}
	for i := 1; i < t.size; i++ {
		from := t.wrap(t.me - i)
		if err := t.receiveFrom(w, first, from, parts.of(mem, from)); err != nil {
			return err
		}
	}
	return t.flushAll()
}

func (t *team) doublingGather(w *work, mem []byte, offsets []int, step int) error {
	for distance := 1; distance < t.size; distance *= 2 {
		peer := t.me ^ distance
		out, _ := t.blocks(mem, offsets, t.me&^(distance-1), distance)
		in, _ := t.blocks(mem, offsets, peer&^(distance-1), distance)
		if err := t.exchange(w, step, peer, out, peer, in); err != nil {
			return err
		}
		step++
	}
	return nil
}

func (t *team) bruckGather(w *work, mem []byte, offsets []int, step int) error {
	for distance := 1; distance < t.size; distance *= 2 {
		n := min(distance, t.size-distance)
		to, from := t.wrap(t.me-distance), t.wrap(t.me+distance)
		a, b := t.blocks(mem, offsets, t.me, n)
		if err := t.send(w, step, to, len(a)+len(b), a); err != nil {
			return err
		}
		if err := t.more(to, b); err != nil {
			return err
		}
		a, b = t.blocks(mem, offsets, from, n)
		if err := t.receive(w, step, from, len(a)+len(b)); err != nil {
			return err
		}
		if err := t.read(from, a); err != nil {
			return err
		}
		if err := t.read(from, b); err != nil {
			return err
		}
		if err := t.flush(to); err != nil {
			return err
		}
		step++
	}
	return nil
}

func (t *team) ringGather(w *work, mem []byte, offsets []int, first int) error {
	right, left := t.wrap(t.me+1), t.wrap(t.me-1)
	for step := range t.size - 1 {
		out, _ := t.blocks(mem, offsets, t.me-step, 1)
		in, _ := t.blocks(mem, offsets, left-step, 1)
		if err := t.exchange(w, first+step, right, out, left, in); err != nil {
			return err
		}
	}
	return nil
}
