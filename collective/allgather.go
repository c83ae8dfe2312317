package collective

// All-gather of p slices, n bytes in all.
//
// Where p is a power of two: recursive doubling. In step i the partner is the member whose position differs in bit i, and
// both exchange all that they hold, 2^i neighbouring slices. Steps: log2(p). Bytes sent by each member: n (p-1)/p.
//
// Else a ring: in each step a member sends to its right neighbour the slice that it received last, its own first. Steps:
// p-1. Bytes sent by each member: n (p-1)/p.
func (g *group) allGather(w *work) error {
	mem := w.buf.Mapped()
	p := g.Size()
	slice := len(mem) / p
	if p&(p-1) != 0 {
		return g.ringGather(w, mem, slice)
	}
	step := 0
	for distance := 1; distance < p; distance *= 2 {
		peer := g.me ^ distance
		block := func(member int) []byte { // the slices that member holds
			first := member &^ (distance - 1)
			return mem[first*slice : (first+distance)*slice]
		}
		if err := g.exchange(w, step, peer, block(g.me), block(peer)); err != nil {
			return err
		}
		step++
	}
	return nil
}

func (g *group) ringGather(w *work, mem []byte, slice int) error {
	p := g.Size()
	right, left := (g.me+1)%p, (g.me+p-1)%p
	for step := range p - 1 {
		out, in := (g.me+p-step)%p, (left+p-step)%p
		g.links[right].send(w.header(step, slice), mem[out*slice:(out+1)*slice])
		if err := g.receiveFrom(w, step, left, mem[in*slice:(in+1)*slice]); err != nil {
			return err
		}
		if err := g.links[right].flush(); err != nil {
			return err
		}
	}
	return nil
}
