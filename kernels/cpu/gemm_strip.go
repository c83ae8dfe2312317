package cpu

import "sync/atomic"

// Each thread has a strip of C: some of its rows, columns or both. It is computed in stages: some columns of the strip and a
// few blocks of K each, those of the same columns in order. In a stage op(B) is packed, and multiplied with op(A) block of
// rows by block of rows, which the thread packs just before. The pieces of op(B) that the first stage packs and the blocks
// of all stages are tickets in one sequence. With each block in the first half of a stage goes a piece of the next one's
// op(B), which is fetched while the block is multiplied, and packed after it:
//
//	pack 0 | blocks 0, pack 1 | rest of blocks 0 | blocks 1, pack 2 | rest of blocks 1 | ...
//
// Threads share no packed operands as long as all of them are equally fast: processors that have no cache in common pay
// for each line that another one has written, as much as packing it costs. But a thread that is done with its strip takes
// tickets of the others. What a ticket needs has mostly been handed out half a stage before:
//
//   - a block of stage s needs all that is packed for s, and the same block of stage s-1, which may be of the same C;
//   - a piece of stage s, which goes to one of two buffers in turn, needs that all blocks of stage s-2 have been multiplied.
//
// Where C is BFloat16 its sums must not be rounded between blocks of K. They are kept as float32, those of each block of rows
// in a place of its own, from the first stage of some columns to the last, which rounds them. So that they are few, a strip is
// cut into bands of rows, which are worked on one after the other: op(B) is packed for each.
//
// A ticket waits for earlier ones of its strip only, and these have been taken by threads that wait for still earlier ones
// or work: so one of the threads always works.
type strip struct {
	i, m, j, n int       // its rows and columns of C
	packed     []float32 // the two buffers
	sums       []float32 // of C, where that is BFloat16: sumElements

	next   atomic.Int64    // ticket
	pieces [2]atomic.Int64 // packed into each buffer, over all stages
	blocks [2]atomic.Int64 // multiplied from each buffer, over all stages
	done   []atomic.Int64  // for each block of a stage, the stages that have been multiplied
}

// packedB is the most elements that are packed in a stage, whose last panel may reach over its columns.
const packedB = (maxCols + 32) * maxDepth

// sumElements is the most elements of C that a stage has. Blocks have whole tiles, and so may be larger than their share.
const sumElements = (maxBandRows + maxBandRows/4) * (maxCols + 32)

// reset makes s strip number index of a product.
func (s *strip) reset(p *product, index int) {
	down, across := index/p.stripsAcross, index%p.stripsAcross
	s.i, s.m = shareOf(p.m, down, p.stripsDown, p.tile.a.width)
	s.j, s.n = shareOf(p.n, across, p.stripsAcross, p.tile.b.width)
	s.next.Store(0)
	for i := range 2 {
		s.pieces[i].Store(0)
		s.blocks[i].Store(0)
	}
	if p.blocks > len(s.done) {
		s.done = make([]atomic.Int64, p.blocks)
	}
	for i := range s.done {
		s.done[i].Store(0)
	}
}

// shareOf returns the first of n items in share number i and how many it has, where whole units are shared out evenly.
func shareOf(n, i, shares, unit int) (first, count int) {
	units := partsOf(n, unit)
	first = units * i / shares * unit
	return first, max(0, min(units*(i+1)/shares*unit, n)-first)
}

// matMulStrips works on the worker's own strip and then on the others.
func matMulStrips(d *Device, _ *call, w *worker, _, _ int) {
	p := &d.pool.product
	strips := p.stripsDown * p.stripsAcross
	for i := range strips {
		d.pool.workers[(w.index+i)%strips].strip.work(p, w)
	}
}

// work takes tickets until none is left.
func (s *strip) work(p *product, w *worker) {
	for s.m > 0 && s.n > 0 && s.ticket(p, w) {
	}
}

// ticket does what the next ticket says, if there is one.
func (s *strip) ticket(p *product, w *worker) bool {
	t, stages := int(s.next.Add(1))-1, p.bands*p.across*p.deep
	if t < p.pieces {
		s.pack(p, w, 0, t)
		return true
	}
	stage, block := (t-p.pieces)/p.blocks, (t-p.pieces)%p.blocks
	if stage >= stages {
		return false
	}
	packs := block < p.pieces && stage+1 < stages
	s.multiply(p, w, stage, block, packs)
	if packs {
		s.pack(p, w, stage+1, block)
	}
	return true
}

// A stage is the extent of op(B) that it multiplies, and where that is packed: one block of K after the other. The element
// at depth k of a line begins k times the width from there. Of C it has some rows.
type stage struct {
	extent
	packed    []float32
	width     int
	row, rows int
}

func (s *strip) stage(p *product, number int) stage {
	band, column, layer := number/(p.deep*p.across), number/p.deep%p.across, number%p.deep
	j, k := column*p.cols, layer*p.layers*p.depth
	t := stage{extent: extent{s.j + j, max(0, min(p.cols, s.n-j)), k, min(p.layers*p.depth, p.k-k)}}
	t.width = roundUp(t.n, p.tile.b.width)
	t.row = band * p.bandRows
	t.rows = max(0, min(p.bandRows, s.m-t.row))
	t.row += s.i
	t.packed = s.packed[number%2*packedB:][:packedB]
	return t
}

// pack packs a piece of a stage's op(B): what lies in one block of K after the other.
func (s *strip) pack(p *product, w *worker, number, piece int) {
	await(&s.blocks[number%2], number/2*p.blocks)
	t := s.stage(p, number)
	panels := &p.tile.b
	e := p.b.piece(t.extent, piece, p.pieces, panels.width)
	for k := t.k; k < t.k+t.depth && e.n > 0; k += p.depth {
		depth := min(p.depth, t.k+t.depth-k)
		from, to := max(e.k, k), min(e.k+e.depth, k+depth)
		if from < to {
			at := (k-t.k)*t.width + (e.i-t.i)*depth + (from-k)*panels.width
			p.b.pack(p.set, panels, t.packed[at:], extent{e.i, e.n, from, to - from}, depth, w.scratch)
		}
	}
	s.pieces[number%2].Add(1)
}

// multiply adds a stage's products to a block of C, and fetches what is packed next.
func (s *strip) multiply(p *product, w *worker, number, index int, packs bool) {
	await(&s.pieces[number%2], (number/2+1)*p.pieces)
	await(&s.done[index], number)
	t := s.stage(p, number)
	b := block{strip: s, stage: t, index: index}
	b.i, b.rows = shareOf(t.rows, index, p.blocks, p.tile.a.width)
	b.i += t.row
	if packs {
		next := s.stage(p, number+1)
		b.fetch[1] = p.b.prefetch(p.b.piece(next.extent, index, p.pieces, p.tile.b.width))
	}
	if b.rows > 0 && t.n > 0 {
		b.multiply(p, w)
	}
	s.done[index].Store(int64(number + 1))
	s.blocks[number%2].Add(1)
}

// A block is some rows of a stage's C.
type block struct {
	strip   *strip
	stage   stage
	index   int
	i, rows int
	// fetch is what is packed next: op(A), and after the block op(B).
	fetch [2]prefetch
}

// multiply packs the block's op(A), one block of K after the other, and multiplies it.
func (b *block) multiply(p *product, w *worker) {
	tile, t := p.tile, &b.stage
	s := scratch{free: w.scratch}
	packed, edge := s.take(tile.a.size(b.rows, p.depth)), s.take(tile.a.width*tile.b.width)
	steps := partsOf(b.rows, tile.a.width) * partsOf(t.n, tile.b.width)
	b.fetch[1].spread(steps * partsOf(t.depth, p.depth))
	c, ldc := b.sums(p)
	for k := t.k; k < t.k+t.depth; k += p.depth {
		e := extent{b.i, b.rows, k, min(p.depth, t.k+t.depth-k)}
		p.a.pack(p.set, &tile.a, packed, e, e.depth, s.free)
		b.fetch[0] = p.a.prefetch(b.following(p, e))
		b.fetch[0].spread(steps)
		panels := t.packed[(k-t.k)*t.width:]
		tile.multiplyPanels(c, ldc, b.rows, t.n, packed, panels, e.depth, p.accumulate || k > 0, edge, &b.fetch)
	}
	if p.narrow != nil && t.k+t.depth == p.k {
		for i := range b.rows {
			p.set.toBFloat16(p.narrow[(b.i+i)*p.ldc+t.i:][:t.n], c[i*ldc:][:t.n])
		}
	}
}

// sums returns where the block's products are added up, and how many elements its rows are apart there: C itself, or memory of
// the strip, with what is in C where that counts.
func (b *block) sums(p *product) (c []float32, stride int) {
	t := &b.stage
	if p.narrow == nil {
		return p.c[b.i*p.ldc+t.i:], p.ldc
	}
	tiles := partsOf(partsOf(p.bandRows, p.tile.a.width), p.blocks) // of the largest block
	c, stride = b.strip.sums[b.index*tiles*p.tile.a.width*(maxCols+32):], t.width
	if p.accumulate && t.k == 0 {
		for i := range b.rows {
			p.set.toFloat32(c[i*stride:][:t.n], p.narrow[(b.i+i)*p.ldc+t.i:][:t.n])
		}
	}
	return c, stride
}

// following returns the extent of op(A) that the thread is most likely to pack after e: the next block of K, or the next
// rows, or the first rows at the next stage's k.
func (b *block) following(p *product, e extent) extent {
	t, end := &b.stage, b.stage.k+b.stage.depth
	if e.k += p.depth; e.k >= end {
		e.i, e.k = e.i+e.n, b.stage.k
	}
	if e.i >= t.row+t.rows {
		e.i, e.k = t.row, end%p.k
	}
	e.n, e.depth = min(e.n, t.row+t.rows-e.i), min(p.depth, p.k-e.k)
	return e
}
