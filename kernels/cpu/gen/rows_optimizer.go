package main

// optimizer lists the functions of the optimizer. Their arithmetic rounds after every operation, in the order of the plain
// loop: fused multiply-adds would save nothing, since memory bounds them, and cost the equality of bits between sets.
func (v isa) optimizer() []row {
	return []row{{
		name:    "adamW",
		slices:  []string{"p", "m", "v", "g"},
		scalars: []string{"clip", "decay", "weight1", "beta2", "weight2", "correction", "eps", "minusStepSize"},
		step:    v.adamW,
	}}
}

// adamW computes one vector of the loop at adamWGeneric.
func (v isa) adamW(p *printer, _ int, masked bool) {
	const param, moment, variance, gradient, temp = 0, 1, 2, 3, 4
	r, scalar := v.r, func(i int) string { return v.r(v.scalar(i)) }
	clip, decay, weight1, beta2 := scalar(0), scalar(1), scalar(2), scalar(3)
	weight2, correction, eps, minusStepSize := scalar(4), scalar(5), scalar(6), scalar(7)

	v.load(p, 3, r(gradient), masked)
	p.op("VMULPS %s, %s, %s", clip, r(gradient), r(gradient))

	v.load(p, 1, r(moment), masked)
	p.op("VSUBPS %s, %s, %s", r(moment), r(gradient), r(temp))
	p.op("VMULPS %s, %s, %s", weight1, r(temp), r(temp))
	p.op("VADDPS %s, %s, %s", r(temp), r(moment), r(moment))
	v.store(p, 1, r(moment), masked)

	v.load(p, 2, r(variance), masked)
	p.op("VMULPS %s, %s, %s", beta2, r(variance), r(variance))
	p.op("VMULPS %s, %s, %s", weight2, r(gradient), r(temp))
	p.op("VMULPS %s, %s, %s", r(gradient), r(temp), r(temp))
	p.op("VADDPS %s, %s, %s", r(temp), r(variance), r(variance))
	v.store(p, 2, r(variance), masked)

	p.op("VSQRTPS %s, %s", r(variance), r(variance))
	p.op("VDIVPS %s, %s, %s", correction, r(variance), r(variance))
	p.op("VADDPS %s, %s, %s", eps, r(variance), r(variance))

	v.load(p, 0, r(param), masked)
	p.op("VMULPS %s, %s, %s", decay, r(param), r(param))
	p.op("VMULPS %s, %s, %s", minusStepSize, r(moment), r(moment))
	p.op("VDIVPS %s, %s, %s", r(variance), r(moment), r(moment))
	p.op("VADDPS %s, %s, %s", r(moment), r(param), r(param))
	v.store(p, 0, r(param), masked)
}
