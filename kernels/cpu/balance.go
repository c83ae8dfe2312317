package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// CountAssignments counts each run's assignments by expert. It is a look at each, on one thread.
func (d *Device) CountAssignments(s device.Stream, counts, experts kernels.Tensor, accumulate bool) {
	c := call{name: "CountAssignments", run: runCountAssignments}
	c.operands(1, counts, experts)
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckCountAssignments(counts, experts), c)
}

func runCountAssignments(_ *Device, c *call) error {
	counts, experts := f64(c.args[0]), i32(c.args[1])
	runs, e := c.args[0].Shape[0], c.args[0].Shape[1]
	if err := checkIDs("experts", experts, none, e); err != nil {
		return err
	}
	if !c.flag[0] {
		clear(counts)
	}
	for i, expert := range experts {
		if expert != none {
			counts[i/(len(experts)/runs)*e+int(expert)]++
		}
	}
	return nil
}

// SumScores adds up each run's scores, divided by their token's sum.
func (d *Device) SumScores(s device.Stream, mass, scores, experts kernels.Tensor, accumulate bool) {
	c := call{name: "SumScores", run: runSumScores}
	c.operands(1, mass, scores, experts)
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckSumScores(mass, scores, experts), c)
}

func runSumScores(d *Device, c *call) error {
	d.parallel(c, c.args[0].Shape[0], sumScoresOfRuns)
	return nil
}

// sumScoresOfRuns works on the runs [from, to). One thread does all of a run, so that its tokens are added in order.
func sumScoresOfRuns(_ *Device, c *call, _ *worker, from, to int) {
	scores, e := &c.args[1], c.args[1].Last()
	experts, k := i32(c.args[2]), c.args[2].Last()
	tokens := scores.Shape[0] / c.args[0].Shape[0]
	for run := from; run < to; run++ {
		mass := f64(c.args[0])[run*e:][:e]
		if !c.flag[0] {
			clear(mass)
		}
		for i := run * tokens; i < (run+1)*tokens; i++ {
			if experts[i*k] == none {
				continue
			}
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
func (d *Device) BalanceLoss(s device.Stream, loss, gradient, counts, load, mass kernels.Tensor, factor, weight float64) {
	c := call{name: "BalanceLoss", run: runBalanceLoss}
	c.operands(2, loss, gradient, counts, load, mass)
	c.f[0], c.f[1] = factor, weight
	d.launch(s, kernels.CheckBalanceLoss(loss, gradient, counts, load, mass), c)
}

func runBalanceLoss(_ *Device, c *call) error {
	gradient, counts, load, mass := f32(c.args[1]), f64(c.args[2]), f64(c.args[3]), f64(c.args[4])
	factor, weight, e := c.f[0], c.f[1], c.args[2].Last()
	loss := 0.0
	for at := 0; at < len(counts); at += e {
		n, all := countOf(counts[at:at+e]), countOf(load[at:at+e])
		for i := at; i < at+e; i++ {
			share := 0.0 // f/n
			if n > 0 && all > 0 {
				share = load[i] / all / n
			}
			loss += float64(share * mass[i])
			gradient[i] = float32(weight * factor * share)
		}
	}
	f64(c.args[0])[0] = factor * loss
	return nil
}

// countOf returns the sum of counts, which are whole numbers.
func countOf(counts []float64) (sum float64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// RouterZLoss computes the loss that keeps a router's logits small, and adds its gradient to dlogits.
func (d *Device) RouterZLoss(s device.Stream, loss, dlogits, logits, experts kernels.Tensor, weight float64) {
	c := call{name: "RouterZLoss", run: runRouterZLoss}
	c.operands(2, loss, dlogits, logits, experts)
	c.f[0] = weight
	d.launch(s, kernels.CheckRouterZLoss(loss, dlogits, logits, experts), c)
}

// runRouterZLoss goes over the tokens in order on one thread: their losses are added in that order.
func runRouterZLoss(d *Device, c *call) error {
	dlogits, logits := &c.args[1], &c.args[2]
	experts, k := i32(c.args[3]), c.args[3].Last()
	e, sum := logits.Last(), 0.0
	softmax := d.pool.workers[0].scratch[:e]
	for i := range logits.Shape[0] {
		if experts[i*k] == none {
			continue
		}
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
	sum := countOf(counts)
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
