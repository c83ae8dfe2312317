package collective

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lockstep/kernels/device"
)

// The methods of Group check their arguments and enqueue a work. How each operation runs is in a file of its name.

// AllReduce implements Group; see allreduce.go.
func (g *group) AllReduce(buf device.Region, r Reduction, after device.Event) device.Event {
	w := work{kind: opAllReduce, buf: buf, total: buf.Bytes, reduction: r, writes: true, invalid: r.check(buf.Bytes)}
	return g.enqueue(g.reuse(&w), after)
}

// ReduceScatter implements Group; see reducescatter.go.
func (g *group) ReduceScatter(buf device.Region, counts []int, r Reduction, after device.Event) device.Event {
	w := work{kind: opReduceScatter, buf: buf, total: buf.Bytes, counts: counts, reduction: r, writes: true}
	if w.invalid = g.checkParts(buf.Bytes, counts); w.invalid == nil {
		if counts == nil {
			w.invalid = r.check(buf.Bytes / g.Size())
		}
		for _, n := range counts {
			w.invalid = errors.Join(w.invalid, r.check(n))
		}
	}
	return g.enqueue(g.reuse(&w), after)
}

// AllGather implements Group; see allgather.go.
func (g *group) AllGather(buf device.Region, counts []int, after device.Event) device.Event {
	w := work{kind: opAllGather, buf: buf, total: buf.Bytes, counts: counts, writes: true, invalid: g.checkParts(buf.Bytes, counts)}
	return g.enqueue(g.reuse(&w), after)
}

// Broadcast implements Group; see broadcast.go.
func (g *group) Broadcast(buf device.Region, root int, after device.Event) device.Event {
	w := work{kind: opBroadcast, buf: buf, total: buf.Bytes, root: root, writes: root != g.me, invalid: g.checkMember("the root", root)}
	return g.enqueue(g.reuse(&w), after)
}

// Reduce implements Group; see reduce.go.
func (g *group) Reduce(buf device.Region, root int, r Reduction, after device.Event) device.Event {
	w := work{kind: opReduce, buf: buf, total: buf.Bytes, root: root, reduction: r, writes: true}
	w.invalid = errors.Join(r.check(buf.Bytes), g.checkMember("the root", root))
	return g.enqueue(g.reuse(&w), after)
}

// Scatter implements Group; see scatter.go.
func (g *group) Scatter(buf device.Region, counts []int, root int, after device.Event) device.Event {
	w := g.rooted(opScatter, buf, counts, root, root != g.me)
	return g.enqueue(g.reuse(&w), after)
}

// Gather implements Group; see gather.go.
func (g *group) Gather(buf device.Region, counts []int, root int, after device.Event) device.Event {
	w := g.rooted(opGather, buf, counts, root, root == g.me)
	return g.enqueue(g.reuse(&w), after)
}

// rooted makes the work of a scatter or gather, in which the root's buffer holds all parts and the others' their own.
func (g *group) rooted(kind operationKind, buf device.Region, counts []int, root int, writes bool) work {
	w := work{kind: kind, buf: buf, counts: counts, root: root, writes: writes}
	w.invalid = g.checkMember("the root", root)
	switch {
	case w.invalid != nil:
	case root == g.me:
		w.total, w.invalid = buf.Bytes, g.checkParts(buf.Bytes, counts)
	case counts == nil:
		w.total = buf.Bytes * g.Size()
	default:
		w.total = sum(counts)
		w.invalid = g.checkParts(w.total, counts)
		if w.invalid == nil && counts[g.me] != buf.Bytes {
			w.invalid = fmt.Errorf("a buffer of %d bytes for a part of %d", buf.Bytes, counts[g.me])
		}
	}
	return w
}

// AllToAll implements Group; see alltoall.go.
func (g *group) AllToAll(dst, src device.Region, after device.Event) device.Event {
	w := work{kind: opAllToAll, buf: dst, src: src, total: dst.Bytes, writes: true, invalid: g.checkParts(dst.Bytes, nil)}
	if dst.Bytes != src.Bytes || dst.Overlaps(src) {
		w.invalid = fmt.Errorf("a destination of %d bytes and a source of %d (overlapping: %v)", dst.Bytes, src.Bytes, dst.Overlaps(src))
	}
	return g.enqueue(g.reuse(&w), after)
}

// AllToAllV implements Group; see alltoall.go.
func (g *group) AllToAllV(dst, src device.Region, received, sent []int, after device.Event) device.Event {
	w := work{kind: opAllToAllV, buf: dst, src: src, counts: received, sent: sent, writes: true}
	switch {
	case received == nil || sent == nil:
		w.invalid = errors.New("all-to-all-v needs the sizes of what is sent and received")
	case dst.Overlaps(src):
		w.invalid = errors.New("the destination overlaps the source")
	default:
		w.invalid = errors.Join(g.checkParts(dst.Bytes, received), g.checkParts(src.Bytes, sent))
		if w.invalid == nil && sent[g.me] != received[g.me] {
			w.invalid = fmt.Errorf("this member sends itself %d bytes and receives %d", sent[g.me], received[g.me])
		}
	}
	return g.enqueue(g.reuse(&w), after)
}

// Send implements Group; see transfer.go.
func (g *group) Send(buf device.Region, to int, after device.Event) device.Event {
	return g.single(Transfer{Peer: to, Buf: buf}, after)
}

// Receive implements Group; see transfer.go.
func (g *group) Receive(buf device.Region, from int, after device.Event) device.Event {
	return g.single(Transfer{Peer: from, Buf: buf, Receive: true}, after)
}

func (g *group) single(t Transfer, after device.Event) device.Event {
	w := g.reuse(&work{kind: opTransfer, invalid: g.checkTransfer(t)})
	w.single[0] = t
	w.transfers = w.single[:]
	return g.enqueue(w, after)
}

// Exchange implements Group; see transfer.go.
func (g *group) Exchange(transfers []Transfer, after device.Event) device.Event {
	w := work{kind: opTransfer, transfers: transfers}
	for _, t := range transfers {
		w.invalid = errors.Join(w.invalid, g.checkTransfer(t))
	}
	return g.enqueue(g.reuse(&w), after)
}

// Barrier implements Group; see barrier.go.
func (g *group) Barrier(ctx context.Context) error {
	return g.call(ctx, &work{kind: opBarrier})
}

// GatherBytes implements Group; see hostdata.go.
func (g *group) GatherBytes(ctx context.Context, mine []byte) ([][]byte, error) {
	w := &work{kind: opGatherBytes, host: make([][]byte, g.Size())}
	w.host[g.me] = slices.Clone(mine)
	if len(mine) > maxGatherBytes {
		w.invalid = fmt.Errorf("%s exceed the limit of %s for host data", byteSize(len(mine)), byteSize(maxGatherBytes))
	}
	if err := g.call(ctx, w); err != nil {
		return nil, err
	}
	return w.host, nil
}

// check says whether n bytes can be reduced.
func (r *Reduction) check(n int) error {
	if size := r.DType.Size(); size == 0 || n%size != 0 || r.Fold == nil || r.Op > Min {
		return fmt.Errorf("a buffer of %d bytes cannot be reduced as the %v of %v (with a fold: %v)", n, r.Op, r.DType, r.Fold != nil)
	}
	return nil
}

// checkParts says whether n bytes can be cut as counts says.
func (g *group) checkParts(n int, counts []int) error {
	switch {
	case counts == nil && n%g.Size() != 0:
		return fmt.Errorf("a buffer of %d bytes has no %d equal parts", n, g.Size())
	case counts == nil:
		return nil
	case len(counts) != g.Size():
		return fmt.Errorf("the sizes of %d parts for %d members", len(counts), g.Size())
	case slices.Min(counts) < 0 || sum(counts) != n:
		return fmt.Errorf("a buffer of %d bytes cannot be cut into parts of %v", n, counts)
	}
	return nil
}

func (g *group) checkMember(what string, member int) error {
	if member < 0 || member >= g.Size() {
		return fmt.Errorf("member %d is %s, but there are %d members", member, what, g.Size())
	}
	return nil
}

func (g *group) checkTransfer(t Transfer) error {
	if t.Peer == g.me {
		return fmt.Errorf("member %d sends to itself", t.Peer)
	}
	return g.checkMember("the other end", t.Peer)
}

func sum(x []int) int {
	n := 0
	for _, v := range x {
		n += v
	}
	return n
}
