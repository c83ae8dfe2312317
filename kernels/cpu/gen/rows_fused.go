package main

// fused lists the elementwise functions that save passes over memory. Their loops are in the comments of kernelSet.
func fused(v isa) []row {
	a, b := scalar(0), scalar(1)
	return []row{
		{name: "addScaleMulAdd", slices: []string{"y", "u", "x", "w", "z"}, scalars: []string{"a", "b"}, step: func(p *printer, _ int, m bool) {
			v.load(p, 2, 0, m)
			v.load(p, 3, 1, m)
			v.mul(p, a, 0, 0)
			v.load(p, 1, 2, m)
			v.fma(p, 0, 1, 2)
			v.load(p, 4, 1, m)
			v.fma(p, b, 1, 2)
			v.store(p, 0, 2, m)
		}},
		{name: "rotate", slices: []string{"ya", "yb", "a", "b", "cos", "sin"}, step: func(p *printer, _ int, m bool) {
			const a, b, cos, sin, t = 0, 1, 2, 3, 4
			v.load(p, 2, a, m)
			v.load(p, 3, b, m)
			v.load(p, 4, cos, m)
			v.load(p, 5, sin, m)
			v.mul(p, b, sin, t)
			v.mul(p, a, sin, sin)
			v.mul(p, a, cos, a)
			v.mul(p, b, cos, b)
			v.sub(p, a, t, a)
			v.add(p, b, sin, b)
			v.store(p, 0, a, m)
			v.store(p, 1, b, m)
		}},
	}
}
