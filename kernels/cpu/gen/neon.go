package main

import (
	"fmt"
	"math"
)

// neon is arm64's Advanced SIMD, which every arm64 processor has. Registers hold 4 lanes. Registers 0 to 16 are those of
// the descriptions, the ones from 18 on hold what an operation needs for itself.
type neon struct {
	current row // being written
	step    int // of the round being written
}

// The general registers of a row: the slices' current elements, the elements that are left, the table of constants, and
// two temporary ones.
var neonPointers = [...]string{"R0", "R1", "R2", "R3", "R4", "R9"}

const (
	neonLeft, neonTable, neonTemp, neonTemp2 = "R5", "R6", "R7", "R8"

	neonMask = 31 // register with ones in the lanes that are there
	neonWork = 18 // register
)

// The Go assembler does not know the arithmetic of vectors of float32 other than VFMLA and VFMLS. These are the words of
// the instructions with all registers 0: "Arm Architecture Reference Manual for A-profile architecture", C7.2.
const (
	fadd4s, fsub4s, fmul4s, fdiv4s = 0x4e20d400, 0x4ea0d400, 0x6e20dc00, 0x6e20fc00
	fmax4s, fmin4s, fmaxnm4s       = 0x4e20f400, 0x4ea0f400, 0x4e20c400
	fadd2d, fmla2d                 = 0x4e60d400, 0x4e60cc00

	fsqrt4s, frintn4s, fcvtzs4s = 0x6ea1f800, 0x4e218800, 0x4ea1b800
	fcvtl2d                     = 0x0e617800             // two float32 to float64
	sshr4s1                     = 0x4f3f0400             // shift right by 1
	shll4s16, shrn4h16          = 0x2e613800, 0x0f108400 // 16 bits to and from the upper half of 32
	fcmeq4s                     = 0x4e20e400
	faddpS, faddpD, fmaxnmvS    = 0x7e30d800, 0x7e70d800, 0x6e30c800
)

// word3 prints an instruction d = a op b as a word.
func (v *neon) word3(p *printer, name string, word uint32, a, b, d int) {
	p.op("WORD $%#08x // %s V%d, V%d, V%d", word|uint32(b<<16|a<<5|d), name, d, a, b)
}

// word2 prints an instruction d = op a as a word.
func (v *neon) word2(p *printer, name string, word uint32, a, d int) {
	p.op("WORD $%#08x // %s V%d, V%d", word|uint32(a<<5|d), name, d, a)
}

func (v *neon) lanes() int { return 4 }

// row writes one function: rounds of whole vectors, then whole vectors for what is left, and an incomplete one.
func (v *neon) row(p *printer, f row) {
	args, at := f.args()
	v.current = f
	p.function(f.name+"NEON", args)
	for i, s := range f.slices {
		p.op("MOVD %s_base+%d(FP), %s", s, 24*i, neonPointers[i])
		if i == 0 {
			p.op("MOVD %s_len+%d(FP), %s", s, 8, neonLeft)
			continue
		}
		// A slice that is too short shortens the work, so that no mistake in Go can write outside of a slice.
		p.op("MOVD %s_len+%d(FP), %s", s, 24*i+8, neonTemp)
		p.op("CMP %s, %s", neonLeft, neonTemp)
		p.op("CSEL LT, %s, %s, %s", neonTemp, neonLeft, neonLeft)
	}
	for i, s := range f.scalars {
		p.op("FMOVS %s+%d(FP), F%d", s, 24*len(f.slices)+4*i, scalar(i))
		p.op("VDUP V%d.S[0], V%d.S4", scalar(i), scalar(i))
	}
	if f.setup != nil {
		f.setup(p)
	}
	v.rounds(p, f)
	if f.result > 0 {
		f.finish(p)
		p.op("%s F0, ret+%d(FP)", map[int]string{4: "FMOVS", 8: "FMOVD"}[f.result], at)
	}
	p.op("RET")
}

func (v *neon) rounds(p *printer, f row) {
	loop, rest, part, done := p.newLabel("loop"), p.newLabel("rest"), p.newLabel("part"), p.newLabel("done")
	p.op("SUBS $%d, %s", f.steps*f.elements, neonLeft)
	p.op("BLT %s", rest)
	p.op("PCALIGN $16")
	p.label(loop)
	for v.step = range f.steps {
		f.step(p, v.step, false)
	}
	v.advance(p, f, f.steps)
	p.op("SUBS $%d, %s", f.steps*f.elements, neonLeft)
	p.op("BGE %s", loop)
	p.label(rest)
	v.step = 0
	if f.whole {
		return
	}
	p.op("ADD $%d, %s", f.steps*f.elements, neonLeft)
	for i := range f.steps - 1 {
		p.op("SUBS $%d, %s", f.elements, neonLeft)
		p.op("BLT %s%d", part, i)
		f.step(p, i, false)
		v.advance(p, f, 1)
	}
	for i := f.steps - 1; i >= 0; i-- {
		if i < f.steps-1 {
			p.label(fmt.Sprintf("%s%d", part, i))
			p.op("ADD $%d, %s", f.elements, neonLeft)
		}
		p.op("CBZ %s, %s", neonLeft, done)
		v.mask(p)
		f.step(p, i, true)
		if i > 0 {
			p.op("B %s", done)
		}
	}
	p.label(done)
}

// advance moves the pointers on by a number of steps.
func (v *neon) advance(p *printer, f row, steps int) {
	for i := range f.slices {
		p.op("ADD $%d, %s", f.size(i)*f.elements*steps, neonPointers[i])
	}
}

// mask sets the mask to the lanes of the elements that are left, fewer than a vector.
func (v *neon) mask(p *printer) {
	p.op("MOVD $·maskNEON<>+16(SB), %s", neonTemp)
	p.op("SUB %s<<2, %s, %s", neonLeft, neonTemp, neonTemp)
	p.op("FMOVQ (%s), F%d", neonTemp, neonMask)
}

func (v *neon) at(slice int) string {
	return fmt.Sprintf("%d(%s)", v.current.size(slice)*v.current.elements*v.step, neonPointers[slice])
}

func (v *neon) load(p *printer, slice, d int, masked bool) {
	if !masked {
		p.op("FMOVQ %s, F%d", v.at(slice), d)
		return
	}
	whole := p.newLabel("loaded")
	p.op("FMOVS (%s), F%d", neonPointers[slice], d)
	p.op("ADD $4, %s, %s", neonPointers[slice], neonTemp)
	p.op("CMP $2, %s", neonLeft)
	p.op("BLT %s", whole)
	p.op("VLD1.P 4(%s), V%d.S[1]", neonTemp, d)
	p.op("BEQ %s", whole)
	p.op("VLD1 (%s), V%d.S[2]", neonTemp, d)
	p.label(whole)
}

func (v *neon) store(p *printer, slice, s int, masked bool) {
	if !masked {
		p.op("FMOVQ F%d, %s", s, v.at(slice))
		return
	}
	whole := p.newLabel("stored")
	p.op("FMOVS F%d, (%s)", s, neonPointers[slice])
	p.op("ADD $4, %s, %s", neonPointers[slice], neonTemp)
	p.op("CMP $2, %s", neonLeft)
	p.op("BLT %s", whole)
	p.op("VST1.P V%d.S[1], 4(%s)", s, neonTemp)
	p.op("BEQ %s", whole)
	p.op("VST1 V%d.S[2], (%s)", s, neonTemp)
	p.label(whole)
}

// loadHalf needs no mask for less than half a vector: that is one element.
func (v *neon) loadHalf(p *printer, slice, d int, masked bool) {
	if masked {
		p.op("FMOVS (%s), F%d", neonPointers[slice], d)
	} else {
		p.op("FMOVD %s, F%d", v.at(slice), d)
	}
	v.word2(p, "FCVTL.2D", fcvtl2d, d, d)
}

func (v *neon) loadBFloat16(p *printer, slice, d int) {
	p.op("FMOVD %s, F%d", v.at(slice), d)
	v.word2(p, "SHLL.4S #16", shll4s16, d, d)
}

func (v *neon) storeBFloat16(p *printer, slice, s int) {
	v.word2(p, "SHRN.4H #16", shrn4h16, s, s)
	p.op("FMOVD F%d, %s", s, v.at(slice))
}

func (v *neon) roundBFloat16(p *printer, d, temp, mask int) {
	p.op("VUSHR $16, V%d.S4, V%d.S4", d, temp)
	v.constant(p, "lastBit", neonWork)
	p.op("VAND V%d.B16, V%d.B16, V%d.B16", neonWork, temp, temp)
	v.constant(p, "belowHalf", neonWork)
	p.op("VADD V%d.S4, V%d.S4, V%d.S4", neonWork, temp, temp)
	p.op("VADD V%d.S4, V%d.S4, V%d.S4", d, temp, temp)
	v.word3(p, "FCMEQ.4S", fcmeq4s, d, d, mask)
	v.constant(p, "quiet", neonWork)
	p.op("VORR V%d.B16, V%d.B16, V%d.B16", neonWork, d, d)
	p.op("VBIT V%d.B16, V%d.B16, V%d.B16", mask, temp, d)
}

// tables writes the vector of each constant, one after the other, and the source of masks.
func (v *neon) tables(p *printer) {
	all := constants()
	p.line("")
	p.data("constantsNEON", 4*len(all), func(i int) uint32 { return all[i/4].bits })
	p.line("")
	p.data("maskNEON", 8, func(i int) uint32 {
		if i < 4 {
			return math.MaxUint32
		}
		return 0
	})
}

func (v *neon) useConstants(p *printer) { p.op("MOVD $·constantsNEON<>(SB), %s", neonTable) }

func (v *neon) constant(p *printer, name string, d int) {
	for i, c := range constants() {
		if c.name == name {
			p.op("FMOVQ %d(%s), F%d // %s", 16*i, neonTable, d, name)
		}
	}
}

func (v *neon) zero(p *printer, d int) { p.op("VEOR V%d.B16, V%d.B16, V%d.B16", d, d, d) }

func (v *neon) move(p *printer, a, d int) { p.op("VORR V%d.B16, V%d.B16, V%d.B16", a, a, d) }

func (v *neon) add(p *printer, a, b, d int) { v.word3(p, "FADD.4S", fadd4s, a, b, d) }
func (v *neon) sub(p *printer, a, b, d int) { v.word3(p, "FSUB.4S", fsub4s, a, b, d) }
func (v *neon) mul(p *printer, a, b, d int) { v.word3(p, "FMUL.4S", fmul4s, a, b, d) }
func (v *neon) div(p *printer, a, b, d int) { v.word3(p, "FDIV.4S", fdiv4s, a, b, d) }
func (v *neon) sqrt(p *printer, a, d int)   { v.word2(p, "FSQRT.4S", fsqrt4s, a, d) }

func (v *neon) fma(p *printer, a, b, d int)   { p.op("VFMLA V%d.S4, V%d.S4, V%d.S4", b, a, d) }
func (v *neon) fma64(p *printer, a, b, d int) { v.word3(p, "FMLA.2D", fmla2d, a, b, d) }

// mulAdd takes two moves: the instruction adds to the register that it writes.
func (v *neon) mulAdd(p *printer, a, c, d int) {
	v.move(p, c, neonWork)
	v.fma(p, a, d, neonWork)
	v.move(p, neonWork, d)
}

func (v *neon) addConst(p *printer, name string, d int) {
	v.constant(p, name, neonWork)
	v.add(p, d, neonWork, d)
}

func (v *neon) mulConst(p *printer, a int, name string, d int) {
	v.constant(p, name, neonWork)
	v.mul(p, a, neonWork, d)
}

func (v *neon) mulAddConst(p *printer, a int, name string, d int) {
	v.constant(p, name, neonWork)
	v.fma(p, a, d, neonWork)
	v.move(p, neonWork, d)
}

func (v *neon) mulSubConst(p *printer, a int, name string, d int) {
	v.constant(p, name, neonWork)
	p.op("VFMLS V%d.S4, V%d.S4, V%d.S4", neonWork, a, d)
}

func (v *neon) addLanes(p *printer, a, d int, masked bool) {
	if masked {
		p.op("VAND V%d.B16, V%d.B16, V%d.B16", neonMask, a, a)
	}
	v.add(p, d, a, d)
}

// maxLanes takes the maximum that passes over NaN.
func (v *neon) maxLanes(p *printer, a, d int, masked bool) {
	if masked {
		v.move(p, d, neonWork)
		p.op("VBIT V%d.B16, V%d.B16, V%d.B16", neonMask, a, neonWork)
		a = neonWork
	}
	v.word3(p, "FMAXNM.4S", fmaxnm4s, d, a, d)
}

func (v *neon) clamp(p *printer, low, high, d int) {
	v.word3(p, "FMIN.4S", fmin4s, d, high, d)
	v.word3(p, "FMAX.4S", fmax4s, d, low, d)
}

func (v *neon) roundEven(p *printer, d int) { v.word2(p, "FRINTN.4S", frintn4s, d, d) }

// scalePower multiplies by two powers, whose exponents are the halves of n: one alone may be out of range.
func (v *neon) scalePower(p *printer, n, t, d int) {
	v.word2(p, "FCVTZS.4S", fcvtzs4s, n, n)
	v.word2(p, "SSHR.4S #1", sshr4s1, n, t)
	p.op("VSUB V%d.S4, V%d.S4, V%d.S4", t, n, n)
	v.constant(p, "bias", neonWork)
	for _, r := range []int{t, n} {
		p.op("VADD V%d.S4, V%d.S4, V%d.S4", neonWork, r, r)
		p.op("VSHL $23, V%d.S4, V%d.S4", r, r)
		v.mul(p, d, r, d)
	}
}

func (v *neon) addHalves(p *printer, n int) {
	v.registerHalves(p, "FADD.4S", fadd4s, n)
	p.op("VEXT $8, V0.B16, V0.B16, V1.B16")
	v.add(p, 0, 1, 0)
	v.word2(p, "FADDP.S", faddpS, 0, 0)
}

func (v *neon) addHalves64(p *printer, n int) {
	v.registerHalves(p, "FADD.2D", fadd2d, n)
	v.word2(p, "FADDP.D", faddpD, 0, 0)
}

func (v *neon) maxHalves(p *printer, n int) {
	v.registerHalves(p, "FMAXNM.4S", fmaxnm4s, n)
	v.word2(p, "FMAXNMV.S", fmaxnmvS, 0, 0)
}

func (v *neon) registerHalves(p *printer, name string, word uint32, n int) {
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			v.word3(p, name, word, i, i+n/2, i)
		}
	}
}
