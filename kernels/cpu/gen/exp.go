package main

// Registers that hold constants of the exponential: the operands of a minimum and a maximum have an order, by which NaN
// gets through, and that needs the constant in a register.
const (
	highReg = 12
	lowReg  = 11
)

// exponentials lists the functions around e^x.
func (v isa) exponentials() []row {
	steps := 16 / v.lanes
	max := v.scalar(0)
	return []row{
		{name: "expSum", slices: []string{"y", "x"}, scalars: []string{"max"}, result: "MOVSS", steps: steps,
			setup: func(p *printer) {
				v.clear(steps)(p)
				v.expSetup(p)
			},
			finish: v.addHalves(steps),
			step: func(p *printer, sum int, m bool) {
				v.load(p, 1, v.r(4), m)
				p.op("VSUBPS %s, %s, %s", v.r(max), v.r(4), v.r(4))
				v.exp(p, 4, 5, 6, 7)
				v.store(p, 0, v.r(5), m)
				switch {
				case m && v.wide:
					p.op("VADDPS %s, %s, K1, %s", v.r(5), v.r(sum), v.r(sum))
				case m:
					p.op("VANDPS %s, %s, %s", v.r(5), v.r(maskReg), v.r(5))
					p.op("VADDPS %s, %s, %s", v.r(5), v.r(sum), v.r(sum))
				default:
					p.op("VADDPS %s, %s, %s", v.r(5), v.r(sum), v.r(sum))
				}
			}},
		{name: "siluMul", slices: []string{"y", "gate", "up"}, setup: v.expSetup, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, v.r(0), m)
			v.onePlusExpMinus(p, 0)
			p.op("VDIVPS %s, %s, %s", v.r(5), v.r(0), v.r(0))
			v.load(p, 2, v.r(1), m)
			p.op("VMULPS %s, %s, %s", v.r(1), v.r(0), v.r(0))
			v.store(p, 0, v.r(0), m)
		}},
		{name: "siluMulBackward", slices: []string{"dgate", "dup", "dy", "gate", "up"}, setup: v.expSetup, step: v.siluMulBackward},
	}
}

// siluMulBackward computes, with s = 1 / (1 + exp(-gate)), dup = dy * (gate * s) and
// dgate = dy * up * s * (1 + gate * (1 - s)).
func (v isa) siluMulBackward(p *printer, _ int, m bool) {
	const gate, dy, up, s, one = 0, 1, 2, 3, 10
	v.load(p, 3, v.r(gate), m)
	v.onePlusExpMinus(p, gate)
	p.op("VMOVUPS %s, %s", v.constant("one"), v.r(one))
	p.op("VDIVPS %s, %s, %s", v.r(5), v.r(one), v.r(s))
	v.load(p, 2, v.r(dy), m)
	v.load(p, 4, v.r(up), m)
	p.op("VMULPS %s, %s, %s", v.r(s), v.r(gate), v.r(6))
	p.op("VMULPS %s, %s, %s", v.r(6), v.r(dy), v.r(6))
	p.op("VSUBPS %s, %s, %s", v.r(s), v.r(one), v.r(7))
	p.op("VFMADD213PS %s, %s, %s", v.r(one), v.r(gate), v.r(7))
	p.op("VMULPS %s, %s, %s", v.r(up), v.r(dy), v.r(dy))
	p.op("VMULPS %s, %s, %s", v.r(s), v.r(dy), v.r(dy))
	p.op("VMULPS %s, %s, %s", v.r(7), v.r(dy), v.r(dy))
	v.store(p, 1, v.r(6), m)
	v.store(p, 0, v.r(dy), m)
}

// onePlusExpMinus leaves 1 + exp(-x) in register 5, x being register r; it uses 4 to 7.
func (v isa) onePlusExpMinus(p *printer, r int) {
	p.op("VMULPS %s, %s, %s", v.constant("minusOne"), v.r(r), v.r(4))
	v.exp(p, 4, 5, 6, 7)
	p.op("VADDPS %s, %s, %s", v.constant("one"), v.r(5), v.r(5))
}

func (v isa) expSetup(p *printer) {
	p.op("VMOVUPS %s, %s", v.constant("high"), v.r(highReg))
	p.op("VMOVUPS %s, %s", v.constant("low"), v.r(lowReg))
}

// exp computes e^x, x and the result being the numbers of registers, as func exp in vector.go does, with the products
// fused into the sums. x, n and t are overwritten.
func (v isa) exp(p *printer, x, result, n, t int) {
	xr, y, nr, tr := v.r(x), v.r(result), v.r(n), v.r(t)
	p.op("VMINPS %s, %s, %s", xr, v.r(highReg), xr)
	p.op("VMAXPS %s, %s, %s", xr, v.r(lowReg), xr)
	p.op("VMULPS %s, %s, %s", v.constant("log2e"), xr, nr)
	if v.wide {
		p.op("VRNDSCALEPS $0, %s, %s", nr, nr)
	} else {
		p.op("VROUNDPS $0, %s, %s", nr, nr)
	}
	p.op("VFNMADD231PS %s, %s, %s", v.constant("ln2High"), nr, xr)
	p.op("VFNMADD231PS %s, %s, %s", v.constant("ln2Low"), nr, xr)
	p.op("VMOVUPS %s, %s", v.constant("exp0"), y)
	for _, c := range []string{"exp1", "exp2", "exp3", "exp4", "exp5"} {
		p.op("VFMADD213PS %s, %s, %s", v.constant(c), xr, y)
	}
	p.op("VMULPS %s, %s, %s", xr, xr, tr)
	p.op("VFMADD213PS %s, %s, %s", xr, tr, y)
	p.op("VADDPS %s, %s, %s", v.constant("one"), y, y)
	if v.wide {
		p.op("VSCALEFPS %s, %s, %s", nr, y, y)
		return
	}
	p.op("VCVTPS2DQ %s, %s", nr, nr)
	p.op("VPSRAD $1, %s, %s", nr, tr)
	p.op("VPSUBD %s, %s, %s", tr, nr, nr)
	for _, r := range []string{tr, nr} {
		p.op("VPADDD %s, %s, %s", v.constant("bias"), r, r)
		p.op("VPSLLD $23, %s, %s", r, r)
		p.op("VMULPS %s, %s, %s", r, y, y)
	}
}
