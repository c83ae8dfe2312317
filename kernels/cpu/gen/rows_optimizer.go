package main

// optimizer lists the functions of the optimizer. Their arithmetic rounds after every operation, in the order of the plain
// loop: fused multiply-adds would save nothing, since memory bounds them, and cost the equality of bits between sets.
func optimizer(v isa) []row {
	return []row{{
		name:    "adamW",
		slices:  []string{"p", "m", "v", "g"},
		scalars: []string{"clip", "decay", "weight1", "beta2", "weight2", "correction", "eps", "minusStepSize"},
		step:    func(p *printer, _ int, masked bool) { adamW(p, v, masked) },
	}}
}

// adamW computes one vector of the loop at adamWGeneric.
func adamW(p *printer, v isa, masked bool) {
	const param, moment, variance, gradient, temp = 0, 1, 2, 3, 4
	clip, decay, weight1, beta2 := scalar(0), scalar(1), scalar(2), scalar(3)
	weight2, correction, eps, minusStepSize := scalar(4), scalar(5), scalar(6), scalar(7)

	v.load(p, 3, gradient, masked)
	v.mul(p, gradient, clip, gradient)

	v.load(p, 1, moment, masked)
	v.sub(p, gradient, moment, temp)
	v.mul(p, temp, weight1, temp)
	v.add(p, moment, temp, moment)
	v.store(p, 1, moment, masked)

	v.load(p, 2, variance, masked)
	v.mul(p, variance, beta2, variance)
	v.mul(p, gradient, weight2, temp)
	v.mul(p, temp, gradient, temp)
	v.add(p, variance, temp, variance)
	v.store(p, 2, variance, masked)

	v.sqrt(p, variance, variance)
	v.div(p, variance, correction, variance)
	v.add(p, variance, eps, variance)

	v.load(p, 0, param, masked)
	v.mul(p, param, decay, param)
	v.mul(p, moment, minusStepSize, moment)
	v.div(p, moment, variance, moment)
	v.add(p, param, moment, param)
	v.store(p, 0, param, masked)
}
