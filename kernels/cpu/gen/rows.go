package main

// A row is a function over slices of one length.
type row struct {
	name    string
	slices  []string // argument names in order; the first one's length counts
	scalars []string // float32 arguments after the slices, in registers scalar(0), scalar(1)
	sizes   []int    // bytes of the slices' elements; 4 each where there are none
	result  int      // bytes of the number that the function returns, if any

	elements int  // elements of one step: the lanes, or half of them where they are widened to float64
	steps    int  // steps of one round, each with its own accumulator
	whole    bool // the length is a multiple of a round
	setup    func(p *printer)
	// step computes one vector; masked says that not all of its lanes are there.
	step   func(p *printer, accumulator int, masked bool)
	finish func(p *printer) // leaves the result in lane 0 of register 0
}

// args returns the bytes of the arguments and of the result, and the result's position among them.
func (f *row) args() (bytes, result int) {
	bytes = 24*len(f.slices) + 4*len(f.scalars)
	result = (bytes + 7) / 8 * 8
	if f.result > 0 {
		bytes = result + f.result
	}
	return bytes, result
}

// size returns the bytes of an element of slice i.
func (f *row) size(i int) int {
	if f.sizes == nil {
		return 4
	}
	return f.sizes[i]
}

// scalar returns the register of scalar argument i.
func scalar(i int) int { return 14 - i }

// vector writes the functions over rows.
func vector(p *printer, v isa) {
	v.tables(p)
	for _, list := range [][]row{elementwise(v), fused(v), reductions(v), exponentials(v), optimizer(v), bfloat16s(v)} {
		for _, f := range list {
			f.steps = max(f.steps, 1)
			if f.elements == 0 {
				f.elements = v.lanes()
			}
			v.row(p, f)
		}
	}
}

// elementwise lists the functions without a result. Their loops are in the comments of kernelSet.
func elementwise(v isa) []row {
	a, b := scalar(0), scalar(1)
	return []row{
		{name: "add", slices: []string{"y", "a", "b"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, 0, m)
			v.load(p, 2, 1, m)
			v.add(p, 0, 1, 0)
			v.store(p, 0, 0, m)
		}},
		{name: "axpy", slices: []string{"y", "x"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, 0, m)
			v.load(p, 0, 1, m)
			v.fma(p, a, 0, 1)
			v.store(p, 0, 1, m)
		}},
		{name: "scale", slices: []string{"y", "x"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, 0, m)
			v.mul(p, a, 0, 0)
			v.store(p, 0, 0, m)
		}},
		{name: "scaleMul", slices: []string{"y", "x", "w"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			scaledProduct(p, v, a, m)
			v.store(p, 0, 0, m)
		}},
		{name: "mulAxpy", slices: []string{"y", "x", "z"}, scalars: []string{"a"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 1, 0, m)
			v.mul(p, a, 0, 0)
			v.load(p, 2, 1, m)
			v.load(p, 0, 2, m)
			v.fma(p, 0, 1, 2)
			v.store(p, 0, 2, m)
		}},
		{name: "scaleMulAdd", slices: []string{"y", "x", "w", "z"}, scalars: []string{"a", "b"}, step: func(p *printer, _ int, m bool) {
			scaledProduct(p, v, a, m)
			v.load(p, 3, 1, m)
			v.fma(p, b, 1, 0)
			v.store(p, 0, 0, m)
		}},
	}
}

// scaledProduct leaves a * slice 1 * slice 2 in register 0.
func scaledProduct(p *printer, v isa, a int, masked bool) {
	v.load(p, 1, 0, masked)
	v.load(p, 2, 1, masked)
	v.mul(p, a, 0, 0)
	v.mul(p, 0, 1, 0)
}

// reductions lists the functions that return a number and need no exponential. Accumulators start at register 0.
func reductions(v isa) []row {
	const temp, other = 8, 9
	steps, steps64 := 32/v.lanes(), 64/v.lanes() // 32 lanes each
	halves := func(p *printer) { v.addHalves(p, steps) }
	return []row{
		{name: "dot", slices: []string{"x", "y"}, result: 4, steps: steps, setup: clear(v, steps), finish: halves,
			step: func(p *printer, sum int, m bool) {
				v.load(p, 0, temp, m)
				v.load(p, 1, other, m)
				v.fma(p, other, temp, sum)
			}},
		{name: "dot3", slices: []string{"x", "y", "z"}, result: 4, steps: steps, setup: clear(v, steps), finish: halves,
			step: func(p *printer, sum int, m bool) {
				v.load(p, 0, temp, m)
				v.load(p, 1, other, m)
				v.mul(p, other, temp, other)
				v.load(p, 2, temp, m)
				v.fma(p, other, temp, sum)
			}},
		{name: "sumSquares", slices: []string{"x"}, result: 8, elements: v.lanes() / 2, steps: steps64, setup: clear(v, steps64),
			finish: func(p *printer) { v.addHalves64(p, steps64) },
			step: func(p *printer, sum int, m bool) {
				v.loadHalf(p, 0, steps64, m)
				v.fma64(p, steps64, steps64, sum)
			}},
		{name: "max", slices: []string{"x"}, result: 4, steps: steps,
			setup: func(p *printer) {
				v.useConstants(p)
				for i := range steps {
					v.constant(p, "infinity", i)
				}
			},
			step: func(p *printer, best int, m bool) {
				v.load(p, 0, temp, m)
				v.maxLanes(p, temp, best, m)
			},
			finish: func(p *printer) { v.maxHalves(p, steps) }},
	}
}

// clear returns a setup that zeroes n accumulators.
func clear(v isa, n int) func(p *printer) {
	return func(p *printer) {
		for i := range n {
			v.zero(p, i)
		}
	}
}
