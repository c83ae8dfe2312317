package main

import "fmt"

// The tile of C has as many rows and columns as leave registers for two vectors of B and the elements of A.
func (v x86) tileRows() int { return map[bool]int{false: 6, true: 12}[v.wide] }
func (v x86) tileCols() int { return 2 * v.width }

func (v x86) gemm(p *printer) {
	v.multiply(p)
	v.peak(p)
	if v.pairs {
		v.packPairs(p)
		return
	}
	v.prefetch(p)
	v.copyPanel(p, "A", v.tileRows())
	v.copyPanel(p, "B", v.tileCols())
	v.transposePanel(p, "A", v.tileRows())
	v.transposePanel(p, "B", v.tileCols())
}

// unroll is how many k one round of the inner loop takes.
const unroll = 4

// fetchAhead is how many k before the last one the tile's lines of C are fetched. That is far enough ahead for memory. Were
// it at the beginning, A and B would push some of them out again: rows of C lie in one set of the cache where their distance
// is a power of two.
const fetchAhead = 96

// multiply writes the tile kernel:
//
//	func multiplyX(kc int, a, b, c *float32, ldc int, accumulate bool)
//
// Registers 0 and 1 hold B's columns, the next few one element of A each, the last ones the tile.
func (v x86) multiply(p *printer) {
	rows := v.tileRows()
	p.function("multiply"+v.name, 41)
	for _, arg := range []string{"kc+0(FP), CX", "a+8(FP), SI", "b+16(FP), BX", "c+24(FP), DI", "ldc+32(FP), R8"} {
		p.op("MOVQ %s", arg)
	}
	p.op("MOVBLZX accumulate+40(FP), DX")
	p.op("SHLQ $2, R8")
	for i := range 2 * rows {
		v.zero(p, v.firstSum()+i)
	}
	p.op("MOVQ CX, R9")
	p.op("SUBQ $%d, R9", fetchAhead)
	p.op("JLE fetch")
	p.op("ANDQ $-%d, R9", unroll)
	p.op("JZ fetch")
	p.op("SUBQ R9, CX")
	p.op("PCALIGN $32")
	p.label("early")
	v.multiplySteps(p)
	p.op("SUBQ $%d, R9", unroll)
	p.op("JNZ early")
	p.label("fetch")
	p.op("MOVQ DI, AX")
	for i := range rows {
		p.op("PREFETCHT0 (AX)")
		p.op("PREFETCHT0 %d(AX)", 4*v.tileCols()-1)
		if i < rows-1 {
			p.op("ADDQ R8, AX")
		}
	}
	p.op("SUBQ $%d, CX", unroll)
	p.op("JLT rest")
	p.op("PCALIGN $32")
	p.label("loop")
	v.multiplySteps(p)
	p.op("SUBQ $%d, CX", unroll)
	p.op("JGE loop")
	p.label("rest")
	p.op("ADDQ $%d, CX", unroll)
	p.op("JZ store")
	p.label("one")
	v.multiplyStep(p, 0)
	p.op("ADDQ $%d, SI", 4*rows)
	p.op("ADDQ $%d, BX", 4*v.tileCols())
	p.op("DECQ CX")
	p.op("JNZ one")
	p.label("store")
	p.op("TESTL DX, DX")
	p.op("JNZ add")
	v.storeTile(p, false)
	p.label("add")
	v.storeTile(p, true)
}

// multiplySteps adds the products of the next few k.
func (v x86) multiplySteps(p *printer) {
	for k := range unroll {
		v.multiplyStep(p, k)
	}
	p.op("ADDQ $%d, SI", unroll*4*v.tileRows())
	p.op("ADDQ $%d, BX", unroll*4*v.tileCols())
}

// multiplyStep adds the products of one k, the k-th after SI and BX.
func (v x86) multiplyStep(p *printer, k int) {
	rows, elements := v.tileRows(), v.firstSum()-2
	for j := range 2 {
		p.op("VMOVUPS %d(BX), %s", 4*(k*v.tileCols()+j*v.width), v.r(j))
	}
	if k%2 == 0 {
		p.op("PREFETCHT0 %d(BX)", 512+4*k*v.tileCols())
	}
	for i := range rows {
		e := 2 + i%elements
		p.op("VBROADCASTSS %d(SI), %s", 4*(k*rows+i), v.r(e))
		for j := range 2 {
			v.multiplyAdd(p, j, e, v.sum(i, j))
		}
	}
}

// storeTile writes the tile to C and returns.
func (v x86) storeTile(p *printer, accumulate bool) {
	for i := range v.tileRows() {
		for j := range 2 {
			if accumulate {
				p.op("VADDPS %d(DI), %s, %s", 4*j*v.width, v.r(v.sum(i, j)), v.r(v.sum(i, j)))
			}
			p.op("VMOVUPS %s, %d(DI)", v.r(v.sum(i, j)), 4*j*v.width)
		}
		if i < v.tileRows()-1 {
			p.op("ADDQ R8, DI")
		}
	}
	v.end(p)
}

// sum returns the register of the tile's row i, vector j. firstSum is the number of the first one.
func (v x86) sum(i, j int) int { return v.firstSum() + 2*i + j }
func (v x86) firstSum() int    { return map[bool]int{false: 4, true: 8}[v.wide] }

// multiplyAdd prints d += a * b, of lanes that are float32 or pairs of bfloat16.
func (v x86) multiplyAdd(p *printer, a, b, d int) {
	if v.pairs {
		p.dotBFloat16(a, b, d)
	} else {
		v.fma(p, b, a, d)
	}
}

// peak writes
//
//	func peakX(kc int)
//
// the multiply-adds of the tile kernel, on registers that hold zeros.
func (v x86) peak(p *printer) {
	sums := 2 * v.tileRows()
	p.function("peak"+v.name, 8)
	p.op("MOVQ kc+0(FP), CX")
	for i := range v.firstSum() + sums {
		v.zero(p, i)
	}
	p.op("PCALIGN $32")
	p.label("peak")
	for i := range sums {
		v.multiplyAdd(p, 1, 0, v.firstSum()+i)
	}
	p.op("DECQ CX")
	p.op("JNZ peak")
	v.end(p)
}

// prefetch writes
//
//	func prefetchX(p unsafe.Pointer, bytes int)
//
// which is tileKernels.prefetch.
func (v x86) prefetch(p *printer) {
	p.function("prefetch"+v.name, 16)
	p.op("MOVQ p+0(FP), SI")
	p.op("MOVQ bytes+8(FP), CX")
	p.label("line")
	p.op("PREFETCHT1 (SI)")
	p.op("ADDQ $64, SI")
	p.op("SUBQ $64, CX")
	p.op("JGT line")
	p.op("RET")
}

// packArgs loads the arguments of
//
//	func fX(kc int, dst, src *float32, lds int)
func (v x86) packArgs(p *printer) {
	p.op("MOVQ kc+0(FP), CX")
	p.op("MOVQ dst+8(FP), DI")
	p.op("MOVQ src+16(FP), SI")
	p.op("MOVQ lds+24(FP), R8")
	p.op("SHLQ $2, R8")
}

// copyPanel writes panelKernels.copy for one width.
func (v x86) copyPanel(p *printer, operand string, width int) {
	p.function("copy"+operand+v.name, 32)
	v.packArgs(p)
	p.label("copy" + operand)
	for at, i := 0, 0; at < width; i++ {
		move, n := v.mover(width-at, i)
		p.op("%s %d(SI), %s", move[0], 4*at, move[1])
		p.op("%s %s, %d(DI)", move[0], move[1], 4*at)
		at += n
	}
	p.op("ADDQ R8, SI")
	p.op("ADDQ $%d, DI", 4*width)
	p.op("DECQ CX")
	p.op("JNZ copy%s", operand)
	v.end(p)
}

// mover returns an instruction, with register i, that moves as many as possible of n elements, and how many these are.
func (v x86) mover(n, i int) ([2]string, int) {
	switch {
	case n >= v.width:
		return [2]string{"VMOVUPS", v.r(i)}, v.width
	case n >= 8:
		return [2]string{"VMOVUPS", fmt.Sprintf("Y%d", i)}, 8
	case n >= 4:
		return [2]string{"VMOVUPS", fmt.Sprintf("X%d", i)}, 4
	default:
		return [2]string{"VMOVSD", fmt.Sprintf("X%d", i)}, 2
	}
}

// transposePanel writes panelKernels.transpose for one width: groups of as many rows as a register holds, or of what is
// left, four columns at a time.
func (v x86) transposePanel(p *printer, operand string, width int) {
	p.function("transpose"+operand+v.name, 32)
	v.packArgs(p)
	p.op("LEAQ (R8)(R8*2), R9")
	for i := 0; i < width; {
		rows := v.width
		for rows > width-i {
			rows /= 2
		}
		p.op("MOVQ SI, %s", quads[0])
		for q := 1; q < rows/4; q++ {
			p.op("LEAQ (%s)(R8*4), %s", quads[q-1], quads[q])
		}
		p.op("MOVQ DI, R11")
		p.op("MOVQ CX, R12")
		v.transposeRows(p, rows, 4*width)
		if i += rows; i < width {
			for range rows / 4 {
				p.op("LEAQ (SI)(R8*4), SI")
			}
			p.op("ADDQ $%d, DI", 4*rows)
		}
	}
	v.end(p)
}

// quads point to the first of four rows each.
var quads = [...]string{"R10", "R13", "AX", "BX"}

// source returns the memory operand of a group's row i. R8 is the distance of rows, R9 three times that.
func source(i int) string {
	return quads[i/4] + []string{"", ")(R8*1", ")(R8*2", ")(R9*1"}[i%4]
}

// transposeRows packs R12 columns of 2, 4, 8 or 16 rows to R11; the columns go step bytes apart. Four rows of four columns
// are transposed in an X register each; the larger registers do so with two or four of these squares at once.
func (v x86) transposeRows(p *printer, rows, step int) {
	loop, rest, one, done := p.newLabel("loop"), p.newLabel("rest"), p.newLabel("one"), p.newLabel("done")
	p.op("SUBQ $4, R12")
	p.op("JLT %s", rest)
	p.label(loop)
	if rows == 2 {
		transposeTwo(p, step)
	} else {
		transposeSquares(p, rows, step)
	}
	for q := range max(1, rows/4) {
		p.op("ADDQ $16, %s", quads[q])
	}
	p.op("ADDQ $%d, R11", 4*step)
	p.op("SUBQ $4, R12")
	p.op("JGE %s", loop)
	p.label(rest)
	p.op("ADDQ $4, R12")
	p.op("JZ %s", done)
	p.label(one)
	for i := range rows {
		p.op("VMOVSS (%s), X0", source(i))
		p.op("VMOVSS X0, %d(R11)", 4*i)
	}
	for q := range max(1, rows/4) {
		p.op("ADDQ $4, %s", quads[q])
	}
	p.op("ADDQ $%d, R11", step)
	p.op("DECQ R12")
	p.op("JNZ %s", one)
	p.label(done)
}

// transposeSquares packs four columns of 4, 8 or 16 rows. Register i holds row i of each square.
func transposeSquares(p *printer, rows, step int) {
	reg := map[int]string{4: "X", 8: "Y", 16: "Z"}[rows]
	for i := range 4 {
		p.op("VMOVUPS (%s), X%d", source(i), i)
		if rows >= 8 {
			p.op("VINSERTF128 $1, (%s), Y%d, Y%d", source(4+i), i, i)
		}
		for q := 2; q < rows/4; q++ {
			p.op("VINSERTF32X4 $%d, (%s), Z%d, Z%d", q, source(4*q+i), i, i)
		}
	}
	r := func(i int) string { return fmt.Sprintf("%s%d", reg, i) }
	for i, op := range []string{"VUNPCKLPS", "VUNPCKHPS"} {
		p.op("%s %s, %s, %s", op, r(1), r(0), r(4+i))
		p.op("%s %s, %s, %s", op, r(3), r(2), r(6+i))
	}
	for k := range 4 {
		p.op("%s %s, %s, %s", []string{"VUNPCKLPD", "VUNPCKHPD"}[k%2], r(6+k/2), r(4+k/2), r(8+k))
		p.op("VMOVUPS %s, %d(R11)", r(8+k), k*step)
	}
}

// transposeTwo packs four columns of two rows.
func transposeTwo(p *printer, step int) {
	for i := range 2 {
		p.op("VMOVUPS (%s), X%d", source(i), i)
	}
	p.op("VUNPCKLPS X1, X0, X4")
	p.op("VUNPCKHPS X1, X0, X5")
	for k, op := range []string{"VMOVLPS X4", "VMOVHPS X4", "VMOVLPS X5", "VMOVHPS X5"} {
		p.op("%s, %d(R11)", op, k*step)
	}
}
