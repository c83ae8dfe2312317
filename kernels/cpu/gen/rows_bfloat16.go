package main

// bfloat16s lists the conversions between float32 and bfloat16, whose bits are the upper half of a float32's. They take
// whole rounds of 16 elements: Go does the rest, since the bits are the same in every set.
func bfloat16s(v isa) []row {
	const x, temp, mask = 0, 1, 2
	steps := 16 / v.lanes()
	return []row{
		{name: "widen", slices: []string{"y", "x"}, sizes: []int{4, 2}, steps: steps, whole: true,
			step: func(p *printer, _ int, _ bool) {
				v.loadBFloat16(p, 1, x)
				v.store(p, 0, x, false)
			}},
		{name: "narrow", slices: []string{"y", "x"}, sizes: []int{2, 4}, steps: steps, whole: true, setup: v.useConstants,
			step: func(p *printer, _ int, _ bool) {
				v.load(p, 1, x, false)
				v.roundBFloat16(p, x, temp, mask)
				v.storeBFloat16(p, 0, x)
			}},
	}
}
