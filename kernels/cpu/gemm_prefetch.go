package cpu

import "unsafe"

// prefetch is memory on its way to the second-level cache: the rows of an operand that are packed next, asked for while
// the tiles before them are computed. Packing reads a short piece of each of many rows, too short for the processor to see
// a pattern in time, and waits for each of them where the operand is larger than the caches. The zero value is nothing.
type prefetch struct {
	first  unsafe.Pointer
	rows   int
	stride int // bytes from row to row
	bytes  int // of a row

	asked        int // rows that have been asked for
	taken, steps int
}

// spread sets the number of steps.
func (p *prefetch) spread(steps int) { p.steps = steps }

// step asks for the next rows: as large a share of all as one step is.
func (p *prefetch) step(t *tileKernels) {
	p.taken++
	for ; p.asked < p.rows && p.asked*p.steps < p.rows*p.taken; p.asked++ {
		t.prefetch(unsafe.Add(p.first, p.asked*p.stride), p.bytes)
	}
}
