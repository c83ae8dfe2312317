package cpu

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// RoPE rotates the pairs of each head by their position's angle, or back.
func (d *Device) RoPE(s device.Stream, y, x, cos, sin, positions kernels.Tensor, o kernels.RoPEOptions) {
	c := call{name: "RoPE", run: runRoPE}
	c.operands(1, y, x, cos, sin, positions)
	c.flag[0], c.flag[1] = o.Inverse, o.Interleaved
	d.launch(s, kernels.CheckRoPE(y, x, cos, sin, positions), c)
}

// ropeTokens is how many tokens, each with all its heads, one part rotates.
func ropeTokens(x *kernels.Tensor) int { return rowsPerPart(x.Shape[2] * x.Shape[3]) }

func runRoPE(d *Device, c *call) error {
	x, positions := &c.args[1], &c.args[4]
	if !positions.IsZero() {
		for b := range positions.Shape[0] {
			if err := checkIDs("positions", i32(positions.Narrow(0, b, b+1)), 0, c.args[2].Shape[0]); err != nil {
				return fmt.Errorf("row %d: %w", b, err)
			}
		}
	}
	return d.overParts(c, partsOf(x.Shape[0]*x.Shape[1], ropeTokens(x)), ropeRows)
}

func ropeRows(d *Device, c *call, w *worker, from, to int) {
	y, x, cos, sin, positions := &c.args[0], &c.args[1], &c.args[2], &c.args[3], &c.args[4]
	s := w.free()
	ys, xs, coss, sins, rows := d.rows(&s, y), d.rows(&s, x), f32(*cos), f32(*sin), i32(*positions)
	T, N, half := x.Shape[1], x.Shape[2], x.Shape[3]/2
	for i := from * ropeTokens(x); i < min(to*ropeTokens(x), x.Shape[0]*T); i++ {
		b, t := i/T, i%T
		p := t
		if rows != nil {
			p = int(rows[b*positions.Stride[0]+t])
		}
		cr, sr := coss[p*cos.Stride[0]:][:half], sins[p*sin.Stride[0]:][:half]
		for n := range N {
			at := b*y.Stride[0] + t*y.Stride[1] + n*y.Stride[2]
			yr, xr := ys.position(at), xs.elements(b*x.Stride[0]+t*x.Stride[1]+n*x.Stride[2], 2*half)
			switch inverse, interleaved := c.flag[0], c.flag[1]; {
			case interleaved:
				rotatePairs(yr, xr, cr, sr, inverse)
			case inverse:
				d.set.rotate(yr[half:], yr[:half], xr[half:], xr[:half], cr, sr)
			default:
				d.set.rotate(yr[:half], yr[half:], xr[:half], xr[half:], cr, sr)
			}
			ys.storeAt(at)
		}
	}
}

// rotatePairs is kernelSet's rotate of the points (x[2i], x[2i+1]). The part of a head that models rotate so is small: one
// loop for all sets is enough.
func rotatePairs(y, x, cos, sin []float32, inverse bool) {
	for i, c := range cos {
		s := sin[i]
		if inverse {
			s = -s
		}
		a, b := x[2*i], x[2*i+1]
		y[2*i] = float32(a*c) - float32(b*s)
		y[2*i+1] = float32(b*c) + float32(a*s)
	}
}

// SumHeads adds the heads of each token.
func (d *Device) SumHeads(s device.Stream, y, x kernels.Tensor) {
	c := call{name: "SumHeads", run: runSumHeads}
	c.operands(1, y, x)
	d.launch(s, kernels.CheckSumHeads(y, x), c)
}

func runSumHeads(d *Device, c *call) error {
	x := &c.args[1]
	return d.overParts(c, partsOf(x.Shape[0]*x.Shape[1], ropeTokens(x)), sumHeadsOfTokens)
}

func sumHeadsOfTokens(d *Device, c *call, w *worker, from, to int) {
	x := &c.args[1]
	s := w.free()
	ys, xs := d.rows(&s, &c.args[0]), d.rows(&s, x)
	N := x.Shape[2]
	for i := from * ropeTokens(x); i < min(to*ropeTokens(x), x.Shape[0]*x.Shape[1]); i++ {
		sum := ys.at(i)
		copy(sum, xs.read(i*N))
		for n := 1; n < N; n++ {
			d.set.add(sum, sum, xs.read(i*N+n))
		}
		ys.store(i)
	}
}
