package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// CrossEntropy computes each row's loss and, where dlogits is there, its gradient times scale.
func (d *Device) CrossEntropy(s device.Stream, loss, dlogits, logits, labels kernels.Tensor, scale float64) {
	c := call{name: "CrossEntropy", run: runCrossEntropy}
	c.operands(2, loss, dlogits, logits, labels)
	c.f[0] = scale
	d.launch(s, kernels.CheckCrossEntropy(loss, dlogits, logits, labels), c)
}

func runCrossEntropy(d *Device, c *call) error {
	if err := checkIDs("labels", i32(c.args[3]), math.MinInt32, c.args[2].Last()); err != nil {
		return err
	}
	return d.overRows(c, &c.args[2], crossEntropyRows)
}

func crossEntropyRows(d *Device, c *call, w *worker, from, to int) {
	losses := f32(c.args[0])
	c.labelledRows(from, to, func(i, label int, x, dx []float32) {
		losses[i] = crossEntropyRow(d.set, w, dx, x, label, c.f[0])
	})
}

// labelledRows calls each with the logits and the gradient, which is nil where none is wanted, of the rows in [from, to) that have
// a label. The loss and the gradient of the others are zero.
func (c *call) labelledRows(from, to int, each func(i, label int, x, dx []float32)) {
	dlogits, logits := &c.args[1], &c.args[2]
	losses, dxs, xs, labels := f32(c.args[0]), f32(*dlogits), f32(*logits), i32(c.args[3])
	n := logits.Last()
	i, end := rowSpan(logits, from, to)
	for ; i < end; i++ {
		var dx []float32
		if !dlogits.IsZero() {
			dx = dxs[row(dlogits, i):][:n]
		}
		if labels[i] < 0 {
			losses[i] = 0
			clear(dx)
			continue
		}
		each(i, int(labels[i]), xs[row(logits, i):][:n], dx)
	}
}

// crossEntropyBlock is how many logits are turned into exponentials at a time. The sums of the blocks are added in
// float64, so that a large vocabulary costs no accuracy.
const crossEntropyBlock = 4096

// expSum returns the sum of exp(x - largest), and leaves the exponentials in e, which may be x or nil.
func expSum(set *kernelSet, w *worker, e, x []float32, largest float32) float64 {
	sum := 0.0
	for at := 0; at < len(x); at += crossEntropyBlock {
		to := min(at+crossEntropyBlock, len(x))
		out := w.scratch[:to-at]
		if e != nil {
			out = e[at:to]
		}
		sum += float64(set.expSum(out, x[at:to], largest))
	}
	return sum
}

// crossEntropyRow returns logsumexp(x) - x[label] and sets dx, which may be x or nil, to scale * (softmax(x) -
// onehot(label)).
func crossEntropyRow(set *kernelSet, w *worker, dx, x []float32, label int, scale float64) float32 {
	largest, target := set.max(x), x[label]
	sum := expSum(set, w, dx, x, largest)
	if dx != nil {
		set.scale(dx, dx, float32(scale/sum))
		dx[label] -= float32(scale)
	}
	return float32(math.Log(sum) + (float64(largest) - float64(target)))
}
