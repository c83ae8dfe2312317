package cpu

import (
	"unsafe"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// The blocking of MatMul follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34
// (2008): a block of C is computed from packed blocks of A and B, the one of A from the second-level cache, the one of B,
// panel by panel, from the first-level cache. Each thread has a strip of C of its own: see gemm_strip.go.
//
// An element of C is the sum, over blocks of at most maxDepth elements of K in order, of each block's products added in
// order. This depends on K alone: neither the tiles, nor their number, nor an element's place in one shows in its bits.
//
// Where products are made of bfloat16, two elements of K make a pair, which has the size of a float32: what K counts below are
// then pairs, and what is packed looks like float32. See gemm_pairs.go.
const (
	// maxDepth bounds a block of K. A deeper one reads and writes C less often; a panel of B as deep as this one still fits
	// the first-level cache.
	maxDepth = 384
	// depthUnit is what the depth of a block of K is a multiple of, except for the last one.
	depthUnit = 8
	// maxBlockRows bounds the rows of a block: with maxDepth they take 216 KiB of a second-level cache.
	maxBlockRows = 144
	// maxCols bounds the columns of a stage, whose packed B comes from the second- or third-level cache.
	maxCols = 1024
	// maxBandRows bounds the rows of a stage where C is BFloat16: with maxCols they take 2 MiB of float32 until they are summed up.
	maxBandRows = 512
	// stripWork is the number of multiply-adds, some ten microseconds' worth, below which a strip is not worth a thread:
	// waking it takes a few microseconds itself.
	stripWork = 1 << 20
	// blocksPerStage is how many blocks a stage has at least, so that other threads can take some, and minBlockRows below
	// what size a block is not cut for it: a panel of B is read for so many rows.
	blocksPerStage, minBlockRows = 4, 72
)

// MatMul computes C = op(A) op(B), or C += op(A) op(B).
func (d *Device) MatMul(s device.Stream, c, a, b kernels.Tensor, o kernels.MatMulOptions) {
	k := call{name: "MatMul", run: runMatMul, flag: matMulFlags(o)}
	k.operands(1, c, a, b)
	d.launch(s, kernels.CheckMatMul(c, a, b, o), k)
}

// matMulFlags are the flags of a call that newProduct understands.
func matMulFlags(o kernels.MatMulOptions) [maxFlags]bool {
	return [maxFlags]bool{o.TransA, o.TransB, o.Accumulate, o.BFloat16}
}

func runMatMul(d *Device, c *call) error {
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	d.matMul(c, newProduct(d, c, len(d.pool.workers)))
	return nil
}

// matMul computes a product, of call c, on as many threads as it has strips. The pool is locked.
func (d *Device) matMul(c *call, product product) {
	p := &d.pool.product
	*p = product
	if p.empty() {
		return
	}
	strips := p.stripsDown * p.stripsAcross
	for i, w := range d.pool.workers[:strips] {
		w.strip.reset(p, i)
	}
	d.pool.run(d, c, strips, matMulStrips)
}

// A product is MatMul's problem and how it is cut.
type product struct {
	set        *kernelSet
	tile       *tileKernels
	c          []float32
	narrow     []uint16 // C in place of c, where it is BFloat16
	ldc        int
	a, b       source
	m, n, k    int
	accumulate bool

	depth                    int // of a block of K
	stripsDown, stripsAcross int
	cols, layers             int // of a stage; layers are blocks of K
	bandRows                 int // of a stage
	bands, across, deep      int // stages of a strip
	blocks                   int // of a stage
	pieces                   int // of a stage's op(B)
}

// newProduct returns MatMul's problem of a call, cut for a number of threads.
func newProduct(d *Device, c *call, threads int) product {
	transA, transB := c.flag[0], c.flag[1]
	p := product{
		set: d.set, tile: &d.set.tile, ldc: c.args[0].Stride[0],
		a: newSource(c.args[1], !transA), b: newSource(c.args[2], transB),
		m: c.args[0].Shape[0], n: c.args[0].Shape[1], k: c.args[1].Shape[1],
		accumulate: c.flag[2],
	}
	if c.args[0].DType == device.BFloat16 {
		p.narrow = bf16(c.args[0])
	} else {
		p.c = f32(c.args[0])
	}
	if transA {
		p.k = c.args[1].Shape[0]
	}
	if c.flag[3] && d.set.pairs != nil {
		p.makePairs()
	}
	p.depth, _ = even(p.k, maxDepth, depthUnit)
	p.cut(threads)
	return p
}

// cut chooses the strips, stages and blocks. They may depend on the number of threads, because an element's bits do not
// depend on where it is.
func (p *product) cut(threads int) {
	mr, nr := p.tile.a.width, p.tile.b.width
	p.stripsDown, p.stripsAcross = 1, 1
	rows, cols := partsOf(p.m, mr), partsOf(p.n, nr) // of the largest strip, in tiles
	for strips, f := min(threads, max(1, p.m*p.n*p.k/stripWork)), 2; strips > 1; {
		switch {
		case strips%f != 0:
			f++
		case rows*mr >= cols*nr:
			p.stripsDown, rows, strips = p.stripsDown*f, partsOf(rows, f), strips/f
		default:
			p.stripsAcross, cols, strips = p.stripsAcross*f, partsOf(cols, f), strips/f
		}
	}
	p.cols, p.across = even(cols*nr, maxCols, nr)
	layers := partsOf(p.k, p.depth)
	p.layers = min(layers, max(1, packedB/(p.cols*p.depth)))
	p.deep = partsOf(layers, p.layers)
	p.bandRows, p.bands = rows*mr, 1
	if p.narrow != nil {
		p.bandRows, p.bands = even(rows*mr, maxBandRows, mr)
	}
	p.blocks = max(partsOf(p.bandRows/mr, maxBlockRows/mr), min(blocksPerStage, p.bandRows/minBlockRows))
	p.pieces = max(1, p.blocks/2)
}

// even cuts n into blocks of equal size, at most about size and a multiple of unit, and returns it with their number.
func even(n, size, unit int) (int, int) {
	size = roundUp(partsOf(n, partsOf(n, size)), unit)
	return size, partsOf(n, size)
}

// empty returns whether there is nothing to multiply. It sets C to the sum of nothing.
func (p *product) empty() bool {
	if p.m == 0 || p.n == 0 || p.k > 0 {
		return p.m == 0 || p.n == 0
	}
	for i := 0; i < p.m && !p.accumulate; i++ {
		if p.narrow != nil {
			clear(p.narrow[i*p.ldc:][:p.n])
		} else {
			clear(p.c[i*p.ldc:][:p.n])
		}
	}
	return true
}

// A source is an operand in memory. Of its two slices the one that has its type is there. It holds rows of op(A) or columns
// of op(B), both called lines here.
type source struct {
	float32s  []float32
	bfloat16s []uint16
	stride    int
	deep      bool // the rows in memory are the lines: k runs along them
	// pairs is not 0 where two neighbours along k make a pair: the number of all elements along k. An extent counts pairs then.
	pairs int
}

func newSource(t kernels.Tensor, deep bool) source {
	s := source{stride: t.Stride[0], deep: deep}
	if t.DType == device.BFloat16 {
		s.bfloat16s = bf16(t)
	} else {
		s.float32s = f32(t)
	}
	return s
}

// An extent is a part of an operand: n lines from the i-th on, their elements [k, k+depth).
type extent struct{ i, n, k, depth int }

// piece returns one of the pieces that an extent is cut into. Lines that are rows in memory are shared out among the pieces,
// in multiples of unit, else the depth is, so that each piece has long rows.
func (s *source) piece(e extent, piece, pieces, unit int) extent {
	if s.deep {
		from, to := span(e.n, piece, pieces, unit)
		return extent{e.i + from, to - from, e.k, e.depth}
	}
	from, to := span(e.depth, piece, pieces, packRows)
	return extent{e.i, e.n, e.k + from, to - from}
}

// span returns the part [from, to) of n items when these are shared out among parts, in multiples of unit.
func span(n, part, parts, unit int) (from, to int) {
	size := roundUp(partsOf(n, parts), unit)
	return min(part*size, n), min((part+1)*size, n)
}

// pack packs an extent to panels that are depth deep.
func (s *source) pack(set *kernelSet, p *panelKernels, dst []float32, e extent, depth int, wide []float32) {
	at := s.at(e)
	if s.pairs > 0 {
		s.packPairs(set, p, dst, e, depth, wide)
	} else if s.bfloat16s != nil {
		p.packBFloat16(set, dst, s.bfloat16s[at:], s.stride, s.deep, e.n, e.depth, depth, wide)
	} else {
		p.packInto(dst, s.float32s[at:], s.stride, s.deep, e.n, e.depth, depth)
	}
}

// at returns the position of the first element of an extent.
func (s *source) at(e extent) int {
	k := s.elements(e.k)
	if s.deep {
		return e.i*s.stride + k
	}
	return k*s.stride + e.i
}

// elements returns how many elements along k the first n that an extent counts are.
func (s *source) elements(n int) int {
	if s.pairs > 0 {
		return min(2*n, s.pairs)
	}
	return n
}

// prefetch returns the memory of an extent.
func (s *source) prefetch(e extent) prefetch {
	if e.n <= 0 || e.depth <= 0 {
		return prefetch{}
	}
	rows, cols := s.elements(e.k+e.depth)-s.elements(e.k), e.n
	if s.deep {
		rows, cols = cols, rows
	}
	if s.bfloat16s != nil {
		return prefetch{first: unsafe.Pointer(&s.bfloat16s[s.at(e)]), rows: rows, stride: 2 * s.stride, bytes: 2 * cols}
	}
	return prefetch{first: unsafe.Pointer(&s.float32s[s.at(e)]), rows: rows, stride: 4 * s.stride, bytes: 4 * cols}
}

// free returns the worker's scratch memory, to be handed out.
func (w *worker) free() scratch { return scratch{free: w.scratch} }

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
