package cpu

import (
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
	if err := checkIDs("experts", experts, 0, len(offsets)-1); err != nil {
		return err
	}
	clear(offsets)
	for _, e := range experts {
		offsets[e+1]++
	}
	for e := 1; e < len(offsets); e++ {
		offsets[e] += offsets[e-1]
	}
	// While rows are given out offsets[e] is the next row of e, at the end the first of e+1.
	for i, e := range experts {
		position[i] = offsets[e]
		offsets[e]++
	}
	copy(offsets[1:], offsets)
	offsets[0] = 0
	return nil
}

// Permute copies each token to the rows of its assignments.
func (d *Device) Permute(s device.Stream, y, x, position kernels.Tensor) {
	c := call{name: "Permute", run: runPermute}
	c.operands(1, y, x, position)
	d.launch(s, kernels.CheckPermute(y, x, position), c)
}

func runPermute(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[2]), 0, c.args[0].Rows()); err != nil {
		return err
	}
	d.overRows(c, &c.args[1], permuteTokens)
	return nil
}

func permuteTokens(_ *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	ys, xs, position := f32(*y), f32(*x), i32(c.args[2])
	k, n := c.args[2].Last(), x.Last()
	i, end := rowSpan(x, from, to)
	for ; i < end; i++ {
		for _, r := range position[i*k:][:k] {
			copy(ys[row(y, int(r)):][:n], xs[row(x, i):])
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
	if err := checkIDs("position", i32(c.args[2]), 0, c.args[1].Rows()); err != nil {
		return err
	}
	d.overRows(c, &c.args[0], unpermuteTokens)
	return nil
}

func unpermuteTokens(d *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	ys, xs, position := f32(*y), f32(*x), i32(c.args[2])
	k, n := c.args[2].Last(), y.Last()
	i, end := rowSpan(y, from, to)
	for ; i < end; i++ {
		sum, rows := ys[row(y, i):][:n], position[i*k:][:k]
		copy(sum, xs[row(x, int(rows[0])):])
		for _, r := range rows[1:] {
			d.set.add(sum, sum, xs[row(x, int(r)):][:n])
		}
	}
}

// ExpertSwiGLU computes the activation of each row, times its assignment's weight.
func (d *Device) ExpertSwiGLU(s device.Stream, y, x, weights, position kernels.Tensor) {
	c := call{name: "ExpertSwiGLU", run: runExpertSwiGLU}
	c.operands(1, y, x, weights, position)
	d.launch(s, kernels.CheckExpertSwiGLU(y, x, weights, position), c)
}

func runExpertSwiGLU(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[3]), 0, c.args[0].Rows()); err != nil {
		return err
	}
	d.parallel(c, partsOf(c.args[3].Len(), rowsPerPart(c.args[0].Last())), expertSwiGLURows)
	return nil
}

// assignmentSpan returns the assignments that the parts [from, to) hold, of rows of the given width.
func assignmentSpan(position []int32, width, from, to int) (first, end int) {
	per := rowsPerPart(width)
	return from * per, min(to*per, len(position))
}

func expertSwiGLURows(d *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	ys, xs, weights, position := f32(*y), f32(*x), f32(c.args[2]), i32(c.args[3])
	n := y.Last()
	i, end := assignmentSpan(position, n, from, to)
	for ; i < end; i++ {
		r := int(position[i])
		yr, xr := ys[row(y, r):][:n], xs[row(x, r):][:2*n]
		d.set.siluMul(yr, xr[:n], xr[n:])
		d.set.scale(yr, yr, weights[i])
	}
}

// ExpertSwiGLUBackward computes the gradients of ExpertSwiGLU's x and weights.
func (d *Device) ExpertSwiGLUBackward(s device.Stream, dx, dweights, dy, x, weights, position kernels.Tensor) {
	c := call{name: "ExpertSwiGLUBackward", run: runExpertSwiGLUBackward}
	c.operands(2, dx, dweights, dy, x, weights, position)
	d.launch(s, kernels.CheckExpertSwiGLUBackward(dx, dweights, dy, x, weights, position), c)
}

func runExpertSwiGLUBackward(d *Device, c *call) error {
	if err := checkIDs("position", i32(c.args[5]), 0, c.args[2].Rows()); err != nil {
		return err
	}
	d.parallel(c, partsOf(c.args[5].Len(), rowsPerPart(c.args[2].Last())), expertSwiGLUBackwardRows)
	return nil
}

// expertBlock is how many elements of a row are worked on at a time, so that a row of any width fits the scratch memory.
const expertBlock = 4096

func expertSwiGLUBackwardRows(d *Device, c *call, w *worker, from, to int) {
	dx, dy, x := &c.args[0], &c.args[2], &c.args[3]
	dweights, weights, position := f32(c.args[1]), f32(c.args[4]), i32(c.args[5])
	n := dy.Last()
	i, end := assignmentSpan(position, n, from, to)
	for ; i < end; i++ {
		r := int(position[i])
		dxr, dyr, xr := f32(*dx)[row(dx, r):][:2*n], f32(*dy)[row(dy, r):][:n], f32(*x)[row(x, r):][:2*n]
		sum := 0.0
		for at := 0; at < n; at += expertBlock {
			to := min(at+expertBlock, n)
			y, gate, up := w.scratch[:to-at], xr[at:to], xr[n+at:n+to]
			d.set.siluMul(y, gate, up)
			sum += float64(d.set.dot(dyr[at:to], y))
			d.set.scale(y, dyr[at:to], weights[i])
			d.set.siluMulBackward(dxr[at:to], dxr[n+at:n+to], y, gate, up)
		}
		dweights[i] = float32(sum)
	}
}
