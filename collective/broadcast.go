package collective

import "math/bits"

// Broadcast of n bytes. Members are counted from the root, v = (position - root) mod p. A member passes each segment on as
// soon as it has it, so that all are busy at once.
//
// Tree: down a binomial tree. The parent of v is v without its lowest bit; its children are v + 2^j for all 2^j below that
// bit (for the root, below p). Steps: ceil(log2(p)) for one segment, one more for each further segment. Bytes sent: n for
// each child, at most n ceil(log2(p)) (by the root).
//
// Ring: down a chain, from v to v+1. Steps: p-1 for one segment, one more for each further segment. Bytes sent: n by each
// member but the last.
//
// Two-level: see twolevel.go.

func (g *group) broadcast(w *work, mem []byte) error {
	if w.algorithm == TwoLevel {
		return g.twoLevelBroadcast(w, mem)
	}
	return g.teams.all.broadcast(w, mem, w.root, w.algorithm)
}

func (t *team) broadcast(w *work, mem []byte, root int, algorithm Algorithm) error {
	v := t.wrap(t.me - root)
	at := func(v int) int { return t.wrap(v + root) }
	parent := v & (v - 1)
	reach := v & -v // children are nearer than this
	switch {
	case algorithm == Ring:
		parent, reach = v-1, 2
	case v == 0:
		reach = 1 << bits.Len(uint(t.size-1))
	}
	if v != 0 {
		if err := t.receive(w, stepGather, at(parent), len(mem)); err != nil {
			return err
		}
	}
	for from := 0; from == 0 || from < len(mem); from += t.g.segment {
		part := mem[from:min(from+t.g.segment, len(mem))]
		if v != 0 {
			if err := t.read(at(parent), part); err != nil {
				return err
			}
		}
		for distance := reach / 2; distance > 0 && t.size > 1; distance /= 2 { // the child with the most below it first
			if v+distance >= t.size {
				continue
			}
			if err := t.pass(w, at(v+distance), len(mem), from, part); err != nil {
				return err
			}
		}
	}
	for distance := reach / 2; distance > 0; distance /= 2 {
		if v+distance < t.size {
			if err := t.flush(at(v + distance)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pass sends the segment that begins at from of a message of size bytes.
func (t *team) pass(w *work, to, size, from int, segment []byte) error {
	if from == 0 {
		return t.send(w, stepGather, to, size, segment)
	}
	return t.more(to, segment)
}
