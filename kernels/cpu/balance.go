package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// RouteStatistics counts each run's assignments and adds up its normalised scores.
func (d *Device) RouteStatistics(s device.Stream, counts, mass, experts, scores kernels.Tensor, accumulate bool) {
	c := call{name: "RouteStatistics", run: runRouteStatistics}
	c.operands(2, counts, mass, experts, scores)
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckRouteStatistics(counts, mass, experts, scores), c)
}

func runRouteStatistics(d *Device, c *call) error {
	if err := checkIDs("experts", i32(c.args[2]), 0, c.args[3].Last()); err != nil {
		return err
	}
	d.parallel(c, c.args[0].Shape[0], statisticsRuns)
	return nil
}

// statisticsRuns works on the runs [from, to). One thread does all of a run, so that its tokens are added in order.
func statisticsRuns(_ *Device, c *call, _ *worker, from, to int) {
	experts, scores := i32(c.args[2]), &c.args[3]
	e, k := scores.Last(), c.args[2].Last()
	tokens := scores.Shape[0] / c.args[0].Shape[0]
	for run := from; run < to; run++ {
		counts, mass := f64(c.args[0])[run*e:][:e], f64(c.args[1])[run*e:][:e]
		if !c.flag[0] {
			clear(counts)
			clear(mass)
		}
		for _, expert := range experts[run*tokens*k:][:tokens*k] {
			counts[expert]++
		}
		for i := run * tokens; i < (run+1)*tokens; i++ {
			y := f32(*scores)[row(scores, i):][:e]
			sum := 0.0
			for _, v := range y {
				sum += float64(v)
			}
			for j, v := range y {
				mass[j] += float64(v) / sum
			}
		}
	}
}

// BalanceLoss computes a balancing loss and the gradient of the scores' shares.
func (d *Device) BalanceLoss(s device.Stream, loss, gradient, counts, mass kernels.Tensor, factor, weight float64) {
	c := call{name: "BalanceLoss", run: runBalanceLoss}
	c.operands(2, loss, gradient, counts, mass)
	c.f[0], c.f[1] = factor, weight
	d.launch(s, kernels.CheckBalanceLoss(loss, gradient, counts, mass), c)
}

func runBalanceLoss(_ *Device, c *call) error {
	gradient, counts, mass := f32(c.args[1]), f64(c.args[2]), f64(c.args[3])
	factor, weight := c.f[0], c.f[1]
	sum := 0.0
	for i, n := range counts {
		sum += float64(n * mass[i])
		gradient[i] = float32(weight * factor * n)
	}
	f64(c.args[0])[0] = factor * sum
	return nil
}

// RouterZLoss computes the loss that keeps a router's logits small, and adds its gradient to dlogits.
func (d *Device) RouterZLoss(s device.Stream, loss, dlogits, logits kernels.Tensor, weight float64) {
	c := call{name: "RouterZLoss", run: runRouterZLoss}
	c.operands(2, loss, dlogits, logits)
	c.f[0] = weight
	d.launch(s, kernels.CheckRouterZLoss(loss, dlogits, logits), c)
}

// runRouterZLoss goes over the tokens in order on one thread: their losses are added in that order.
func runRouterZLoss(d *Device, c *call) error {
	dlogits, logits := &c.args[1], &c.args[2]
	e, sum := logits.Last(), 0.0
	softmax := d.pool.workers[0].scratch[:e]
	for i := range logits.Shape[0] {
		x := f32(*logits)[row(logits, i):][:e]
		largest := d.set.max(x)
		total := d.set.expSum(softmax, x, largest)
		lse := math.Log(float64(total)) + float64(largest)
		sum += float64(lse * lse)
		d.set.axpy(f32(*dlogits)[row(dlogits, i):][:e], softmax, float32(2*c.f[0]*lse/float64(total)))
	}
	f64(c.args[0])[0] = sum
	return nil
}

// UpdateRouteBias moves each expert's bias by rate, against its load.
func (d *Device) UpdateRouteBias(s device.Stream, bias, counts, clip kernels.Tensor, rate float64) {
	c := call{name: "UpdateRouteBias", run: runUpdateRouteBias}
	c.operands(1, bias, counts, clip)
	c.f[0] = rate
	d.launch(s, kernels.CheckUpdateRouteBias(bias, counts, clip), c)
}

func runUpdateRouteBias(_ *Device, c *call) error {
	bias, counts := f32(c.args[0]), f64(c.args[1])
	if f64(c.args[2])[2] == 0 {
		return nil
	}
	sum := 0.0
	for _, n := range counts {
		sum += n
	}
	for i, n := range counts {
		switch mean := sum / float64(len(counts)); {
		case n < mean:
			bias[i] += float32(c.f[0])
		case n > mean:
			bias[i] -= float32(c.f[0])
		}
	}
	return nil
}
