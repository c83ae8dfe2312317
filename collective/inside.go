package collective

import "lockstep/kernels/device"

// Where a group spans hosts, its members on one host are a group of their own, over the memory of that host, which does the
// lower level of the two-level algorithms.

// shareInside makes the group of the members on this host, where there are several and they share memory.
func (w *World) shareInside(g *group) error {
	var here []int
	for i, host := range g.topology.host {
		if host == g.topology.host[g.me] {
			here = append(here, g.ranks[i])
		}
	}
	if !w.shares(here) {
		return nil
	}
	inside, err := w.register(g.name+" inside a host", here, g.stream)
	if err != nil {
		return err
	}
	if err := w.share(inside); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onHost = inside
	if cause := g.broken(); cause != nil {
		inside.interrupt(cause)
	}
	return nil
}

// performInside does an operation on a part of w's buffer among the members on this host, as a step of w.
func (g *group) performInside(w *work, kind operationKind, buf device.Region, counts []int, root int) error {
	in := g.onHost
	in.sequence++
	step := in.reuse(&work{
		group: in, kind: kind, sequence: in.sequence, buf: buf, total: buf.Bytes, counts: counts, reduction: w.reduction, root: root, writes: true,
	})
	in.enter(step)
	err := in.perform(step)
	in.leave(step, err)
	return err
}

// The lower level of the two-level algorithms: in the memory of this host, or over links. Parts begin at offsets of the whole
// buffer, one for each member on this host.

func (g *group) reduceScatterInside(w *work, mem []byte, offsets []int) error {
	if g.onHost != nil {
		return g.performInside(w, opReduceScatter, w.buf.Slice(offsets[0], offsets[len(offsets)-1]), g.countsOf(offsets), 0)
	}
	return g.teams.local.directReduceScatter(w, mem, inOrder(offsets))
}

func (g *group) allGatherInside(w *work, mem []byte, offsets []int) error {
	if g.onHost != nil {
		return g.performInside(w, opAllGather, w.buf.Slice(offsets[0], offsets[len(offsets)-1]), g.countsOf(offsets), 0)
	}
	return g.teams.local.directGather(w, mem, inOrder(offsets), stepGather)
}

func (g *group) reduceInside(w *work, mem []byte) error {
	if g.onHost != nil {
		return g.performInside(w, opReduce, w.buf, nil, 0)
	}
	return g.teams.local.reduce(w, mem, 0, Tree)
}

func (g *group) broadcastInside(w *work, mem []byte, root int) error {
	if g.onHost != nil {
		return g.performInside(w, opBroadcast, w.buf, nil, root)
	}
	return g.teams.local.broadcast(w, mem, root, Tree)
}

// countsOf returns the sizes of the parts that begin at offsets, in memory that is used again.
func (g *group) countsOf(offsets []int) []int {
	g.counts = g.counts[:0]
	for i := range len(offsets) - 1 {
		g.counts = append(g.counts, offsets[i+1]-offsets[i])
	}
	return g.counts
}
