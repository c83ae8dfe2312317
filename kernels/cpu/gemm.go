package cpu

import (
	"unsafe"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// The blocking of MatMul follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34
// (2008): a block of C is computed from packed blocks of A and B that stay in the second-level cache.
//
// An element of C is the sum, over blocks of blockK elements of K in order, of each block's products added in order. This
// depends on K alone: neither the tiles, nor their number, nor an element's place in one shows in its bits.
const (
	blockK = 256
	// blockRows is how many rows of op(A) are packed at a time: with blockK they take 192 KiB, so that a second-level cache
	// of 512 KiB has room for the next ones.
	blockRows = 192
	// maxRows bounds the rows of a part: its block of C is read and written once for each block of K.
	maxRows = 6 * blockRows
	// maxCols bounds the columns of a part, and so the packed block of op(B). That one comes from the third-level cache, but
	// each panel of it stays in the first-level cache while it is multiplied with all of the block of op(A).
	maxCols = 2048
	// partMin is the side below which a part is not cut any further to give all threads work, balanceMin the one below which
	// it is not cut to balance the load: each part packs for itself, at the cost of its sides.
	partMin, balanceMin = 64, 256
	// partWork is the number of multiply-adds, some ten microseconds' worth, below which a part is not cut any further:
	// waking a thread takes a few microseconds itself.
	partWork = 1 << 20
	// partsPerThread leaves room to balance the load.
	partsPerThread = 3
)

// MatMul computes C = op(A) op(B), or C += op(A) op(B).
func (d *Device) MatMul(s device.Stream, c, a, b kernels.Tensor, o kernels.MatMulOptions) {
	k := call{name: "MatMul", run: runMatMul, flag: [3]bool{o.TransA, o.TransB, o.Accumulate}}
	k.operands(1, c, a, b)
	d.launch(s, kernels.CheckMatMul(c, a, b, o), k)
}

// A product is MatMul's problem and how it is cut into parts, which are blocks of C.
type product struct {
	m, n, k        int
	transA, transB bool
	accumulate     bool
	rows, cols     int // of a part
	down, across   int // parts
}

func newProduct(d *Device, c *call) product {
	p := product{
		m: c.args[0].Shape[0], n: c.args[0].Shape[1], k: c.args[1].Shape[1],
		transA: c.flag[0], transB: c.flag[1], accumulate: c.flag[2],
	}
	if p.transA {
		p.k = c.args[1].Shape[0]
	}
	p.cut(len(d.pool.workers), d.set.tile.a.width, d.set.tile.b.width)
	return p
}

// cut chooses the parts. They may depend on the number of threads, because an element's bits do not depend on its part.
func (p *product) cut(threads, mr, nr int) {
	rows, cols := min(maxRows, p.m), min(maxCols, p.n)
	for threads > 1 && rows*cols*p.k > partWork {
		parts, side := partsOf(p.m, rows)*partsOf(p.n, cols), max(rows, cols)
		if parts >= partsPerThread*threads || side <= partMin || parts >= threads && side <= balanceMin {
			break
		}
		if cols >= rows {
			cols = max(cols/2, partMin)
		} else {
			rows = max(rows/2, partMin)
		}
	}
	p.rows, p.down = even(p.m, rows, mr)
	p.cols, p.across = even(p.n, cols, nr)
}

// even cuts n into blocks of equal size, at most about size and a multiple of unit, and returns it with their number.
func even(n, size, unit int) (int, int) {
	size = roundUp(partsOf(n, partsOf(n, size)), unit)
	return size, partsOf(n, size)
}

func runMatMul(d *Device, c *call) error {
	if c.args[0].Len() > 0 {
		p := newProduct(d, c)
		d.parallel(c, p.down*p.across, matMulParts)
	}
	return nil
}

func matMulParts(d *Device, c *call, w *worker, from, to int) {
	p := newProduct(d, c)
	for part := from; part < to; part++ {
		i, j := part%p.down*p.rows, part/p.down*p.cols
		p.part(d.set, c, w, i, j, min(p.rows, p.m-i), min(p.cols, p.n-j))
	}
}

// part computes the rows x cols block of C at (i, j). A block of op(B), blockK deep, is packed once for all rows, and then
// one block of op(A) after the other.
func (p *product) part(set *kernelSet, call *call, w *worker, i, j, rows, cols int) {
	c, ldc := f32(call.args[0]), call.args[0].Stride[0]
	c = c[i*ldc+j:]
	if p.k == 0 && !p.accumulate {
		for r := range rows {
			clear(c[r*ldc:][:cols])
		}
	}
	t, depth := &set.tile, min(blockK, p.k)
	height, _ := even(rows, blockRows, t.a.width)
	s := scratch{free: w.scratch}
	edge := s.take(t.a.width * t.b.width)
	packedA, packedB := s.take(t.a.size(height, depth)), s.take(t.b.size(cols, depth))
	wide := s.take(max(wideElements, height, cols, t.a.width*depth, t.b.width*depth))
	a, b := newSource(call.args[1], p.transA), newSource(call.args[2], p.transB)
	for k := 0; k < p.k; k += blockK {
		kc := min(blockK, p.k-k)
		b.pack(set, &t.b, packedB, k, j, b.trans, cols, kc, wide)
		for r := 0; r < rows; r += height {
			n := min(height, rows-r)
			a.pack(set, &t.a, packedA, i+r, k, !a.trans, n, kc, wide)
			next := p.next(&a, i, r+n, k, rows, height)
			t.multiplyPanels(c[r*ldc:], ldc, n, cols, packedA, packedB, kc, p.accumulate || k > 0, edge, next)
		}
	}
}

// next returns the block of op(A) that is packed after the one that ends with row r of a part, whose first row is i: the
// next rows, or the first ones of the next k.
func (p *product) next(a *source, i, r, k, rows, height int) prefetch {
	if r == rows {
		r, k = 0, k+blockK
	}
	if k >= p.k {
		return prefetch{}
	}
	return a.prefetch(i+r, k, min(height, rows-r), min(blockK, p.k-k))
}

// A source is an operand in memory: of its two slices the one that has its type is there.
type source struct {
	float32s  []float32
	bfloat16s []uint16
	stride    int
	trans     bool
}

func newSource(t kernels.Tensor, trans bool) source {
	s := source{stride: t.Stride[0], trans: trans}
	if t.DType == device.BFloat16 {
		s.bfloat16s = bf16(t)
	} else {
		s.float32s = f32(t)
	}
	return s
}

// pack packs n rows or columns, kc deep, of the operand from its element (i, j) on.
func (s *source) pack(set *kernelSet, p *panelKernels, dst []float32, i, j int, deep bool, n, kc int, wide []float32) {
	at := at(i, j, s.stride, s.trans)
	if s.bfloat16s != nil {
		p.packBFloat16(set, dst, s.bfloat16s[at:], s.stride, deep, n, kc, wide)
	} else {
		p.pack(dst, s.float32s[at:], s.stride, deep, n, kc)
	}
}

// prefetch returns the memory of rows x cols elements of the operand from (i, j) on.
func (s *source) prefetch(i, j, rows, cols int) prefetch {
	at := at(i, j, s.stride, s.trans)
	if s.trans {
		rows, cols = cols, rows
	}
	if s.bfloat16s != nil {
		return prefetch{first: unsafe.Pointer(&s.bfloat16s[at]), rows: rows, stride: 2 * s.stride, bytes: 2 * cols}
	}
	return prefetch{first: unsafe.Pointer(&s.float32s[at]), rows: rows, stride: 4 * s.stride, bytes: 4 * cols}
}

// at returns the position of element (i, j) of a matrix that may be transposed in memory.
func at(i, j, stride int, trans bool) int {
	if trans {
		return j*stride + i
	}
	return i*stride + j
}

// scratch hands out a worker's private memory.
type scratch struct{ free []float32 }

// scratchAlign keeps what is handed out on cache lines.
const scratchAlign = 16

// take returns n elements with any contents.
func (s *scratch) take(n int) []float32 {
	t := s.free[:n:n]
	s.free = s.free[roundUp(n, scratchAlign):]
	return t
}

// roundUp returns the smallest multiple of unit that is at least n.
func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
