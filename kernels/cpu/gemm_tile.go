package cpu

import "unsafe"

// tileKernels are the register-blocked core of MatMul and Attention and the packing that feeds it. Operands are packed
// into panels: a panel of width w holds, for each k in turn, w neighbouring rows of op(A) or columns of op(B), so that the
// core reads both operands as one stream each.
type tileKernels struct {
	// a and b pack the panels of the two operands. Their widths are the rows and the columns of the tile.
	a, b panelKernels
	// multiply computes one tile of C, whose rows are ldc elements apart, from a panel of A and one of B, kc deep:
	//
	//	for i, j := range rows, columns {
	//		sum := float32(0)
	//		for k := range kc {
	//			sum += a[k*rows+i] * b[k*columns+j]
	//		}
	//		if accumulate { c[i*ldc+j] += sum } else { c[i*ldc+j] = sum }
	//	}
	multiply func(kc int, a, b, c *float32, ldc int, accumulate bool)
	// prefetch asks for the memory of p[0:bytes] to be brought to the second-level cache. It computes nothing.
	prefetch func(p unsafe.Pointer, bytes int)
	// peak does as many multiply-adds as multiply, on registers alone: what benchmarks take for the limit. kc is not 0. nil
	// in the generic set.
	peak func(kc int)
}

// panelKernels pack one whole panel, kc deep, from a matrix whose rows are lds elements apart.
type panelKernels struct {
	width int
	// copy packs a matrix whose rows are the panel's k:
	//
	//	for k, i := range kc, width { dst[k*width+i] = src[k*lds+i] }
	copy func(kc int, dst, src *float32, lds int)
	// transpose packs a matrix whose columns are the panel's k:
	//
	//	for k, i := range kc, width { dst[k*width+i] = src[i*lds+k] }
	transpose func(kc int, dst, src *float32, lds int)
}

// size returns the elements that n rows or columns, kc deep, take when packed.
func (p *panelKernels) size(n, kc int) int { return roundUp(n, p.width) * kc }

// pack fills the panels of n rows of op(A), or columns of op(B), kc deep. Element (i, k) is src[i*lds+k] when deep is set
// and src[k*lds+i] otherwise: deep says that k runs along the rows of the matrix in memory. The last panel is filled up
// with zeros.
func (p *panelKernels) pack(dst, src []float32, lds int, deep bool, n, kc int) {
	p.packInto(dst[:p.size(n, kc)], src, lds, deep, n, kc, kc)
}

// packInto is pack to panels that are depth deep, of which it fills the first kc elements from dst on.
func (p *panelKernels) packInto(dst, src []float32, lds int, deep bool, n, kc, depth int) {
	if deep {
		p.packPiece(dst, src, lds, true, n, kc, p.width*depth)
		return
	}
	for k := 0; k < kc; k += packRows {
		p.packPiece(dst[k*p.width:], src[k*lds:], lds, false, n, min(packRows, kc-k), p.width*depth)
	}
}

// packRows is how many rows of a matrix go to all panels before the next ones. All kc rows of a panel at once would take a
// few words from each of many lines of the cache, which lie in one set of it where the stride is a power of two, and would
// have to fetch them again for the next panel.
const packRows = 8

// packPiece fills kc elements of panels that start step elements apart.
func (p *panelKernels) packPiece(dst, src []float32, lds int, deep bool, n, kc, step int) {
	next, fill := 1, p.copy
	if deep {
		next, fill = lds, p.transpose
		_ = src[(n-1)*lds+kc-1]
	} else {
		_ = src[(kc-1)*lds+n-1]
	}
	i, at := 0, 0
	for ; i+p.width <= n; i, at = i+p.width, at+step {
		_ = dst[at+p.width*kc-1]
		fill(kc, &dst[at], &src[i*next], lds)
	}
	if i < n {
		p.packEdge(dst[at:][:p.width*kc], src[i*next:], lds, deep, n-i, kc)
	}
}

// wideElements is the size of the piece of a bfloat16 matrix that is widened at a time: it stays in the first-level cache
// on its way to the panels.
const wideElements = 8 << 10

// packBFloat16 is packInto of a matrix of bfloat16. wide has at least max(wideElements, n, p.width*kc) elements.
func (p *panelKernels) packBFloat16(set *kernelSet, dst []float32, src []uint16, lds int, deep bool, n, kc, depth int, wide []float32) {
	if deep {
		for i := 0; i < n; i += p.width {
			rows := min(p.width, n-i)
			for r := range rows {
				set.toFloat32(wide[r*kc:][:kc], src[(i+r)*lds:])
			}
			p.packInto(dst[i*depth:], wide, kc, true, rows, kc, depth)
		}
		return
	}
	piece := max(wideElements/n, 1)
	for k := 0; k < kc; k += piece {
		rows := min(piece, kc-k)
		for r := range rows {
			set.toFloat32(wide[r*n:][:n], src[(k+r)*lds:])
		}
		p.packInto(dst[k*p.width:], wide, n, false, n, rows, depth)
	}
}

// packEdge fills a panel of which only n < width rows or columns are there.
func (p *panelKernels) packEdge(dst, src []float32, lds int, deep bool, n, kc int) {
	clear(dst)
	for k := range kc {
		row := dst[k*p.width:][:n]
		if deep {
			for i := range row {
				row[i] = src[i*lds+k]
			}
		} else {
			copy(row, src[k*lds:])
		}
	}
}

// multiplyPanels computes C = A B, or C += A B, from packed panels of rows x kc and kc x cols. The panels of B are the
// outer loop: one of them stays in the first-level cache while those of A stream by. Tiles that reach over C's edge go
// through edge, which has the size of a tile; their C is asked for before, as the tile kernel does itself for the others.
// Before each tile a part of next is asked for.
func (t *tileKernels) multiplyPanels(c []float32, ldc, rows, cols int, a, b []float32, kc int, accumulate bool, edge []float32, next *[2]prefetch) {
	mr, nr := t.a.width, t.b.width
	for j := 0; j < cols; j += nr {
		for i := 0; i < rows; i += mr {
			next[0].step(t)
			next[1].step(t)
			if i+mr <= rows && j+nr <= cols {
				_ = c[(i+mr-1)*ldc+j+nr-1]
				t.multiply(kc, &a[i*kc], &b[j*kc], &c[i*ldc+j], ldc, accumulate)
				continue
			}
			for r := i; r < min(i+mr, rows); r++ {
				t.prefetch(unsafe.Pointer(&c[r*ldc+j]), 4*min(nr, cols-j))
			}
			t.multiply(kc, &a[i*kc], &b[j*kc], &edge[0], nr, false)
			t.addEdge(c[i*ldc+j:], ldc, min(mr, rows-i), min(nr, cols-j), edge, accumulate)
		}
	}
}

// addEdge moves the part of a tile that lies within C.
func (t *tileKernels) addEdge(c []float32, ldc, rows, cols int, edge []float32, accumulate bool) {
	for i := range rows {
		from, to := edge[i*t.b.width:][:cols], c[i*ldc:][:cols]
		if !accumulate {
			copy(to, from)
			continue
		}
		for j, v := range from {
			to[j] += v
		}
	}
}
