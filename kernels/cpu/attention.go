package cpu

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Attention works on blocks of rows and keys, so that no matrix of Tq x Tk scores is ever in memory: Dao, Fu, Ermon,
// Rudra, Re, "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", NeurIPS 2022. A row's maximum
// and sum are kept while its keys go by, and its output is rescaled where the maximum grows (online softmax).
//
// The query heads that share a head of k and v are worked on together: its rows are the queries of all of them, time
// first, so that row r is head r%group at time r/group. They share the packed keys, and under a causal mask what later
// rows see is never less than what earlier ones do.
//
// Packed documents narrow what a row sees to [first, visible), both of which never decrease from row to row. So a block
// of rows begins with the first key of its first row, a block of keys ends with the last row that sees its last key, and
// within a block each panel works on the columns between its first row's first key and its last row's last. What lies
// beyond costs nothing, and documents of a bounded length make the cost linear in Tq.
//
// Orders of summation depend on Tk, on the documents and on the block sizes alone.
const (
	forwardRows, forwardKeys   = 192, 256
	backwardRows, backwardKeys = 96, 192
	// maxHeadDim is the largest D or Dv whose blocks fit a worker's scratch memory.
	maxHeadDim = 512
)

// AttentionSizes returns the shape of the statistics, [B,N,Tq], and the bytes of AttentionBackward's workspace: a float32
// for each row of scores, and one for each element of q where that is BFloat16, because its gradient grows with each block of
// keys.
func (d *Device) AttentionSizes(q, _, _ kernels.Tensor) (statistics []int, workspace int) {
	rows := q.Shape[0] * q.Shape[2] * q.Shape[1]
	workspace = rows * device.Float32.Size()
	if q.DType == device.BFloat16 {
		workspace *= 1 + q.Shape[3]
	}
	return []int{q.Shape[0], q.Shape[2], q.Shape[1]}, workspace
}

// Attention computes o = softmax(scale * q k^T + mask) v and, for the backward pass, the log of each row's sum of
// exponentials. With Accumulate a row goes on from these two: they are what one key would leave whose score is the log and
// whose v is the output. A row that sees no key has output 0 and statistics -Inf. A key that a row does not see may still count with
// weight zero, so that an infinity or a NaN of its v can show in that row.
func (d *Device) Attention(s device.Stream, o, statistics, q, k, v kernels.Tensor, opt kernels.AttentionOptions) {
	c := call{name: "Attention", run: runAttention, f: [6]float64{opt.Scale}, flag: [maxFlags]bool{opt.Causal, opt.Accumulate}}
	c.operands(2, o, statistics, q, k, v, opt.Documents)
	d.launch(s, kernels.CheckAttention(o, statistics, q, k, v, opt, q.Shape[0], q.Shape[2], q.Shape[1]), c)
}

// AttentionBackward computes dq, dk and dv, or adds to dq.
func (d *Device) AttentionBackward(s device.Stream, dq, dk, dv, do, q, k, v, o, statistics, workspace kernels.Tensor, opt kernels.AttentionOptions) {
	c := call{name: "AttentionBackward", run: runAttentionBackward, f: [6]float64{opt.Scale}, flag: [maxFlags]bool{opt.Causal, opt.Accumulate}}
	c.operands(4, dq, dk, dv, workspace, q, k, v, do, o, statistics, opt.Documents)
	shape, bytes := d.AttentionSizes(q, k, v)
	check := kernels.CheckAttentionBackward(dq, dk, dv, do, q, k, v, o, statistics, workspace, opt, bytes, shape...)
	d.launch(s, check, c)
}

// A headView finds the rows of one tensor [B,T,N,D].
type headView struct {
	x      []float32
	narrow []uint16 // in place of x, where the tensor is BFloat16
	stride [3]int
	width  int
}

func newHeadView(t kernels.Tensor) headView {
	h := headView{stride: [3]int(t.Stride[:3]), width: t.Shape[3]}
	if t.DType == device.BFloat16 {
		h.narrow = bf16(t)
	} else {
		h.x = f32(t)
	}
	return h
}

// at returns where one head's row begins; the rows of later times follow stride[1] elements apart.
func (h *headView) at(b, time, head int) int {
	return b*h.stride[0] + time*h.stride[1] + head*h.stride[2]
}

// store writes a row.
func (h *headView) store(set *kernelSet, at int, row []float32) {
	if h.narrow != nil {
		set.toBFloat16(h.narrow[at:][:h.width], row[:h.width])
	} else {
		copy(h.x[at:][:h.width], row)
	}
}

// attention is one head of k and v at work, with the rows that share it.
type attention struct {
	set        *kernelSet
	q, k, v    headView
	b, kv      int // batch and head
	tq, tk     int
	group      int // heads of q that share this head
	scale      float32
	causal     bool
	accumulate bool
	statistics []float32
	documents  []int32 // the first key of each query, its rows documentStride apart; nil where all start with key 0

	statisticStride [2]int // of batches and heads
	documentStride  int
}

// newAttention reads the problem from a call whose arguments q, k and v start at first.
func newAttention(d *Device, c *call, first, statistics, documents int) attention {
	q, k := &c.args[first], &c.args[first+1]
	return attention{
		set: d.set, q: newHeadView(c.args[first]), k: newHeadView(c.args[first+1]), v: newHeadView(c.args[first+2]),
		tq: q.Shape[1], tk: k.Shape[1], group: q.Shape[2] / k.Shape[2],
		scale: float32(c.f[0]), causal: c.flag[0], accumulate: c.flag[1], statistics: f32(c.args[statistics]),
		documents: i32(c.args[documents]), documentStride: c.args[documents].Stride[0],
		statisticStride: [2]int(c.args[statistics].Stride[:2]),
	}
}

// rows returns how many rows share the head.
func (a *attention) rows() int { return a.tq * a.group }

// at returns where row r of a tensor with as many heads as q begins.
func (a *attention) at(h *headView, r int) int {
	return h.at(a.b, r/a.group, a.kv*a.group+r%a.group)
}

// row returns row r of a tensor with as many heads as q, in wide where it is BFloat16.
func (a *attention) row(h *headView, r int, wide []float32) []float32 {
	at := a.at(h, r)
	if h.narrow != nil {
		a.set.toFloat32(wide[:h.width], h.narrow[at:][:h.width])
		return wide[:h.width]
	}
	return h.x[at:][:h.width]
}

// pack packs the keys [j, j+n) of a tensor with as many heads as k: as lines of op(B), or else as its rows.
func (a *attention) pack(dst []float32, h *headView, j, n int, lines bool, wide []float32) {
	s := source{float32s: h.x, bfloat16s: h.narrow, stride: h.stride[1], deep: lines}
	at := h.at(a.b, j, a.kv)
	if h.narrow != nil {
		s.bfloat16s = h.narrow[at:]
	} else {
		s.float32s = h.x[at:]
	}
	e := extent{n: n, depth: h.width}
	if !lines {
		e = extent{n: h.width, depth: n}
	}
	panels := &a.set.tile.b
	s.pack(a.set, panels, dst[:panels.size(e.n, e.depth)], e, e.depth, wide)
}

// statistic returns the place of row r's statistics.
func (a *attention) statistic(r int) *float32 {
	return &a.statistics[a.b*a.statisticStride[0]+(a.kv*a.group+r%a.group)*a.statisticStride[1]+r/a.group]
}

// visible returns the end of the keys that row r sees.
func (a *attention) visible(r int) int {
	if !a.causal {
		return a.tk
	}
	return min(max(r/a.group+a.tk-a.tq+1, 0), a.tk)
}

// documentStart returns the first key that row r sees, if it sees any.
func (a *attention) documentStart(r int) int {
	if a.documents == nil {
		return 0
	}
	return int(a.documents[a.b*a.documentStride+r/a.group])
}

// seen returns which of the n keys from j on row r sees: [from, to), counted from j, with from = to where it sees none.
func (a *attention) seen(r, j, n int) (from, to int) {
	to = min(max(a.visible(r)-j, 0), n)
	return min(max(a.documentStart(r)-j, 0), to), to
}

// seenBy returns which keys the rows [r, r+rows) see among the n from j on: [from, to), counted from j. It is empty, with
// from >= to, where none of them sees any.
func (a *attention) seenBy(r, rows, j, n int) (from, to int) {
	return max(a.documentStart(r)-j, 0), min(max(a.visible(r+rows-1)-j, 0), n)
}

// wideElements is the size of the memory that pack widens BFloat16 in, and two rows fit.
func (a *attention) wideElements() int {
	return max(wideElements, a.set.tile.b.width*max(a.k.width, a.v.width), 2*maxHeadDim)
}

// gather copies rows [from, from+n) of a tensor to a dense matrix, times scale.
func (a *attention) gather(dst []float32, h *headView, from, n int, scale float32) {
	for i := range n {
		to := dst[i*h.width:][:h.width]
		a.set.scale(to, a.row(h, from+i, to), scale)
	}
}

// checkDocuments returns an error unless the numbers of the first keys are as kernels.AttentionOptions says.
func checkDocuments(documents *kernels.Tensor, tk int) error {
	for b := range documents.Shape[0] {
		least := 0
		for i, first := range i32(documents.Narrow(0, b, b+1)) {
			if int(first) < least || int(first) > tk {
				return fmt.Errorf("documents[%d,%d] is %d, outside [%d, %d]", b, i, first, least, tk)
			}
			least = int(first)
		}
	}
	return nil
}

// checkHeadDim returns an error if the heads are too wide for the workers' scratch memory.
func checkHeadDim(q, v *kernels.Tensor) error {
	if q.Shape[3] > maxHeadDim || v.Shape[3] > maxHeadDim {
		return fmt.Errorf("heads of %d and %d elements: the CPU takes up to %d", q.Shape[3], v.Shape[3], maxHeadDim)
	}
	return nil
}
