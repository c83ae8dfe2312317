package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A router's work is small: E scores for each token. It is plain Go in all kernel sets but for the exponentials.

// The places of RouteOptions in a call.
const (
	routeGroups, routeTopGroups, routeEpsilon, routeScale = 0, 1, 2, 3 // of f
	routeSigmoid, routeTopTwo, routeNormalize             = 0, 1, 2    // of flag
)

func setRouteOptions(c *call, o kernels.RouteOptions) {
	c.f[routeGroups], c.f[routeTopGroups] = float64(max(o.Groups, 1)), float64(o.TopGroups)
	c.f[routeEpsilon], c.f[routeScale] = o.Epsilon, o.Scale
	c.flag = [maxFlags]bool{o.Sigmoid, o.GroupTopTwo, o.Normalize}
}

// Route scores the experts, chooses each token's and computes their weights.
func (d *Device) Route(s device.Stream, weights, experts, scores, logits, bias kernels.Tensor, o kernels.RouteOptions) {
	c := call{name: "Route", run: runRoute}
	c.operands(3, weights, experts, scores, logits, bias)
	setRouteOptions(&c, o)
	d.launch(s, kernels.CheckRoute(weights, experts, scores, logits, bias, o), c)
}

func runRoute(d *Device, c *call) error {
	return d.overRows(c, &c.args[3], routeRows)
}

func routeRows(d *Device, c *call, w *worker, from, to int) {
	scores, logits := &c.args[2], &c.args[3]
	weights, experts, bias := f32(c.args[0]), i32(c.args[1]), f32(c.args[4])
	e, k := logits.Last(), c.args[1].Last()
	s := scratch{free: w.scratch}
	choice, groups := s.take(e), s.take(int(c.f[routeGroups]))
	i, end := rowSpan(logits, from, to)
	for ; i < end; i++ {
		x, y := f32(*logits)[row(logits, i):][:e], f32(*scores)[row(scores, i):][:e]
		d.set.score(y, x, c.flag[routeSigmoid])
		copy(choice, y)
		if len(bias) > 0 {
			d.set.add(choice, choice, bias)
		}
		keepGroups(choice, groups, int(c.f[routeTopGroups]), c.flag[routeTopTwo])
		chosen, weight := experts[i*k:][:k], weights[i*k:][:k]
		for j := range chosen {
			best := largest(choice)
			chosen[j], weight[j] = int32(best), y[best]
			choice[best] = float32(math.Inf(-1))
		}
		scaleWeights(weight, c.flag[routeNormalize], float32(c.f[routeEpsilon]), float32(c.f[routeScale]))
	}
}

// score computes a token's scores y from its logits x: their sigmoids, or their softmax.
func (set *kernelSet) score(y, x []float32, sigmoid bool) {
	if sigmoid {
		for i, v := range x {
			y[i] = 1 / (1 + exp(-v))
		}
		return
	}
	sum := set.expSum(y, x, set.max(x))
	set.scale(y, y, 1/sum)
}

// keepGroups sets the scores of all groups but the top ones to -Inf. There are as many groups as worth has elements.
func keepGroups(choice, worth []float32, top int, bestTwo bool) {
	if len(worth) == 1 {
		return
	}
	size := len(choice) / len(worth)
	for g := range worth {
		worth[g] = groupWorth(choice[g*size:][:size], bestTwo)
	}
	for range len(worth) - top {
		g := smallest(worth)
		worth[g] = float32(math.Inf(1))
		for i := range size {
			choice[g*size+i] = float32(math.Inf(-1))
		}
	}
}

// groupWorth returns the largest element of x, or the sum of the largest two.
func groupWorth(x []float32, bestTwo bool) float32 {
	first, second := float32(math.Inf(-1)), float32(math.Inf(-1))
	for _, v := range x {
		if v > first {
			first, second = v, first
		} else if v > second {
			second = v
		}
	}
	if bestTwo {
		return first + second
	}
	return first
}

// largest returns the index of the largest element, the first of equals.
func largest(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// smallest returns the index of the smallest element, the last of equals: what is left are the first of the largest.
func smallest(x []float32) int {
	worst := 0
	for i, v := range x {
		if v <= x[worst] {
			worst = i
		}
	}
	return worst
}

// scaleWeights divides the weights by their sum plus epsilon where they are normalised, and multiplies them by scale.
func scaleWeights(weight []float32, normalize bool, epsilon, scale float32) {
	if normalize {
		sum := float32(0)
		for _, v := range weight {
			sum += v
		}
		sum += epsilon
		for i := range weight {
			weight[i] /= sum
		}
	}
	for i := range weight {
		weight[i] *= scale
	}
}

// LeaveOutPadding takes the experts of tokens that are padding.
func (d *Device) LeaveOutPadding(s device.Stream, experts, labels kernels.Tensor) {
	c := call{name: "LeaveOutPadding", run: runLeaveOutPadding}
	c.operands(1, experts, labels)
	d.launch(s, kernels.CheckLeaveOutPadding(experts, labels), c)
}

func runLeaveOutPadding(_ *Device, c *call) error {
	experts, k := i32(c.args[0]), c.args[0].Last()
	for i, label := range i32(c.args[1]) {
		if label != kernels.PaddingLabel {
			continue
		}
		for j := range k {
			experts[i*k+j] = none
		}
	}
	return nil
}

// RouteBackward computes the gradient of the logits.
func (d *Device) RouteBackward(s device.Stream, dlogits, dweights, experts, scores, balance kernels.Tensor, o kernels.RouteOptions) {
	c := call{name: "RouteBackward", run: runRouteBackward}
	c.operands(1, dlogits, dweights, experts, scores, balance)
	setRouteOptions(&c, o)
	d.launch(s, kernels.CheckRouteBackward(dlogits, dweights, experts, scores, balance, o), c)
}

func runRouteBackward(d *Device, c *call) error {
	if err := checkIDs("experts", i32(c.args[2]), none, c.args[3].Last()); err != nil {
		return err
	}
	return d.overRows(c, &c.args[3], routeBackwardRows)
}

func routeBackwardRows(d *Device, c *call, w *worker, from, to int) {
	dlogits, scores, balance := &c.args[0], &c.args[3], &c.args[4]
	dweights, experts := f32(c.args[1]), i32(c.args[2])
	e, k := scores.Last(), c.args[2].Last()
	ds := w.scratch[:e]
	i, end := rowSpan(scores, from, to)
	for ; i < end; i++ {
		if experts[i*k] == none {
			clear(f32(*dlogits)[row(dlogits, i):][:e])
			continue
		}
		y := f32(*scores)[row(scores, i):][:e]
		clear(ds)
		if !balance.IsZero() {
			run := i / (scores.Shape[0] / balance.Shape[0])
			balanceGradient(d.set, ds, f32(*balance)[row(balance, run):][:e], y)
		}
		weightGradient(ds, dweights[i*k:][:k], experts[i*k:][:k], y, c)
		dx := f32(*dlogits)[row(dlogits, i):][:e]
		if c.flag[routeSigmoid] {
			for j, v := range y {
				dx[j] = float32(ds[j]*v) * (1 - v)
			}
			continue
		}
		mean := d.set.dot(ds, y)
		for j, v := range y {
			dx[j] = v * (ds[j] - mean)
		}
	}
}

// balanceGradient sets ds to the gradient of the scores y, when b is that of y divided by its sum.
func balanceGradient(set *kernelSet, ds, b, y []float32) {
	sum := float32(0)
	for _, v := range y {
		sum += v
	}
	mean := set.dot(b, y) / sum
	for i, v := range b {
		ds[i] = (v - mean) / sum
	}
}

// weightGradient adds to ds the gradient of the scores y of the chosen experts from that of their weights.
func weightGradient(ds, dweight []float32, chosen []int32, y []float32, c *call) {
	scale := float32(c.f[routeScale])
	if !c.flag[routeNormalize] {
		for j, expert := range chosen {
			ds[expert] += float32(scale * dweight[j])
		}
		return
	}
	sum, product := float32(0), float32(0)
	for j, expert := range chosen {
		sum += y[expert]
		product += float32(dweight[j] * y[expert])
	}
	sum += float32(c.f[routeEpsilon])
	for j, expert := range chosen {
		ds[expert] += scale * (dweight[j] - product/sum) / sum
	}
}
