package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// EmbeddingPart gathers the rows of a part of the table, and zeros for ids that it does not have.
func (d *Device) EmbeddingPart(s device.Stream, y, weight, ids kernels.Tensor, v kernels.Vocabulary) {
	c := call{name: "EmbeddingPart", run: runEmbeddingPart}
	c.operands(1, y, weight, ids)
	c.vocabulary(v)
	d.launch(s, kernels.CheckEmbeddingPart(y, weight, ids, v), c)
}

// vocabulary notes which part of a vocabulary the call works on; part returns its first id and the size of the whole.
func (c *call) vocabulary(v kernels.Vocabulary) { c.word = [3]uint64{uint64(v.First), uint64(v.Whole)} }

func (c *call) part() (first, whole int) { return int(c.word[0]), int(c.word[1]) }

func runEmbeddingPart(d *Device, c *call) error {
	_, whole := c.part()
	if err := checkIDs("ids", i32(c.args[2]), math.MinInt32, whole); err != nil {
		return err
	}
	return d.overRows(c, &c.args[0], embeddingPartRows)
}

func embeddingPartRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, weight, ids := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1]), i32(c.args[2])
	first, _ := c.part()
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		out, id := y.at(i), int(ids[i])-first
		if id < 0 || id >= c.args[1].Shape[0] {
			clear(out)
		} else {
			copy(out, weight.read(id))
		}
		y.store(i)
	}
}

// CrossEntropyPart computes each row's largest logit, sum of exponentials, and the label's logit.
func (d *Device) CrossEntropyPart(s device.Stream, stats, logits, labels kernels.Tensor, v kernels.Vocabulary) {
	c := call{name: "CrossEntropyPart", run: runCrossEntropyPart}
	c.operands(1, stats, logits, labels)
	c.vocabulary(v)
	d.launch(s, kernels.CheckCrossEntropyPart(stats, logits, labels, v), c)
}

func runCrossEntropyPart(d *Device, c *call) error {
	_, whole := c.part()
	if err := checkIDs("labels", i32(c.args[2]), math.MinInt32, whole); err != nil {
		return err
	}
	return d.overRows(c, &c.args[1], crossEntropyPartRows)
}

func crossEntropyPartRows(d *Device, c *call, w *worker, from, to int) {
	stats, logits := &c.args[0], &c.args[1]
	out, xs, labels := f32(*stats), f32(*logits), i32(c.args[2])
	first, _ := c.part()
	i, end := rowSpan(logits, from, to)
	for ; i < end; i++ {
		x := xs[row(logits, i):][:logits.Last()]
		largest := d.set.max(x)
		o := out[row(stats, i):][:kernels.CrossEntropyStats]
		less := largest
		if math.IsInf(float64(less), -1) {
			less = 0 // of nothing but minus infinities, the sum is 0 and not that of infinities' differences
		}
		o[0], o[1], o[2] = largest, float32(expSum(d.set, w, nil, x, less)), 0
		if label := int(labels[i]) - first; label >= 0 && label < len(x) {
			o[2] = x[label]
		}
	}
}

// CrossEntropyMerge computes each row's loss from all parts and, where dlogits is there, this part's gradient times scale.
func (d *Device) CrossEntropyMerge(s device.Stream, loss, dlogits, logits, labels, stats kernels.Tensor, v kernels.Vocabulary, scale float64) {
	c := call{name: "CrossEntropyMerge", run: runCrossEntropyMerge}
	c.operands(2, loss, dlogits, logits, labels, stats)
	c.vocabulary(v)
	c.f[0] = scale
	d.launch(s, kernels.CheckCrossEntropyMerge(loss, dlogits, logits, labels, stats, v), c)
}

func runCrossEntropyMerge(d *Device, c *call) error {
	_, whole := c.part()
	if err := checkIDs("labels", i32(c.args[3]), math.MinInt32, whole); err != nil {
		return err
	}
	return d.overRows(c, &c.args[2], crossEntropyMergeRows)
}

func crossEntropyMergeRows(d *Device, c *call, w *worker, from, to int) {
	losses, scale := f32(c.args[0]), c.f[0]
	first, _ := c.part()
	c.labelledRows(from, to, func(i, label int, x, dx []float32) {
		largest, sum, target := mergeStats(&c.args[4], i)
		losses[i] = float32(math.Log(sum) + (float64(largest) - float64(target)))
		if dx == nil {
			return
		}
		expSum(d.set, w, dx, x, largest)
		d.set.scale(dx, dx, float32(scale/sum))
		if label -= first; label >= 0 && label < len(dx) {
			dx[label] -= float32(scale)
		}
	})
}

// mergeStats returns the largest logit of row i, the sum of the exponentials of all less the largest, and the label's logit,
// which one part has and the others give as 0. Parts are added in their order, so that all ranks get the same bits.
func mergeStats(stats *kernels.Tensor, i int) (largest float32, sum float64, target float32) {
	all := f32(*stats)
	of := func(part int) []float32 {
		return all[part*stats.Stride[0]+i*stats.Stride[1]:][:kernels.CrossEntropyStats]
	}
	largest = of(0)[0]
	for part := range stats.Shape[0] {
		largest = max(largest, of(part)[0])
	}
	for part := range stats.Shape[0] {
		p := of(part)
		target += p[2]
		sum += float64(float64(p[1]) * math.Exp(float64(p[0])-float64(largest)))
	}
	return largest, sum, target
}
