package cpu

import (
	"errors"
	"sort"
	"unsafe"

	"lockstep/kernels"
)

// The backward pass recomputes the probabilities P = exp(scale * q k^T - statistics), block by block. With
//
//	dP = do v^T and dS = P * (dP - delta), delta being the sum of do * o over a row,
//
// the gradients are dv = P^T do, dk = scale * dS^T q and dq = scale * dS k. The outer loop goes over the keys, whose dk
// and dv stay in scratch memory; the inner loop goes over the rows, whose dq grows in place. One thread does all rows and
// keys of one head of k and v, in this order, so that the gradients have the same bits on any number of threads.

func runAttentionBackward(d *Device, c *call) error {
	q, k, v := &c.args[4], &c.args[5], &c.args[6]
	if err := errors.Join(checkHeadDim(q, v), checkDocuments(&c.args[10], k.Shape[1])); err != nil {
		return err
	}
	d.parallel(c, q.Shape[0]*k.Shape[2], attentionBackwardParts)
	return nil
}

func attentionBackwardParts(d *Device, c *call, w *worker, from, to int) {
	a := newAttention(d, c, 4, 9, 10)
	kvHeads := c.args[5].Shape[2]
	workspace, rows := float32s(c.args[3]), c.args[4].Shape[0]*kvHeads*a.rows()
	for part := from; part < to; part++ {
		a.b, a.kv = part/kvHeads, part%kvHeads
		b := newBackward(&a, c, w)
		b.delta = workspace[part*a.rows():][:a.rows()]
		if b.dq.narrow != nil {
			b.sums = workspace[rows+part*a.rows()*a.q.width:]
		}
		b.run()
	}
}

// float32s returns a workspace as float32s.
func float32s(t kernels.Tensor) []float32 {
	b := t.Region().Mapped()
	if len(b) < 4 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4)
}

// backward is the backward pass of one head of k and v. As in forward, matrices have whole panels.
type backward struct {
	attention
	dq, dk, dv, do, o headView
	delta             []float32 // of each row
	sums              []float32 // rows x D: dq, where that is BFloat16
	wide              []float32 // for packing, and for two rows

	// The block of keys, packed as B, and its gradients.
	firstKey, keys int
	keyScores      []float32 // D x keys, for the scores
	valueDP        []float32 // Dv x keys, for dP
	keyDQ          []float32 // keys x D, for dq
	dkSum          []float32 // keys x D
	dvSum          []float32 // keys x Dv

	// The block of rows, dense and packed.
	firstRow, n     int
	denseQ, denseDO []float32 // scale * q and do
	qScores         []float32 // as A: rows x D, for the scores
	doDP            []float32 // as A: rows x Dv, for dP
	qDK             []float32 // as B: rows x D, for dk
	doDV            []float32 // as B: rows x Dv, for dv

	// What the two blocks make.
	p, ds  []float32 // rows x keys
	packed []float32 // one panel of P^T, dS or dS^T, as A
	dqSum  []float32 // one panel of dq

	keyStride, dkStride, dvStride int // of the rows of p and ds, of dkSum and dqSum, and of dvSum
}

func newBackward(a *attention, c *call, w *worker) backward {
	b := backward{
		attention: *a, dq: newHeadView(c.args[0]), dk: newHeadView(c.args[1]), dv: newHeadView(c.args[2]),
		do: newHeadView(c.args[7]), o: newHeadView(c.args[8]),
	}
	t, d, dv := &a.set.tile, a.q.width, a.v.width
	mr, nr := t.a.width, t.b.width
	b.keyStride = roundUp(roundUp(backwardKeys, mr), nr)
	b.dkStride, b.dvStride = roundUp(d, nr), roundUp(dv, nr)
	rows, keys := roundUp(backwardRows, mr), roundUp(backwardKeys, mr)
	s := scratch{free: w.scratch}
	b.keyScores, b.valueDP = s.take(t.b.size(backwardKeys, d)), s.take(t.b.size(backwardKeys, dv))
	b.keyDQ = s.take(t.b.size(d, backwardKeys))
	b.dkSum, b.dvSum = s.take(keys*b.dkStride), s.take(keys*b.dvStride)
	b.denseQ, b.denseDO = s.take(backwardRows*d), s.take(backwardRows*dv)
	b.qScores, b.doDP = s.take(t.a.size(backwardRows, d)), s.take(t.a.size(backwardRows, dv))
	b.qDK, b.doDV = s.take(t.b.size(d, backwardRows)), s.take(t.b.size(dv, backwardRows))
	b.p, b.ds = s.take(rows*b.keyStride), s.take(rows*b.keyStride)
	b.packed, b.dqSum = s.take(mr*max(backwardRows, backwardKeys)), s.take(mr*b.dkStride)
	b.wide = s.take(a.wideElements())
	return b
}

// run computes the gradients of the head.
func (b *backward) run() {
	for r := range b.delta {
		b.delta[r] = b.set.dot(b.row(&b.do, r, b.wide), b.row(&b.o, r, b.wide[b.o.width:]))
		switch {
		case !b.accumulate:
			clear(b.dqRow(r))
		case b.sums != nil:
			copy(b.dqRow(r), b.row(&b.dq, r, b.wide))
		}
	}
	for j := 0; j < b.tk; j += backwardKeys {
		b.keyBlock(j, min(backwardKeys, b.tk-j))
	}
	for r := 0; b.sums != nil && r < len(b.delta); r++ {
		b.dq.store(b.set, b.at(&b.dq, r), b.dqRow(r))
	}
}

// dqRow returns where row r of dq grows.
func (b *backward) dqRow(r int) []float32 {
	if b.sums != nil {
		return b.sums[r*b.dq.width:][:b.dq.width]
	}
	return b.row(&b.dq, r, nil)
}

// keyBlock computes dk and dv of n keys from the j-th on, and what they contribute to dq.
func (b *backward) keyBlock(j, n int) {
	b.firstKey, b.keys = j, n
	b.pack(b.keyScores, &b.k, j, n, true, b.wide)
	b.pack(b.valueDP, &b.v, j, n, true, b.wide)
	b.pack(b.keyDQ, &b.k, j, n, false, b.wide)
	clear(b.dkSum)
	clear(b.dvSum)
	end := b.endSeeing(j + n - 1)
	for i := b.firstSeeing(j); i < end; i += backwardRows {
		b.rowBlock(i, min(backwardRows, end-i))
	}
	for y := range n {
		b.dk.store(b.set, b.dk.at(b.b, j+y, b.kv), b.dkSum[y*b.dkStride:])
		b.dv.store(b.set, b.dv.at(b.b, j+y, b.kv), b.dvSum[y*b.dvStride:])
	}
}

// firstSeeing returns the first row that sees key j, as far as the causal mask goes.
func (b *backward) firstSeeing(j int) int {
	if !b.causal {
		return 0
	}
	return max(0, j+b.tq-b.tk) * b.group
}

// endSeeing returns the end of the rows that see key j: the first row of a later document.
func (b *backward) endSeeing(j int) int {
	if b.documents == nil {
		return b.rows()
	}
	row := b.documents[b.b*b.documentStride:][:b.tq]
	return sort.Search(b.tq, func(i int) bool { return int(row[i]) > j }) * b.group
}

// rowBlock adds what n rows from the i-th on contribute to the gradients, together with the block of keys.
func (b *backward) rowBlock(i, n int) {
	b.firstRow, b.n = i, n
	t, d, dv := &b.set.tile, b.q.width, b.v.width
	b.gather(b.denseQ, &b.q, i, n, b.scale)
	b.gather(b.denseDO, &b.do, i, n, 1)
	t.a.pack(b.qScores, b.denseQ, d, true, n, d)
	t.a.pack(b.doDP, b.denseDO, dv, true, n, dv)
	t.b.pack(b.qDK, b.denseQ, d, false, d, n)
	t.b.pack(b.doDV, b.denseDO, dv, false, dv, n)
	for p := 0; p < n; p += t.a.width {
		b.rowPanel(p, min(t.a.width, n-p))
	}
	for y := 0; y < b.keys; y += t.a.width {
		// Rows outside this range have zeros in all of the panel's columns.
		from := max(0, b.firstSeeing(b.firstKey+y)-i)
		to := min(n, b.endSeeing(b.firstKey+min(y+t.a.width, b.keys)-1)-i)
		if from >= to {
			continue
		}
		b.addTransposed(b.dvSum[y*b.dvStride:], b.dvStride, b.p[y:], b.doDV, from, to)
		b.addTransposed(b.dkSum[y*b.dkStride:], b.dkStride, b.ds[y:], b.qDK, from, to)
	}
}

// rowPanel computes p and ds of a panel of rows, the ones from p on in the block, and adds ds k to their dq.
func (b *backward) rowPanel(p, rows int) {
	t, d, dv, first := &b.set.tile, b.q.width, b.v.width, b.firstRow+p
	prob, ds := b.p[p*b.keyStride:], b.ds[p*b.keyStride:]
	from, to := b.seenBy(first, rows, b.firstKey, b.keys)
	tile := from - from%t.b.width
	for x := tile; x < to; x += t.b.width {
		t.multiply(d, &b.qScores[p*d], &b.keyScores[x*d], &prob[x], b.keyStride, false)
		t.multiply(dv, &b.doDP[p*dv], &b.valueDP[x*dv], &ds[x], b.keyStride, false)
	}
	// What rowBlock reads of these rows: whole panels of keys, which are not as wide as tiles of scores.
	left := min(tile, from-from%t.a.width)
	right := max(left, roundUp(to, t.a.width))
	for r := range rows {
		i, end := b.seen(first+r, b.firstKey, b.keys)
		b.scoreGradient(first+r, i-left, end-left, prob[r*b.keyStride:][left:right], ds[r*b.keyStride:][left:right])
	}
	if from >= to {
		return
	}
	t.a.transpose(to-tile, &b.packed[0], &ds[tile], b.keyStride)
	for x := 0; x < b.dkStride; x += t.b.width {
		t.multiply(to-tile, &b.packed[0], &b.keyDQ[x*b.keys+tile*t.b.width], &b.dqSum[x], b.dkStride, false)
	}
	for r := range rows {
		b.set.axpy(b.dqRow(first+r), b.dqSum[r*b.dkStride:][:d], b.scale)
	}
}

// scoreGradient turns one row's scores and dP into P and dS, which are zero outside the keys [from, to) that the row sees.
func (b *backward) scoreGradient(row, from, to int, p, ds []float32) {
	if from >= to {
		clear(p)
		clear(ds)
		return
	}
	for _, x := range [2][]float32{p, ds} {
		clear(x[:from])
		clear(x[to:])
	}
	p, ds = p[from:to], ds[from:to]
	b.set.expSum(p, p, *b.statistic(row))
	b.set.scaleMulAdd(ds, p, ds, p, 1, -b.delta[row])
}

// addTransposed adds a panel of m^T times the packed rows to sum, m being columns of p or ds, over the block's rows
// [from, to).
func (b *backward) addTransposed(sum []float32, stride int, m, rows []float32, from, to int) {
	t := &b.set.tile
	t.a.copy(to-from, &b.packed[0], &m[from*b.keyStride], b.keyStride)
	for x := 0; x < stride; x += t.b.width {
		t.multiply(to-from, &b.packed[0], &rows[x*b.n+from*t.b.width], &sum[x], stride, true)
	}
}
