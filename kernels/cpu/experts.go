package cpu

import (
	"fmt"
	"slices"
	"sort"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// SortByExpert gives each assignment its row.
func (d *Device) SortByExpert(s device.Stream, position, offsets, experts kernels.Tensor) {
	c := call{name: "SortByExpert", run: runSortByExpert}
	c.operands(2, position, offsets, experts)
	d.launch(s, kernels.CheckSortByExpert(position, offsets, experts), c)
}

// runSortByExpert is a counting sort. It touches each assignment twice, which one thread does in less time than it takes
// to wake another.
func runSortByExpert(_ *Device, c *call) error {
	position, offsets, experts := i32(c.args[0]), i32(c.args[1]), i32(c.args[2])
	if err := checkIDs("experts", experts, none, len(offsets)-1); err != nil {
		return err
	}
	clear(offsets)
	for _, e := range experts {
		if e != none {
			offsets[e+1]++
		}
	}
	for e := 1; e < len(offsets); e++ {
		offsets[e] += offsets[e-1]
	}
	// While rows are given out offsets[e] is the next row of e, at the end the first of e+1.
	for i, e := range experts {
		if e == none {
			position[i] = none
			continue
		}
		position[i] = offsets[e]
		offsets[e]++
	}
	copy(offsets[1:], offsets)
	offsets[0] = 0
	return nil
}

// none is the expert of an assignment that has none, and its position.
const none = -1

// SortRuns gives each row that has come in a run its place.
func (d *Device) SortRuns(s device.Stream, position, offsets, counts kernels.Tensor) {
	c := call{name: "SortRuns", run: runSortRuns}
	c.operands(2, position, offsets, counts)
	d.launch(s, kernels.CheckSortRuns(position, offsets, counts), c)
}

// runSortRuns writes consecutive numbers, on one thread.
func runSortRuns(_ *Device, c *call) error {
	position, offsets, counts := i32(c.args[0]), i32(c.args[1]), i32(c.args[2])
	experts, rows := len(offsets)-1, 0
	clear(offsets)
	for i, n := range counts {
		if n < 0 || int(n) > len(position)-rows {
			return fmt.Errorf("counts[%d,%d] is %d: they must not be negative, nor be more than the %d rows together", i/experts, i%experts, n, len(position))
		}
		offsets[i%experts+1] += n
		rows += int(n)
	}
	if rows != len(position) {
		return fmt.Errorf("counts are %d rows together, not %d", rows, len(position))
	}
	for e := 1; e < len(offsets); e++ {
		offsets[e] += offsets[e-1]
	}
	rows = 0
	for i, n := range counts {
		e := i % experts
		for range n {
			position[rows] = offsets[e]
			offsets[e]++
			rows++
		}
	}
	copy(offsets[1:], offsets)
	offsets[0] = 0
	return nil
}

// ShiftPositions moves stretches of rows.
func (d *Device) ShiftPositions(s device.Stream, position, first, shift kernels.Tensor) {
	c := call{name: "ShiftPositions", run: runShiftPositions}
	c.operands(1, position, first, shift)
	d.launch(s, kernels.CheckShiftPositions(position, first, shift), c)
}

func runShiftPositions(_ *Device, c *call) error {
	position, first, shift := i32(c.args[0]), i32(c.args[1]), i32(c.args[2])
	if first[0] != 0 || !slices.IsSorted(first) {
		return fmt.Errorf("first is %v, which does not ascend from 0", first)
	}
	for i, r := range position {
		if r < 0 {
			continue
		}
		stretch := sort.Search(len(first), func(j int) bool { return first[j] > r }) - 1
		position[i] += shift[stretch]
	}
	return nil
}

// Permute copies each token to the rows of its assignments.
func (d *Device) Permute(s device.Stream, y, x, position kernels.Tensor) {
	c := call{name: "Permute", run: runPermute}
	c.operands(1, y, x, position)
	d.launch(s, kernels.CheckPermute(y, x, position), c)
}

func runPermute(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[2]), none, c.args[0].Rows()); err != nil {
		return err
	}
	return d.overRows(c, &c.args[1], permuteTokens)
}

func permuteTokens(_ *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	ys, xs, position := y.Region().Mapped(), x.Region().Mapped(), i32(c.args[2])
	k, size := c.args[2].Last(), x.DType.Size()
	i, end := rowSpan(x, from, to)
	for ; i < end; i++ {
		for _, r := range position[i*k:][:k] {
			if r == none {
				continue
			}
			copy(ys[row(y, int(r))*size:][:x.Last()*size], xs[row(x, i)*size:])
		}
	}
}

// Unpermute adds the rows of each token's assignments.
func (d *Device) Unpermute(s device.Stream, y, x, position kernels.Tensor) {
	c := call{name: "Unpermute", run: runUnpermute}
	c.operands(1, y, x, position)
	d.launch(s, kernels.CheckUnpermute(y, x, position), c)
}

func runUnpermute(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[2]), none, c.args[1].Rows()); err != nil {
		return err
	}
	return d.overRows(c, &c.args[0], unpermuteTokens)
}

func unpermuteTokens(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, x, position := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1]), i32(c.args[2])
	k := c.args[2].Last()
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		sum, first := y.at(i), true
		for _, r := range position[i*k:][:k] {
			switch {
			case r == none:
			case first:
				copy(sum, x.read(int(r)))
				first = false
			default:
				d.set.add(sum, sum, x.read(int(r)))
			}
		}
		if first {
			clear(sum)
		}
		y.store(i)
	}
}

// ExpertSwiGLU computes the activation of each row, times its assignment's weight.
func (d *Device) ExpertSwiGLU(s device.Stream, y, x, weights, position kernels.Tensor) {
	c := call{name: "ExpertSwiGLU", run: runExpertSwiGLU}
	c.operands(1, y, x, weights, position)
	d.launch(s, kernels.CheckExpertSwiGLU(y, x, weights, position), c)
}

func runExpertSwiGLU(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[3]), none, c.args[0].Rows()); err != nil {
		return err
	}
	return d.overParts(c, partsOf(c.args[3].Len(), rowsPerPart(c.args[0].Last())), expertSwiGLURows)
}

// assignmentSpan returns the assignments that the parts [from, to) hold, of rows of the given width.
func assignmentSpan(position []int32, width, from, to int) (first, end int) {
	per := rowsPerPart(width)
	return from * per, min(to*per, len(position))
}

func expertSwiGLURows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, x := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1])
	weights, position := f32(c.args[2]), i32(c.args[3])
	n := c.args[0].Last()
	i, end := assignmentSpan(position, n, from, to)
	for ; i < end; i++ {
		r := int(position[i])
		if r == none {
			continue
		}
		yr, xr := y.at(r), x.read(r)
		d.set.siluMul(yr, xr[:n], xr[n:])
		d.set.scale(yr, yr, weights[i])
		y.store(r)
	}
}

// ExpertSwiGLUBackward computes the gradients of ExpertSwiGLU's x and weights.
func (d *Device) ExpertSwiGLUBackward(s device.Stream, dx, dweights, dy, x, weights, position kernels.Tensor) {
	c := call{name: "ExpertSwiGLUBackward", run: runExpertSwiGLUBackward}
	c.operands(2, dx, dweights, dy, x, weights, position)
	d.launch(s, kernels.CheckExpertSwiGLUBackward(dx, dweights, dy, x, weights, position), c)
}

func runExpertSwiGLUBackward(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[5]), none, c.args[2].Rows()); err != nil {
		return err
	}
	return d.overParts(c, partsOf(c.args[5].Len(), rowsPerPart(c.args[2].Last())), expertSwiGLUBackwardRows)
}

// expertBlock is how many elements of a row are worked on at a time, so that a row of any width fits the scratch memory.
const expertBlock = 4096

func expertSwiGLUBackwardRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	dx, dy, x := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[2]), d.rows(&s, &c.args[3])
	dweights, weights, position := f32(c.args[1]), f32(c.args[4]), i32(c.args[5])
	n := c.args[2].Last()
	activated := s.take(min(n, expertBlock))
	i, end := assignmentSpan(position, n, from, to)
	for ; i < end; i++ {
		r := int(position[i])
		if r == none {
			dweights[i] = 0
			continue
		}
		dxr, dyr, xr := dx.at(r), dy.read(r), x.read(r)
		sum := 0.0
		for at := 0; at < n; at += expertBlock {
			to := min(at+expertBlock, n)
			y, gate, up := activated[:to-at], xr[at:to], xr[n+at:n+to]
			d.set.siluMul(y, gate, up)
			sum += float64(d.set.dot(dyr[at:to], y))
			d.set.scale(y, dyr[at:to], weights[i])
			d.set.siluMulBackward(dxr[at:to], dxr[n+at:n+to], y, gate, up)
		}
		dweights[i] = float32(sum)
		dx.store(r)
	}
}
