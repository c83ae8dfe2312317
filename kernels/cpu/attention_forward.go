package cpu

import (
	"errors"
	"math"
)

func runAttention(d *Device, c *call) error {
	q, k, v := &c.args[2], &c.args[3], &c.args[4]
	if err := errors.Join(checkHeadDim(q, v), checkDocuments(&c.args[5], k.Shape[1])); err != nil {
		return err
	}
	a := newAttention(d, c, 2, 1, 5)
	d.parallel(c, q.Shape[0]*k.Shape[2]*partsOf(a.rows(), forwardRows), attentionParts)
	return nil
}

// attentionParts works on blocks of rows. Under a causal mask later blocks take longer, so they come first.
func attentionParts(d *Device, c *call, w *worker, from, to int) {
	a := newAttention(d, c, 2, 1, 5)
	o, kvHeads, blocks := newHeadView(c.args[0]), c.args[3].Shape[2], partsOf(a.rows(), forwardRows)
	for part := from; part < to; part++ {
		head, block := part%(c.args[2].Shape[0]*kvHeads), blocks-1-part/(c.args[2].Shape[0]*kvHeads)
		a.b, a.kv = head/kvHeads, head%kvHeads
		f := newForward(&a, w, block*forwardRows)
		f.run(&o)
	}
}

// forward is the forward pass of one block of rows. Matrices have whole panels, so that no tile reaches over an edge; what
// lies in the padding is never read by another row or column.
type forward struct {
	attention
	first, n  int       // the block's rows
	packedQ   []float32 // as A: rows x D
	packedK   []float32 // as B: D x keys
	packedV   []float32 // as B: keys x Dv
	score     []float32 // one panel's scores, then their exponentials
	packedExp []float32 // as A: one panel's exponentials
	out       []float32 // rows x Dv, not yet divided by sum
	max, sum  []float32 // of each row
	wide      []float32 // for packing
	keyStride int       // of a row of score
	outStride int
}

func newForward(a *attention, w *worker, first int) forward {
	t := &a.set.tile
	mr, nr := t.a.width, t.b.width
	f := forward{attention: *a, first: first, n: min(forwardRows, a.rows()-first)}
	f.keyStride, f.outStride = roundUp(forwardKeys, nr), roundUp(a.v.width, nr)
	s := scratch{free: w.scratch}
	f.packedQ = s.take(t.a.size(f.n, a.q.width))
	f.packedK = s.take(t.b.size(forwardKeys, a.k.width))
	f.packedV = s.take(t.b.size(a.v.width, forwardKeys))
	f.score = s.take(mr * f.keyStride)
	f.packedExp = s.take(mr * forwardKeys)
	f.out = s.take(roundUp(f.n, mr) * f.outStride)
	f.max, f.sum = s.take(f.n), s.take(f.n)
	f.wide = s.take(a.wideElements())
	dense := s.take(f.n * a.q.width)
	// Scaling q scales the scores, and costs less.
	a.gather(dense, &a.q, first, f.n, a.scale)
	t.a.pack(f.packedQ, dense, a.q.width, true, f.n, a.q.width)
	return f
}

// run computes the rows of o and their statistics.
func (f *forward) run(o *headView) {
	clear(f.out)
	for i := range f.n {
		f.start(o, i)
	}
	t := &f.set.tile
	seen := f.visible(f.first + f.n - 1)
	for j := f.documentStart(f.first); j < seen; j += forwardKeys {
		keys := min(forwardKeys, seen-j)
		f.pack(f.packedK, &f.k, j, keys, true, f.wide)
		f.pack(f.packedV, &f.v, j, keys, false, f.wide)
		for i := 0; i < f.n; i += t.a.width {
			f.panel(i, j, keys)
		}
	}
	for i := range f.n {
		f.finish(o, i)
	}
}

// start begins row i of the block: with what o and the statistics have of other keys, if it goes on from there, else with nothing.
func (f *forward) start(o *headView, i int) {
	f.max[i], f.sum[i] = float32(math.Inf(-1)), 0
	if !f.accumulate {
		return
	}
	if before := *f.statistic(f.first + i); before != f.max[i] {
		f.max[i], f.sum[i] = before, 1
		copy(f.out[i*f.outStride:], f.row(o, f.first+i, f.wide))
	}
}

// panel adds what the keys [j, j+keys) contribute to the rows of the panel that starts at row i of the block.
func (f *forward) panel(i, j, keys int) {
	t, d := &f.set.tile, f.q.width
	rows := min(t.a.width, f.n-i)
	from, to := f.seenBy(f.first+i, rows, j, keys)
	if from >= to {
		return
	}
	from -= from % t.b.width // tiles of scores are whole
	for x := from; x < to; x += t.b.width {
		t.multiply(d, &f.packedQ[i*d], &f.packedK[x*d], &f.score[x], f.keyStride, false)
	}
	for r := range rows {
		first, end := f.seen(f.first+i+r, j, keys)
		f.softmax(i+r, f.score[r*f.keyStride:][from:to], first-from, end-from)
	}
	t.a.transpose(to-from, &f.packedExp[0], &f.score[from], f.keyStride)
	for x := 0; x < f.outStride; x += t.b.width {
		t.multiply(to-from, &f.packedExp[0], &f.packedV[x*keys+from*t.b.width], &f.out[i*f.outStride+x], f.outStride, true)
	}
}

// softmax turns the scores of row i into exponentials relative to the row's maximum so far, zeros outside the [from, to)
// that the row sees, and rescales what the row already has where the maximum has grown.
func (f *forward) softmax(i int, score []float32, from, to int) {
	if from >= to {
		clear(score)
		return
	}
	clear(score[:from])
	clear(score[to:])
	score = score[from:to]
	if m := f.set.max(score); m > f.max[i] {
		factor := exp(f.max[i] - m)
		out := f.out[i*f.outStride:][:f.outStride]
		f.set.scale(out, out, factor)
		f.sum[i] *= factor
		f.max[i] = m
	}
	f.sum[i] += f.set.expSum(score, score, f.max[i])
}

// finish writes row i of the block.
func (f *forward) finish(o *headView, i int) {
	out, sum := f.out[i*f.outStride:][:o.width], f.sum[i]
	*f.statistic(f.first + i) = f.max[i] + float32(math.Log(float64(sum)))
	if sum == 0 { // the row sees no key
		clear(out)
	} else {
		f.set.scale(out, out, 1/sum)
	}
	o.store(f.set, f.at(o, f.first+i), out)
}
