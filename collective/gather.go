package collective

// Gather of p parts, n bytes in all, to a root: scatter.go in the other direction.
//
// Direct: each member sends its part to the root. Steps: 1. Bytes sent: its part by each member.
//
// Tree: up the binomial tree. A member collects the parts of all members below it in scratch memory and sends them
// together. Steps: ceil(log2(p)). Bytes sent: at most half of n.

func (t *team) gather(w *work, mem []byte, offsets []int) error {
	if w.algorithm == Direct {
		return t.directCollect(w, mem, offsets)
	}
	s := t.subtree(w.root, offsets)
	held := mem
	if s.v != 0 {
		held = t.g.scratch.bytes(s.size(0, s.n))
		copy(held, mem)
	}
	for distance := 1; distance < s.n; distance *= 2 {
		child := s.member(s.v + distance)
		a, b := s.pieces(held, distance, min(distance, s.n-distance))
		if err := t.receive(w, stepGather, child, len(a)+len(b)); err != nil {
			return err
		}
		if err := t.read(child, a); err != nil {
			return err
		}
		if err := t.read(child, b); err != nil {
			return err
		}
	}
	if s.v == 0 {
		return nil
	}
	return t.sendTo(w, stepGather, s.member(s.v&(s.v-1)), held)
}

func (t *team) directCollect(w *work, mem []byte, offsets []int) error {
	if t.me != w.root {
		return t.sendTo(w, stepGather, w.root, mem)
	}
	for i := 1; i < t.size; i++ {
		from := t.wrap(t.me + i)
		if err := t.receiveFrom(w, stepGather, from, mem[offsets[from]:offsets[from+1]]); err != nil {
			return err
		}
	}
	return nil
}
