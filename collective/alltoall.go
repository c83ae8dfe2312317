package collective

// All-to-all of p parts, n bytes in all, by pairwise exchange: in step s a member sends to the member s after it what that
// one gets, and receives from the member s before it; where p is a power of two, both are the member whose position
// differs by XOR s. The part for itself is copied.
//
// Steps: p-1. Bytes sent by each member: n (p-1)/p; for all-to-all-v, what it sends.

func (t *team) allToAll(w *work, dst, src []byte) error {
	received := t.g.parts(w)
	t.offsets = appendParts(t.offsets[:0], w.sent, len(src), t.size)
	sent := t.offsets
	out := func(member int) []byte { return src[sent[member]:sent[member+1]] }
	in := func(member int) []byte { return dst[received[member]:received[member+1]] }
	copy(in(t.me), out(t.me))
	for step := 1; step < t.size; step++ {
		to, from := t.wrap(t.me+step), t.wrap(t.me-step)
		if t.size == t.core() {
			to, from = t.me^step, t.me^step
		}
		if err := t.exchange(w, stepReduce+step, to, out(to), from, in(from)); err != nil {
			return err
		}
	}
	return nil
}
