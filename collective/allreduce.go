package collective

import "math/bits"

// All-reduce of n bytes over p members. Let q be the largest power of two up to p, k = log2(q).
//
// Halving: recursive vector halving with distance doubling (R. Rabenseifner, "Optimization of Collective Reduction
// Operations", 2004):
//
//  1. Reduce-scatter, k steps. In step i the partner is the member whose position differs in bit i: distance 1, then 2,
//     then 4. Both hold the same range of the vector; the one with bit i clear keeps the lower half, sends the upper half
//     and folds what it receives into its own half. After the last step each member holds 1/q of the result.
//  2. All-gather, k steps back, distance 2^(k-1) first: partners exchange what they hold, until all hold everything.
//
// Steps: 2k. Bytes sent by each member: 2 n (q-1)/q, as many as a ring sends, in 2 log2(q) steps instead of 2 (q-1).
//
// Because the distance doubles, step 1 adds 0+1 and 2+3, step 2 adds (0+1)+(2+3), and so on: every element is summed in
// the aligned pairwise tree, whatever the vector's length and wherever it is cut. A ring's order differs from element to
// element. The lower member's part is always the first operand.
//
// Doubling: the whole vector is exchanged in each step. Steps: k. Bytes sent by each member: n k. The same tree. It is for
// vectors of at most 256 KiB.
//
// Where p is no power of two, member q+i first sends its vector to member i, which folds it as the second operand; the
// first q members do the above; member i sends the result to q+i. So the sum of 6 is ((0+4)+(1+5))+(2+3). This costs the
// members q+i and i two more steps and n more bytes each.
//
// Direct: the direct reduce-scatter (see reducescatter.go), then the direct all-gather. Steps: 2, of p-1 messages each.
// Bytes sent by each member: 2 n (p-1)/p. The same tree for every p, and its partial sums are not rounded.
//
// Ring: the ring's reduce-scatter, then its all-gather. Steps: 2 (p-1). Bytes sent by each member: 2 n (p-1)/p. The order
// of the sum depends on the element's place, so it needs Options.AnyOrder.
//
// Two-level: see twolevel.go.

// maxSteps is more than log2 of any number of members.
const maxSteps = 32

// A span is a range of bytes.
type span struct{ from, to int }

func (s span) of(mem []byte) []byte { return mem[s.from:s.to] }

func (g *group) allReduce(w *work, mem []byte) error {
	if w.algorithm == TwoLevel {
		return g.twoLevelAllReduce(w, mem)
	}
	return g.teams.all.allReduce(w, mem, w.algorithm)
}

func (t *team) allReduce(w *work, mem []byte, algorithm Algorithm) error {
	switch algorithm {
	case Direct, Ring:
		offsets := t.cut(len(mem), w.reduction.DType.Size())
		if algorithm == Ring {
			if err := t.ringReduceScatter(w, mem, offsets); err != nil {
				return err
			}
			return t.ringGather(w, mem, offsets, stepGather)
		}
		if err := t.directReduceScatter(w, mem, inOrder(offsets)); err != nil {
			return err
		}
		return t.directGather(w, mem, inOrder(offsets), stepGather)
	}
	core := t.core()
	if t.me >= core {
		if err := t.sendTo(w, stepFoldIn, t.me-core, mem); err != nil {
			return err
		}
		return t.receiveFrom(w, stepFoldOut, t.me-core, mem)
	}
	extra := t.me + core
	if extra < t.size {
		if err := t.foldFrom(w, stepFoldIn, extra, mem); err != nil {
			return err
		}
	}
	exchange := t.halveAndGather
	if algorithm == Doubling {
		exchange = t.double
	}
	if err := exchange(w, mem); err != nil {
		return err
	}
	if extra < t.size {
		return t.sendTo(w, stepFoldOut, extra, mem)
	}
	return nil
}

// core returns q, the largest power of two up to the number of members.
func (t *team) core() int { return 1 << (bits.Len(uint(t.size)) - 1) }

// halve is the first phase of halving, over the members below core. It returns what was held before each step, and after
// the last.
func (t *team) halve(w *work, mem []byte) (held [maxSteps]span, err error) {
	size := w.reduction.DType.Size()
	held[0] = span{0, len(mem)}
	steps := bits.Len(uint(t.core())) - 1
	for step := range steps {
		mine := held[step]
		middle := mine.from + (mine.to-mine.from)/size/2*size
		keep, give := span{mine.from, middle}, span{middle, mine.to}
		if t.me&(1<<step) != 0 {
			keep, give = give, keep
		}
		peer := t.me ^ 1<<step
		if err := t.send(w, stepReduce+step, peer, give.to-give.from, give.of(mem)); err != nil {
			return held, err
		}
		if err := t.foldFrom(w, stepReduce+step, peer, keep.of(mem)); err != nil {
			return held, err
		}
		if err := t.flush(peer); err != nil {
			return held, err
		}
		held[step+1] = keep
	}
	return held, nil
}

func (t *team) halveAndGather(w *work, mem []byte) error {
	held, err := t.halve(w, mem)
	if err != nil {
		return err
	}
	for step := bits.Len(uint(t.core())) - 2; step >= 0; step-- {
		mine, peer := held[step+1], t.me^1<<step
		if err := t.exchange(w, stepGather+step, peer, mine.of(mem), peer, mine.other(held[step]).of(mem)); err != nil {
			return err
		}
	}
	return nil
}

// other returns the rest of a range of which s is one end.
func (s span) other(whole span) span {
	if s.from == whole.from {
		return span{s.to, whole.to}
	}
	return span{whole.from, s.from}
}

// double reduces mem over the members below core by exchanging it whole.
func (t *team) double(w *work, mem []byte) error {
	step := stepReduce
	for distance := 1; distance < t.core(); distance *= 2 {
		peer := t.me ^ distance
		theirs := t.g.scratch.bytes(len(mem))
		// The exchange ends before the fold begins, because the fold changes what is sent.
		if err := t.exchange(w, step, peer, mem, peer, theirs); err != nil {
			return err
		}
		t.fold(w, peer, mem, theirs)
		step++
	}
	return nil
}
