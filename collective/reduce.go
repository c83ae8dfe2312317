package collective

import "math/bits"

// Reduce of n bytes to a root; q and k as in allreduce.go. Where p is no power of two, member q+i first sends its vector to
// i, and a root q+i gets the result from there: two more steps, n more bytes.
//
// Tree: up a binomial tree. Members are counted v = position XOR root, so that the root is 0 and v's partner in step i still
// is the one whose position differs in bit i: the order is that of the aligned tree for every root. A member folds what
// comes from v+1, v+2, v+4, ... and sends the result to v without its lowest bit, segment by segment, so that all levels are
// busy at once. Steps: k for one segment, one more for each further segment. Bytes sent: n by each member but the root.
//
// Halving: the first phase of all-reduce's halving, then the pieces go up the same tree: in step i from the last to the
// first, v with bit i set sends all it holds. Steps: 2k. Bytes sent by each member: 2 n (q-1)/q at most.
//
// Direct: the direct reduce-scatter, then each member sends its part to the root. Steps: 2, of p-1 messages for the first.
// Bytes sent by each member: n (p-1)/p + n/p. Partial sums are not rounded.

func (t *team) reduce(w *work, mem []byte, to int, algorithm Algorithm) error {
	if algorithm == Direct {
		return t.directReduce(w, mem, to)
	}
	core := t.core()
	root := to & (core - 1) // stands in for a root q+i
	if t.me >= core {
		if err := t.sendTo(w, stepFoldIn, t.me-core, mem); err != nil || t.me != to {
			return err
		}
		return t.receiveFrom(w, stepFoldOut, root, mem)
	}
	if extra := t.me + core; extra < t.size {
		if err := t.foldFrom(w, stepFoldIn, extra, mem); err != nil {
			return err
		}
	}
	up := t.reduceTree
	if algorithm == Halving {
		up = t.halveToRoot
	}
	if err := up(w, mem, root); err != nil {
		return err
	}
	if t.me == root && root != to {
		return t.sendTo(w, stepFoldOut, to, mem)
	}
	return nil
}

func (t *team) reduceTree(w *work, mem []byte, root int) error {
	v := t.me ^ root
	reach := v & -v // children are nearer than this
	if v == 0 {
		reach = t.core()
	}
	segment := w.segment(t.g.segment)
	for from := 0; from == 0 || from < len(mem); from += segment {
		part := mem[from:min(from+segment, len(mem))]
		for distance := 1; distance < reach; distance *= 2 {
			child := t.me ^ distance
			if from == 0 {
				if err := t.receive(w, stepReduce, child, len(mem)); err != nil {
					return err
				}
			}
			if err := t.foldRead(w, child, part); err != nil {
				return err
			}
		}
		if v == 0 {
			continue
		}
		if from == 0 {
			if err := t.send(w, stepReduce, t.me^reach, len(mem), part); err != nil {
				return err
			}
		} else if err := t.more(t.me^reach, part); err != nil {
			return err
		}
	}
	if v == 0 {
		return nil
	}
	return t.flush(t.me ^ reach)
}

func (t *team) halveToRoot(w *work, mem []byte, root int) error {
	held, err := t.halve(w, mem)
	if err != nil {
		return err
	}
	v := t.me ^ root
	for step := bits.Len(uint(t.core())) - 2; step >= 0; step-- {
		mine, peer := held[step+1], t.me^1<<step
		if v&(1<<step) != 0 {
			return t.sendTo(w, stepGather+step, peer, mine.of(mem))
		}
		if err := t.receiveFrom(w, stepGather+step, peer, mine.other(held[step]).of(mem)); err != nil {
			return err
		}
	}
	return nil
}

func (t *team) directReduce(w *work, mem []byte, root int) error {
	offsets := t.cut(len(mem), w.reduction.DType.Size())
	if err := t.directReduceScatter(w, mem, inOrder(offsets)); err != nil {
		return err
	}
	part := func(member int) []byte { return mem[offsets[member]:offsets[member+1]] }
	if t.me != root {
		return t.sendTo(w, stepGather, root, part(t.me))
	}
	for i := 1; i < t.size; i++ {
		from := t.wrap(t.me + i)
		if err := t.receiveFrom(w, stepGather, from, part(from)); err != nil {
			return err
		}
	}
	return nil
}
