package collective

// Barrier by dissemination (D. Hensgen, R. Finkel, U. Manber, "Two Algorithms for Barrier Synchronization", 1988): in step
// i each member tells the member 2^i after it, and waits for the one 2^i before it. After the last step each has heard,
// directly or not, from all.
//
// Steps: ceil(log2(p)), for any p. Bytes sent: one header each.
func (t *team) barrier(w *work) error {
	step := stepReduce
	for distance := 1; distance < t.size; distance *= 2 {
		if err := t.exchange(w, step, t.wrap(t.me+distance), nil, t.wrap(t.me-distance), nil); err != nil {
			return err
		}
		step++
	}
	return nil
}
