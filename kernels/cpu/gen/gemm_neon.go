package main

// The tile has 8 rows and 12 columns: 24 registers, and 5 more for the elements of one k.
const neonRows, neonCols = 8, 12

func (v *neon) gemm(p *printer) {
	v.multiply(p)
	v.peak(p)
	v.prefetch(p)
	for _, operand := range []struct {
		name  string
		width int
	}{{"A", neonRows}, {"B", neonCols}} {
		v.copyPanel(p, operand.name, operand.width)
		v.transposePanel(p, operand.name, operand.width)
	}
}

// multiply writes the tile kernel:
//
//	func multiplyNEON(kc int, a, b, c *float32, ldc int, accumulate bool)
//
// Registers 0 and 1 hold A's rows, 2 to 4 B's columns, 8 to 31 the tile.
func (v *neon) multiply(p *printer) {
	p.function("multiplyNEON", 41)
	for i, arg := range []string{"kc+0", "a+8", "b+16", "c+24", "ldc+32"} {
		p.op("MOVD %s(FP), R%d", arg, i)
	}
	p.op("MOVBU accumulate+40(FP), R5")
	p.op("LSL $2, R4")
	p.op("MOVD R3, R6")
	for i := range neonRows {
		p.op("PRFM (R6), PLDL1KEEP")
		if i < neonRows-1 {
			p.op("ADD R4, R6")
		}
	}
	for i := range neonRows * neonCols / 4 {
		v.zero(p, 8+i)
	}
	p.op("SUBS $%d, R0", unroll)
	p.op("BLT rest")
	p.op("PCALIGN $16")
	p.label("loop")
	for range unroll {
		v.multiplyStep(p)
	}
	p.op("SUBS $%d, R0", unroll)
	p.op("BGE loop")
	p.label("rest")
	p.op("ADDS $%d, R0", unroll)
	p.op("BEQ store")
	p.label("one")
	v.multiplyStep(p)
	p.op("SUBS $1, R0")
	p.op("BNE one")
	p.label("store")
	p.op("CBNZ R5, add")
	v.storeTile(p, false)
	p.label("add")
	v.storeTile(p, true)
}

// multiplyStep adds the products of one k.
func (v *neon) multiplyStep(p *printer) {
	p.op("VLD1.P 32(R1), [V0.S4, V1.S4]")
	p.op("VLD1.P 48(R2), [V2.S4, V3.S4, V4.S4]")
	for i := range neonRows {
		for j := range neonCols / 4 {
			v.fmaLane(p, 2+j, i/4, i%4, neonTile(i, j))
		}
	}
}

// neonTile returns the register of the tile's row i, vector j.
func neonTile(i, j int) int { return 8 + i*neonCols/4 + j }

// fmaLane prints d += a * one lane of b, a form that the Go assembler does not know.
func (v *neon) fmaLane(p *printer, a, b, lane, d int) {
	word := 0x4f801000 | lane&1<<21 | lane>>1<<11 | b<<16 | a<<5 | d
	p.op("WORD $%#08x // FMLA V%d.4S, V%d.4S, V%d.S[%d]", word, d, a, b, lane)
}

// storeTile writes the tile to C and returns.
func (v *neon) storeTile(p *printer, accumulate bool) {
	for i := range neonRows {
		t := neonTile(i, 0)
		if accumulate {
			p.op("VLD1 (R3), [V0.S4, V1.S4, V2.S4]")
			for j := range neonCols / 4 {
				v.add(p, j, t+j, t+j)
			}
		}
		p.op("VST1 [V%d.S4, V%d.S4, V%d.S4], (R3)", t, t+1, t+2)
		if i < neonRows-1 {
			p.op("ADD R4, R3")
		}
	}
	p.op("RET")
}

// peak writes
//
//	func peakNEON(kc int)
//
// the multiply-adds of the tile kernel, on registers that hold zeros.
func (v *neon) peak(p *printer) {
	p.function("peakNEON", 8)
	p.op("MOVD kc+0(FP), R0")
	for i := range 32 {
		v.zero(p, i)
	}
	p.op("PCALIGN $16")
	p.label("peak")
	for i := range neonRows * neonCols / 4 {
		v.fmaLane(p, 0, 1, 0, 8+i)
	}
	p.op("SUBS $1, R0")
	p.op("BNE peak")
	p.op("RET")
}

// prefetch writes
//
//	func prefetchNEON(p unsafe.Pointer, bytes int)
//
// which is tileKernels.prefetch.
func (v *neon) prefetch(p *printer) {
	p.function("prefetchNEON", 16)
	p.op("MOVD p+0(FP), R0")
	p.op("MOVD bytes+8(FP), R1")
	p.label("line")
	p.op("PRFM (R0), PLDL2KEEP")
	p.op("ADD $64, R0")
	p.op("SUBS $64, R1")
	p.op("BGT line")
	p.op("RET")
}

// packArgs loads the arguments of
//
//	func fNEON(kc int, dst, src *float32, lds int)
func (v *neon) packArgs(p *printer) {
	for i, arg := range []string{"kc+0", "dst+8", "src+16", "lds+24"} {
		p.op("MOVD %s(FP), R%d", arg, i)
	}
	p.op("LSL $2, R3")
}

// copyPanel writes panelKernels.copy for one width.
func (v *neon) copyPanel(p *printer, operand string, width int) {
	p.function("copy"+operand+"NEON", 32)
	v.packArgs(p)
	registers := map[int]string{8: "[V0.S4, V1.S4]", 12: "[V0.S4, V1.S4, V2.S4]"}[width]
	p.label("copy" + operand)
	p.op("VLD1 (R2), %s", registers)
	p.op("VST1.P %s, %d(R1)", registers, 4*width)
	p.op("ADD R3, R2")
	p.op("SUBS $1, R0")
	p.op("BNE copy%s", operand)
	p.op("RET")
}

// transposePanel writes panelKernels.transpose for one width: groups of four rows, four columns at a time. R4 to R7 point
// to a group's rows, R8 to the panel, R9 counts the columns.
func (v *neon) transposePanel(p *printer, operand string, width int) {
	p.function("transpose"+operand+"NEON", 32)
	v.packArgs(p)
	for i := 0; i < width; i += 4 {
		p.op("MOVD R2, R4")
		for r := range 3 {
			p.op("ADD R3, R%d, R%d", 4+r, 5+r)
		}
		p.op("ADD R3, R7, R2")
		p.op("ADD $%d, R1, R8", 4*i)
		p.op("MOVD R0, R9")
		v.transposeRows(p, 4*width)
	}
	p.op("RET")
}

// transposeRows packs R9 columns of 4 rows; the columns go step bytes apart.
func (v *neon) transposeRows(p *printer, step int) {
	loop, rest, one, done := p.newLabel("loop"), p.newLabel("rest"), p.newLabel("one"), p.newLabel("done")
	p.op("SUBS $4, R9")
	p.op("BLT %s", rest)
	p.label(loop)
	for r := range 4 {
		p.op("FMOVQ.P 16(R%d), F%d", 4+r, r)
	}
	for i, zip := range []string{"VZIP1 V1.S4, V0.S4", "VZIP2 V1.S4, V0.S4", "VZIP1 V3.S4, V2.S4", "VZIP2 V3.S4, V2.S4"} {
		p.op("%s, V%d.S4", zip, 4+i)
	}
	for i, zip := range []string{"VZIP1 V6.D2, V4.D2", "VZIP2 V6.D2, V4.D2", "VZIP1 V7.D2, V5.D2", "VZIP2 V7.D2, V5.D2"} {
		p.op("%s, V%d.D2", zip, 16+i)
	}
	for i := range 4 {
		p.op("FMOVQ F%d, %d(R8)", 16+i, i*step)
	}
	p.op("ADD $%d, R8", 4*step)
	p.op("SUBS $4, R9")
	p.op("BGE %s", loop)
	p.label(rest)
	p.op("ADDS $4, R9")
	p.op("BEQ %s", done)
	p.label(one)
	for r := range 4 {
		p.op("FMOVS.P 4(R%d), F0", 4+r)
		p.op("FMOVS F0, %d(R8)", 4*r)
	}
	p.op("ADD $%d, R8", step)
	p.op("SUBS $1, R9")
	p.op("BNE %s", one)
	p.label(done)
}
