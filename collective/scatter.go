package collective

import "math/bits"

// Scatter of p parts, n bytes in all, from a root. Members are counted from the root, v = (position - root) mod p.
//
// Direct: the root sends each member its part. Steps: 1, of p-1 messages. Bytes sent: n (p-1)/p by the root.
//
// Tree: down the binomial tree of broadcast.go. A member gets the parts of all members below it, which wait in scratch
// memory, and passes on those of each child. Steps: ceil(log2(p)). Bytes sent: n (p-1)/p by the root, at most half of n by
// others.

func (t *team) scatter(w *work, mem []byte, offsets []int) error {
	if w.algorithm == Direct {
		return t.directScatter(w, mem, offsets)
	}
	s := t.subtree(w.root, offsets)
	if s.v != 0 {
		held := t.g.scratch.bytes(s.size(0, s.n))
		if err := t.receiveFrom(w, stepGather, s.member(s.v&(s.v-1)), held); err != nil {
			return err
		}
		copy(mem, held)
		mem = held
	}
	for distance := s.reach / 2; distance > 0; distance /= 2 {
		if distance >= s.n {
			continue
		}
		child := s.member(s.v + distance)
		a, b := s.pieces(mem, distance, min(distance, s.n-distance))
		if err := t.send(w, stepGather, child, len(a)+len(b), a); err != nil {
			return err
		}
		if err := t.more(child, b); err != nil {
			return err
		}
		if err := t.flush(child); err != nil {
			return err
		}
	}
	return nil
}

func (t *team) directScatter(w *work, mem []byte, offsets []int) error {
	if t.me != w.root {
		return t.receiveFrom(w, stepGather, w.root, mem)
	}
	for i := 1; i < t.size; i++ {
		to := t.wrap(t.me + i)
		if err := t.send(w, stepGather, to, offsets[to+1]-offsets[to], mem[offsets[to]:offsets[to+1]]); err != nil {
			return err
		}
	}
	return t.flushAll()
}

// A subtree is what lies below a member in the binomial tree of a root: the members v to v+n-1. Its parts lie one after the
// other in memory, except at the root, where they lie in the order of positions.
type subtree struct {
	t       *team
	root    int
	offsets []int
	v, n    int
	reach   int // children are nearer than this
}

func (t *team) subtree(root int, offsets []int) subtree {
	s := subtree{t: t, root: root, offsets: offsets, v: t.wrap(t.me - root)}
	s.reach = s.v & -s.v
	if s.v == 0 {
		s.reach = 1 << bits.Len(uint(t.size-1))
	}
	s.n = min(s.reach, t.size-s.v)
	return s
}

// member returns the position of the member that is number v when counted from the root.
func (s *subtree) member(v int) int { return s.t.wrap(v + s.root) }

// size returns the size of the parts of n members, from the one that is first after v.
func (s *subtree) size(first, n int) int {
	from, to := s.member(s.v+first), s.member(s.v+first)+n
	if to > s.t.size {
		return s.offsets[s.t.size] - s.offsets[from] + s.offsets[to-s.t.size]
	}
	return s.offsets[to] - s.offsets[from]
}

// pieces returns the parts of n members, from the one that is first after v: in two pieces where they go round the end of
// the root's buffer.
func (s *subtree) pieces(mem []byte, first, n int) (a, b []byte) {
	if s.v == 0 {
		return s.t.blocks(mem, s.offsets, s.member(first), n)
	}
	at := s.size(0, first)
	return mem[at : at+s.size(first, n)], nil
}
