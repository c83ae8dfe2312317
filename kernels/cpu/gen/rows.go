package main

// elementwise lists the functions without a result. Their loops are in the comments of kernelSet.
func (v isa) elementwise() []row {
	a, b := v.r(v.scalar(0)), v.r(v.scalar(1))
	return []row{
		{name: "add", slices: []string{"y", "a", "b"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, v.r(0), m)
			v.load(p, 2, v.r(1), m)
			p.op("VADDPS %s, %s, %s", v.r(1), v.r(0), v.r(0))
			v.store(p, 0, v.r(0), m)
		}},
		{name: "axpy", slices: []string{"y", "x"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, v.r(0), m)
			v.load(p, 0, v.r(1), m)
			p.op("VFMADD231PS %s, %s, %s", v.r(0), a, v.r(1))
			v.store(p, 0, v.r(1), m)
		}},
		{name: "scale", slices: []string{"y", "x"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, v.r(0), m)
			p.op("VMULPS %s, %s, %s", v.r(0), a, v.r(0))
			v.store(p, 0, v.r(0), m)
		}},
		{name: "scaleMul", slices: []string{"y", "x", "w"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.scaledProduct(p, a, m)
			v.store(p, 0, v.r(0), m)
		}},
		{name: "mulAxpy", slices: []string{"y", "x", "z"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, v.r(0), m)
			p.op("VMULPS %s, %s, %s", v.r(0), a, v.r(0))
			v.load(p, 2, v.r(1), m)
			v.load(p, 0, v.r(2), m)
			p.op("VFMADD231PS %s, %s, %s", v.r(1), v.r(0), v.r(2))
			v.store(p, 0, v.r(2), m)
		}},
		{name: "scaleMulAdd", slices: []string{"y", "x", "w", "z"}, scalars: []string{"a", "b"}, step: func(p *printer, _ int, m bool) {
			v.scaledProduct(p, a, m)
			v.load(p, 3, v.r(1), m)
			p.op("VFMADD231PS %s, %s, %s", v.r(1), b, v.r(0))
			v.store(p, 0, v.r(0), m)
		}},
	}
}

// scaledProduct leaves a * slice 1 * slice 2 in register 0.
func (v isa) scaledProduct(p *printer, a string, masked bool) {
	v.load(p, 1, v.r(0), masked)
	v.load(p, 2, v.r(1), masked)
	p.op("VMULPS %s, %s, %s", v.r(0), a, v.r(0))
	p.op("VMULPS %s, %s, %s", v.r(1), v.r(0), v.r(0))
}

// reductions lists the functions that return a number and need no exponential. Accumulators start at register 0.
func (v isa) reductions() []row {
	const temp, other = 8, 9
	steps := 32 / v.lanes
	return []row{
		{name: "dot", slices: []string{"x", "y"}, result: "MOVSS", steps: steps, setup: v.clear(steps), finish: v.addHalves(steps),
			step: func(p *printer, sum int, m bool) {
				v.load(p, 0, v.r(temp), m)
				v.load(p, 1, v.r(other), m)
				p.op("VFMADD231PS %s, %s, %s", v.r(temp), v.r(other), v.r(sum))
			}},
		{name: "dot3", slices: []string{"x", "y", "z"}, result: "MOVSS", steps: steps, setup: v.clear(steps), finish: v.addHalves(steps),
			step: func(p *printer, sum int, m bool) {
				v.load(p, 0, v.r(temp), m)
				v.load(p, 1, v.r(other), m)
				p.op("VMULPS %s, %s, %s", v.r(temp), v.r(other), v.r(other))
				v.load(p, 2, v.r(temp), m)
				p.op("VFMADD231PS %s, %s, %s", v.r(temp), v.r(other), v.r(sum))
			}},
		{name: "sumSquares", slices: []string{"x"}, result: "MOVSD", elements: v.lanes / 2, steps: steps, setup: v.clear(steps),
			finish: v.addHalvesFloat64(steps), step: func(p *printer, sum int, m bool) {
				v.load(p, 0, v.half(temp), m)
				p.op("VCVTPS2PD %s, %s", v.half(temp), v.r(temp))
				p.op("VFMADD231PD %s, %s, %s", v.r(temp), v.r(temp), v.r(sum))
			}},
		v.maximum(),
	}
}

// maximum keeps the larger of the element and the maximum so far, the latter where the element is not a number.
func (v isa) maximum() row {
	steps := 32 / v.lanes
	return row{name: "max", slices: []string{"x"}, result: "MOVSS", steps: steps,
		setup: func(p *printer) {
			for i := range steps {
				p.op("VMOVUPS %s, %s", v.constant("infinity"), v.r(i))
			}
		},
		step: func(p *printer, best int, m bool) {
			v.load(p, 0, v.r(8), m)
			switch {
			case m && v.wide:
				p.op("VMAXPS %s, %s, K1, %s", v.r(best), v.r(8), v.r(best))
			case m:
				p.op("VBLENDVPS %s, %s, %s, %s", v.r(maskReg), v.r(8), v.r(best), v.r(8))
				p.op("VMAXPS %s, %s, %s", v.r(best), v.r(8), v.r(best))
			default:
				p.op("VMAXPS %s, %s, %s", v.r(best), v.r(8), v.r(best))
			}
		},
		finish: v.halves(steps, "VMAXPS", false),
	}
}

// clear returns a setup that zeroes n accumulators.
func (v isa) clear(n int) func(p *printer) {
	return func(p *printer) {
		for i := range n {
			v.zero(p, v.r(i))
		}
	}
}

func (v isa) addHalves(n int) func(p *printer)        { return v.halves(n, "VADDPS", false) }
func (v isa) addHalvesFloat64(n int) func(p *printer) { return v.halves(n, "VADDPD", true) }

// halves returns a finish that combines the upper half of all lanes of n accumulators with the lower half, until one lane
// is left: first whole registers, then halves of one.
func (v isa) halves(n int, op string, float64s bool) func(p *printer) {
	return func(p *printer) {
		for ; n > 1; n /= 2 {
			for i := range n / 2 {
				p.op("%s %s, %s, %s", op, v.r(i+n/2), v.r(i), v.r(i))
			}
		}
		if v.wide {
			p.op("VEXTRACTF64X4 $1, Z0, Y1")
			p.op("%s Y1, Y0, Y0", op)
		}
		p.op("VEXTRACTF128 $1, Y0, X1")
		p.op("%s X1, X0, X0", op)
		p.op("VPERMILPD $1, X0, X1")
		p.op("%s X1, X0, X0", op)
		if !float64s {
			p.op("VMOVSHDUP X0, X1")
			p.op("%s X1, X0, X0", op)
		}
	}
}
