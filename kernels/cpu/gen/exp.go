package main

// Registers that hold constants of the exponential: on amd64 the operands of a minimum and a maximum have an order, by
// which NaN gets through, and that needs the constant in a register.
const (
	highReg = 12
	lowReg  = 11
)

// exponentials lists the functions around e^x.
func exponentials(v isa) []row {
	steps := 16 / v.lanes()
	setup := func(p *printer) { expSetup(p, v) }
	return []row{
		{name: "expSum", slices: []string{"y", "x"}, scalars: []string{"max"}, result: 4, steps: steps,
			setup: func(p *printer) {
				clear(v, steps)(p)
				expSetup(p, v)
			},
			finish: func(p *printer) { v.addHalves(p, steps) },
			step: func(p *printer, sum int, m bool) {
				v.load(p, 1, 4, m)
				v.sub(p, 4, scalar(0), 4)
				exp(p, v, 4, 5, 6, 7)
				v.store(p, 0, 5, m)
				v.addLanes(p, 5, sum, m)
			}},
		{name: "siluMul", slices: []string{"y", "gate", "up"}, setup: setup, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, 0, m)
			onePlusExpMinus(p, v, 0)
			v.div(p, 0, 5, 0)
			v.load(p, 2, 1, m)
			v.mul(p, 0, 1, 0)
			v.store(p, 0, 0, m)
		}},
		{name: "siluMulBackward", slices: []string{"dgate", "dup", "dy", "gate", "up"}, setup: setup,
			step: func(p *printer, _ int, m bool) { siluMulBackward(p, v, m) }},
	}
}

// siluMulBackward computes, with s = 1 / (1 + exp(-gate)), dup = dy * (gate * s) and
// dgate = dy * up * s * (1 + gate * (1 - s)).
func siluMulBackward(p *printer, v isa, m bool) {
	const gate, dy, up, s, one = 0, 1, 2, 3, 10
	v.load(p, 3, gate, m)
	onePlusExpMinus(p, v, gate)
	v.constant(p, "one", one)
	v.div(p, one, 5, s)
	v.load(p, 2, dy, m)
	v.load(p, 4, up, m)
	v.mul(p, gate, s, 6)
	v.mul(p, dy, 6, 6)
	v.sub(p, one, s, 7)
	v.mulAdd(p, gate, one, 7)
	v.mul(p, dy, up, dy)
	v.mul(p, dy, s, dy)
	v.mul(p, dy, 7, dy)
	v.store(p, 1, 6, m)
	v.store(p, 0, dy, m)
}

// onePlusExpMinus leaves 1 + exp(-x) in register 5, x being register r; it uses 4 to 7.
func onePlusExpMinus(p *printer, v isa, r int) {
	v.mulConst(p, r, "minusOne", 4)
	exp(p, v, 4, 5, 6, 7)
	v.addConst(p, "one", 5)
}

func expSetup(p *printer, v isa) {
	v.useConstants(p)
	v.constant(p, "high", highReg)
	v.constant(p, "low", lowReg)
}

// exp computes e^x, x and the result being the numbers of registers, as func exp in vector.go does, with the products
// fused into the sums. x, n and t are overwritten.
func exp(p *printer, v isa, x, result, n, t int) {
	v.clamp(p, lowReg, highReg, x)
	v.mulConst(p, x, "log2e", n)
	v.roundEven(p, n)
	v.mulSubConst(p, n, "ln2High", x)
	v.mulSubConst(p, n, "ln2Low", x)
	v.constant(p, "exp0", result)
	for _, c := range []string{"exp1", "exp2", "exp3", "exp4", "exp5"} {
		v.mulAddConst(p, x, c, result)
	}
	v.mul(p, x, x, t)
	v.mulAdd(p, t, x, result)
	v.addConst(p, "one", result)
	v.scalePower(p, n, t, result)
}
