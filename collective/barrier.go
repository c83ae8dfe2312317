package collective

// Barrier by dissemination (D. Hensgen, R. Finkel, U. Manber, "Two Algorithms for Barrier Synchronization", 1988): in step
// i each member tells the member 2^i after it, and waits for the one 2^i before it. After the last step each has heard,
// directly or not, from all.
//
// Steps: ceil(log2(p)), for any p. Bytes sent: one header each.
func (g *group) barrier(w *work) error {
	p := g.Size()
	step := 0
	for distance := 1; distance < p; distance *= 2 {
		to, from := (g.me+distance)%p, (g.me-distance+p)%p
		g.links[to].send(w.header(step, 0), nil)
		if _, err := g.links[from].receive(w.header(step, 0)); err != nil {
			return err
		}
		if err := g.links[to].flush(); err != nil {
			return err
		}
		step++
	}
	return nil
}
