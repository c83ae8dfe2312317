package collective

import "math/bits"

// All-reduce by recursive vector halving with distance doubling (R. Rabenseifner, "Optimization of Collective Reduction
// Operations", 2004), for p = 2^k members and n bytes:
//
//  1. Reduce-scatter, k steps. In step i the partner is the member whose position differs in bit i: distance 1, then 2,
//     then 4. Both hold the same range of the vector; the one with bit i clear keeps the lower half, sends the upper half
//     and folds what it receives into its own half. After the last step each member holds 1/p of the result.
//  2. All-gather, k steps back, distance 2^(k-1) first: partners exchange what they hold, until all hold everything.
//
// Steps: 2k. Bytes sent by each member: 2 n (p-1)/p, as many as a ring sends, in 2 log2(p) steps instead of 2 (p-1).
//
// Because the distance doubles, step 1 adds 0+1 and 2+3, step 2 adds (0+1)+(2+3), and so on: every element is summed in
// the aligned pairwise tree, whatever the vector's length and wherever it is cut. A ring's order differs from element to
// element. The lower member's part is always the first operand.
//
// Buffers of at most defaultSmall bytes are exchanged whole in each step (recursive doubling): k steps, n k bytes sent by
// each member, the same tree.
//
// Where p is no power of two, let q be the largest one below it. Member q+i first sends its vector to member i, which
// folds it as the second operand; the first q members do the above; member i sends the result to q+i. So the sum of 6 is
// ((0+4)+(1+5))+(2+3). This costs the members q+i and i two more steps and n more bytes each.

// The steps' numbers on the wire.
const (
	stepFoldIn  = 0
	stepReduce  = 1  // + i
	stepGather  = 33 // + i
	stepFoldOut = 65
)

// maxSteps is more than log2 of any number of members.
const maxSteps = 32

func (g *group) allReduce(w *work) error {
	mem := w.buf.Mapped()
	core := 1 << (bits.Len(uint(g.Size())) - 1)
	if g.me >= core {
		if err := g.sendTo(w, stepFoldIn, g.me-core, mem); err != nil {
			return err
		}
		return g.receiveFrom(w, stepFoldOut, g.me-core, mem)
	}
	extra := g.me + core
	if extra < g.Size() {
		if err := g.foldFrom(w, stepFoldIn, extra, mem); err != nil {
			return err
		}
	}
	reduce := g.halve
	if len(mem) <= g.smallest {
		reduce = g.double
	}
	if err := reduce(w, core, mem); err != nil {
		return err
	}
	if extra < g.Size() {
		return g.sendTo(w, stepFoldOut, extra, mem)
	}
	return nil
}

// halve reduces mem over the members below core by vector halving and distance doubling.
func (g *group) halve(w *work, core int, mem []byte) error {
	type span struct{ from, to int } // in elements
	var held [maxSteps]span          // what was held before each step
	size := w.reduction.DType.Size()
	bytes := func(s span) []byte { return mem[s.from*size : s.to*size] }

	mine := span{0, len(mem) / size}
	steps := 0
	for distance := 1; distance < core; distance *= 2 {
		middle := mine.from + (mine.to-mine.from)/2
		keep, give := span{mine.from, middle}, span{middle, mine.to}
		if g.me&distance != 0 {
			keep, give = give, keep
		}
		peer := g.me ^ distance
		g.links[peer].send(w.header(stepReduce+steps, len(bytes(give))), bytes(give))
		if err := g.foldFrom(w, stepReduce+steps, peer, bytes(keep)); err != nil {
			return err
		}
		if err := g.links[peer].flush(); err != nil {
			return err
		}
		held[steps], mine = mine, keep
		steps++
	}
	for i := steps - 1; i >= 0; i-- {
		theirs := span{mine.to, held[i].to}
		if g.me&(1<<i) != 0 {
			theirs = span{held[i].from, mine.from}
		}
		if err := g.exchange(w, stepGather+i, g.me^1<<i, bytes(mine), bytes(theirs)); err != nil {
			return err
		}
		mine = held[i]
	}
	return nil
}

// double reduces a small mem over the members below core by exchanging it whole.
func (g *group) double(w *work, core int, mem []byte) error {
	step := stepReduce
	for distance := 1; distance < core; distance *= 2 {
		peer := g.me ^ distance
		theirs := g.scratch[:len(mem)]
		// The exchange ends before the fold begins, because the fold changes what is sent.
		if err := g.exchange(w, step, peer, mem, theirs); err != nil {
			return err
		}
		g.fold(w, peer, mem, theirs)
		step++
	}
	return nil
}

// foldFrom receives a member's version of mine, segment by segment, and folds each into mine.
func (g *group) foldFrom(w *work, step, from int, mine []byte) error {
	l := g.links[from]
	if _, err := l.receive(w.header(step, len(mine))); err != nil {
		return err
	}
	size := w.reduction.DType.Size()
	segment := max(size, g.segment/size*size)
	for len(mine) > 0 {
		part := mine[:min(segment, len(mine))]
		theirs := g.scratch[:len(part)]
		if err := l.read(theirs); err != nil {
			return err
		}
		g.fold(w, from, part, theirs)
		mine = mine[len(part):]
	}
	return nil
}

// fold combines another member's elements into mine, in the order of the members.
func (g *group) fold(w *work, from int, mine, theirs []byte) {
	if len(mine) == 0 {
		return
	}
	g.dst[0] = mine
	g.src = [2][]byte{mine, theirs}
	if from < g.me {
		g.src = [2][]byte{theirs, mine}
	}
	w.reduction.Fold(g.dst[:], g.src[:])
}

// exchange sends out to a member and receives into in at the same time.
func (g *group) exchange(w *work, step, peer int, out, in []byte) error {
	l := g.links[peer]
	l.send(w.header(step, len(out)), out)
	if err := g.receiveFrom(w, step, peer, in); err != nil {
		return err
	}
	return l.flush()
}

// sendTo sends data to a member.
func (g *group) sendTo(w *work, step, to int, data []byte) error {
	g.links[to].send(w.header(step, len(data)), data)
	return g.links[to].flush()
}

// receiveFrom receives len(data) bytes from a member.
func (g *group) receiveFrom(w *work, step, from int, data []byte) error {
	if _, err := g.links[from].receive(w.header(step, len(data))); err != nil {
		return err
	}
	return g.links[from].read(data)
}
