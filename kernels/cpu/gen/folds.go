package main

import "fmt"

// foldSources are the numbers of sources that a fold adds in registers; larger trees are made of these.
var foldSources = []int{2, 4, 8}

// foldRound is how many elements of each source one round of a fold adds: two cache lines.
const foldRound = 32

// A foldFunction adds n sources of float32, in the order of the pairwise tree, into one destination or into all of them.
// Its arguments are (dst *float32, src [][]byte, at, n int), in which dst is there only where all is not: the elements
// [at, at+n) of the sources, n a multiple of foldRound, are added. The caller checks the bounds.
type foldFunction struct {
	sources int
	all     bool
}

func (f foldFunction) name(set string) string {
	if f.all {
		return fmt.Sprintf("sumAll%d%s", f.sources, set)
	}
	return fmt.Sprintf("sumInto%d%s", f.sources, set)
}

// args returns where the arguments begin, and their bytes.
func (f foldFunction) args() (src, at, n, size int) {
	if !f.all {
		src = 8
	}
	return src, src + 24, src + 32, src + 40
}

// folds writes all fold functions.
func folds(p *printer, v isa) {
	for _, n := range foldSources {
		v.fold(p, foldFunction{n, false})
		v.fold(p, foldFunction{n, true})
	}
}

// tree adds n sources from the given one on into register d; it uses the ones after it. pair puts the sum of two sources
// into a register.
func tree(source, n, d int, pair, add func(a, b, d int)) {
	if n == 2 {
		pair(source, source+1, d)
		return
	}
	tree(source, n/2, d, pair, add)
	tree(source+n/2, n/2, d+1, pair, add)
	add(d, d+1, d)
}

// foldPointers are the registers of the sources' elements; AX counts the bytes done, CX the elements that are left.
var foldPointers = [...]string{"DI", "SI", "BX", "DX", "R8", "R11", "R12", "R13"}

const foldDestination = "R9"

func (v x86) fold(p *printer, f foldFunction) {
	src, at, n, size := f.args()
	p.function(f.name(v.name), size)
	p.op("MOVQ at+%d(FP), AX", at)
	p.op("MOVQ n+%d(FP), CX", n)
	p.op("MOVQ src_base+%d(FP), R10", src)
	for i := range f.sources {
		p.op("MOVQ %d(R10), %s", 24*i, foldPointers[i])
		p.op("LEAQ (%s)(AX*4), %s", foldPointers[i], foldPointers[i])
	}
	to := foldPointers[:f.sources]
	if !f.all {
		p.op("MOVQ dst+0(FP), %s", foldDestination)
		to = []string{foldDestination}
	}
	p.op("XORQ AX, AX")
	loop, done := p.newLabel("loop"), p.newLabel("done")
	p.op("SUBQ $%d, CX", foldRound)
	p.op("JLT %s", done)
	p.op("PCALIGN $32")
	p.label(loop)
	for step := range foldRound / v.width {
		offset := 4 * v.width * step
		d := 3 * (step % 4)
		tree(0, f.sources, d, func(a, b, d int) {
			p.op("VMOVUPS %d(%s)(AX*1), %s", offset, foldPointers[a], v.r(d))
			p.op("VADDPS %d(%s)(AX*1), %s, %s", offset, foldPointers[b], v.r(d), v.r(d))
		}, func(a, b, d int) { v.add(p, a, b, d) })
		for _, pointer := range to {
			p.op("VMOVUPS %s, %d(%s)(AX*1)", v.r(d), offset, pointer)
		}
	}
	p.op("ADDQ $%d, AX", 4*foldRound)
	p.op("SUBQ $%d, CX", foldRound)
	p.op("JGE %s", loop)
	p.label(done)
	v.end(p)
}

// neonFoldPointers are the registers of the sources' elements.
var neonFoldPointers = [...]string{"R0", "R1", "R2", "R3", "R4", "R5", "R6", "R7"}

const neonFoldDestination, neonFoldLeft, neonFoldTemp = "R8", "R9", "R10"

func (v *neon) fold(p *printer, f foldFunction) {
	src, at, n, size := f.args()
	p.function(f.name("NEON"), size)
	p.op("MOVD n+%d(FP), %s", n, neonFoldLeft)
	p.op("MOVD src_base+%d(FP), %s", src, neonFoldTemp)
	for i := range f.sources {
		p.op("MOVD %d(%s), %s", 24*i, neonFoldTemp, neonFoldPointers[i])
	}
	p.op("MOVD at+%d(FP), %s", at, neonFoldTemp)
	for i := range f.sources {
		p.op("ADD %s<<2, %s, %s", neonFoldTemp, neonFoldPointers[i], neonFoldPointers[i])
	}
	to, pointers := neonFoldPointers[:f.sources], neonFoldPointers[:f.sources]
	if !f.all {
		p.op("MOVD dst+0(FP), %s", neonFoldDestination)
		to = []string{neonFoldDestination}
		pointers = append(pointers[:f.sources:f.sources], neonFoldDestination)
	}
	loop, done := p.newLabel("loop"), p.newLabel("done")
	p.op("SUBS $%d, %s", foldRound, neonFoldLeft)
	p.op("BLT %s", done)
	p.op("PCALIGN $16")
	p.label(loop)
	for step := range foldRound / v.lanes() {
		offset := 16 * step
		d := 4 * (step % 4)
		tree(0, f.sources, d, func(a, b, d int) {
			p.op("FMOVQ %d(%s), F%d", offset, neonFoldPointers[a], d)
			p.op("FMOVQ %d(%s), F%d", offset, neonFoldPointers[b], d+1)
			v.add(p, d, d+1, d)
		}, func(a, b, d int) { v.add(p, a, b, d) })
		for _, pointer := range to {
			p.op("FMOVQ F%d, %d(%s)", d, offset, pointer)
		}
	}
	for _, pointer := range pointers {
		p.op("ADD $%d, %s", 4*foldRound, pointer)
	}
	p.op("SUBS $%d, %s", foldRound, neonFoldLeft)
	p.op("BGE %s", loop)
	p.label(done)
	p.op("RET")
}
