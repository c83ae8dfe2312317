package main

import (
	"fmt"
	"math"
)

// x86 is AVX2 with FMA, or AVX-512.
type x86 struct {
	name  string // as in the names of functions: AVX2
	reg   string // "Y" or "Z"
	width int    // float32 lanes of a register
	wide  bool   // AVX-512: mask registers and 32 vector registers
	pairs bool   // the tile multiplies pairs of bfloat16
}

// maskReg is the number of the AVX2 register that masks an incomplete vector; AVX-512 uses K1.
const maskReg = 15

// pointers are the registers of the slices' first elements.
var pointers = [...]string{"DI", "SI", "BX", "DX", "R8", "R11"}

func (v x86) lanes() int { return v.width }

// r returns the name of vector register i.
func (v x86) r(i int) string { return fmt.Sprintf("%s%d", v.reg, i) }

// half returns the name of the register i of half the width.
func (v x86) half(i int) string {
	return fmt.Sprintf("%s%d", map[string]string{"Y": "X", "Z": "Y"}[v.reg], i)
}

// end returns to Go, which expects the upper halves of the vector registers to be clear.
func (v x86) end(p *printer) {
	p.op("VZEROUPPER")
	p.op("RET")
}

// row writes one function: rounds of whole vectors, then masked ones for what is left. AX counts the elements done, CX
// those that are left.
func (v x86) row(p *printer, f row) {
	args, at := f.args()
	p.function(f.name+v.name, args)
	for i, s := range f.slices {
		p.op("MOVQ %s_base+%d(FP), %s", s, 24*i, pointers[i])
		if i == 0 {
			p.op("MOVQ %s_len+%d(FP), CX", s, 8)
			continue
		}
		// A slice that is too short shortens the work, so that no mistake in Go can write outside of a slice.
		p.op("MOVQ %s_len+%d(FP), AX", s, 24*i+8)
		p.op("CMPQ AX, CX")
		p.op("CMOVQLT AX, CX")
	}
	for i, s := range f.scalars {
		p.op("VBROADCASTSS %s+%d(FP), %s", s, 24*len(f.slices)+4*i, v.r(scalar(i)))
	}
	if f.setup != nil {
		f.setup(p)
	}
	p.op("XORQ AX, AX")
	v.rounds(p, f)
	if f.result > 0 {
		f.finish(p)
		p.op("%s X0, ret+%d(FP)", map[int]string{4: "MOVSS", 8: "MOVSD"}[f.result], at)
	}
	v.end(p)
}

func (v x86) rounds(p *printer, f row) {
	loop, rest, done := p.newLabel("loop"), p.newLabel("rest"), p.newLabel("done")
	p.op("SUBQ $%d, CX", f.steps*f.elements)
	p.op("JLT %s", rest)
	p.op("PCALIGN $32")
	p.label(loop)
	for i := range f.steps {
		f.step(p, i, false)
		p.op("ADDQ $%d, AX", f.elements)
	}
	p.op("SUBQ $%d, CX", f.steps*f.elements)
	p.op("JGE %s", loop)
	p.label(rest)
	if f.whole {
		return
	}
	p.op("ADDQ $%d, CX", f.steps*f.elements)
	for i := range f.steps {
		p.op("JLE %s", done)
		v.mask(p, f.elements)
		f.step(p, i, true)
		p.op("ADDQ $%d, AX", f.elements)
		p.op("SUBQ $%d, CX", f.elements)
	}
	p.label(done)
}

// mask sets the mask to the lanes of min(CX, elements) elements.
func (v x86) mask(p *printer, elements int) {
	p.op("MOVQ $%d, R9", elements)
	p.op("CMPQ CX, R9")
	p.op("CMOVQLT CX, R9")
	if v.wide {
		p.op("MOVL $-1, R10")
		p.op("SHLXL R9, R10, R10")
		p.op("NOTL R10")
		p.op("KMOVW R10, K1")
		return
	}
	p.op("LEAQ ·%s<>+%d(SB), R10", v.table("mask"), 4*v.width)
	p.op("SHLQ $2, R9")
	p.op("SUBQ R9, R10")
	p.op("VMOVUPS (R10), Y%d", maskReg)
}

func (v x86) load(p *printer, slice, d int, masked bool) { v.loadTo(p, slice, v.r(d), masked) }

func (v x86) loadHalf(p *printer, slice, d int, masked bool) {
	if !masked {
		p.op("VCVTPS2PD (%s)(AX*4), %s", pointers[slice], v.r(d))
		return
	}
	v.loadTo(p, slice, v.half(d), masked)
	p.op("VCVTPS2PD %s, %s", v.half(d), v.r(d))
}

func (v x86) loadTo(p *printer, slice int, r string, masked bool) {
	at := fmt.Sprintf("(%s)(AX*4)", pointers[slice])
	switch {
	case !masked:
		p.op("VMOVUPS %s, %s", at, r)
	case v.wide:
		p.op("VMOVUPS.Z %s, K1, %s", at, r)
	default:
		p.op("VMASKMOVPS %s, %s%d, %s", at, r[:1], maskReg, r)
	}
}

func (v x86) store(p *printer, slice, s int, masked bool) {
	at := fmt.Sprintf("(%s)(AX*4)", pointers[slice])
	switch {
	case !masked:
		p.op("VMOVUPS %s, %s", v.r(s), at)
	case v.wide:
		p.op("VMOVUPS %s, K1, %s", v.r(s), at)
	default:
		p.op("VMASKMOVPS %s, Y%d, %s", v.r(s), maskReg, at)
	}
}

func (v x86) loadBFloat16(p *printer, slice, d int) {
	p.op("VPMOVZXWD (%s)(AX*2), %s", pointers[slice], v.r(d))
	p.op("VPSLLD $16, %s, %s", v.r(d), v.r(d))
}

func (v x86) storeBFloat16(p *printer, slice, s int) {
	p.op("VPSRLD $16, %s, %s", v.r(s), v.r(s))
	if v.wide {
		p.op("VPMOVDW %s, (%s)(AX*2)", v.r(s), pointers[slice])
		return
	}
	// The instruction packs each half of the register for itself.
	p.op("VPACKUSDW %s, %s, %s", v.r(s), v.r(s), v.r(s))
	p.op("VPERMQ $8, %s, %s", v.r(s), v.r(s))
	p.op("VMOVUPS %s, (%s)(AX*2)", v.half(s), pointers[slice])
}

func (v x86) roundBFloat16(p *printer, d, temp, mask int) {
	and, or := "VPAND", "VPOR"
	if v.wide {
		and, or = "VPANDD", "VPORD"
	}
	p.op("VPSRLD $16, %s, %s", v.r(d), v.r(temp))
	v.opConst(p, and, "lastBit", temp, temp)
	v.opConst(p, "VPADDD", "belowHalf", temp, temp)
	v.op3(p, "VPADDD", d, temp, temp)
	if v.wide {
		p.op("VCMPPS $3, %s, %s, K1", v.r(d), v.r(d))
		p.op("%s %s, %s, K1, %s", or, v.memory("quiet"), v.r(d), v.r(temp))
		p.op("VMOVUPS %s, %s", v.r(temp), v.r(d))
		return
	}
	p.op("VCMPPS $3, %s, %s, %s", v.r(d), v.r(d), v.r(mask))
	v.opConst(p, or, "quiet", d, d)
	p.op("VBLENDVPS %s, %s, %s, %s", v.r(mask), v.r(d), v.r(temp), v.r(d))
}

// table returns the name of a table of constants, which belongs to one file.
func (v x86) table(name string) string { return name + v.name }

// memory returns the memory operand of a constant, repeated in all lanes.
func (v x86) memory(name string) string { return fmt.Sprintf("·%s<>(SB)", v.table(name)) }

// tables writes one vector of copies of each constant, and the source of AVX2's masks.
func (v x86) tables(p *printer) {
	for _, c := range constants() {
		if v.wide && c.name == "bias" {
			continue // AVX-512 scales by a power of two in one instruction
		}
		p.line("")
		p.data(v.table(c.name), v.width, func(int) uint32 { return c.bits })
	}
	if !v.wide {
		p.line("")
		p.data(v.table("mask"), 2*v.width, func(i int) uint32 {
			if i < v.width {
				return math.MaxUint32
			}
			return 0
		})
	}
}

func (v x86) useConstants(*printer) {}

func (v x86) constant(p *printer, name string, d int) { p.op("VMOVUPS %s, %s", v.memory(name), v.r(d)) }

func (v x86) zero(p *printer, d int) {
	if v.wide {
		p.op("VPXORQ %s, %s, %s", v.r(d), v.r(d), v.r(d))
	} else {
		p.op("VXORPS %s, %s, %s", v.r(d), v.r(d), v.r(d))
	}
}

// op3 prints an instruction of two sources, of which the first one is b.
func (v x86) op3(p *printer, op string, a, b, d int) {
	p.op("%s %s, %s, %s", op, v.r(b), v.r(a), v.r(d))
}

func (v x86) add(p *printer, a, b, d int)    { v.op3(p, "VADDPS", a, b, d) }
func (v x86) sub(p *printer, a, b, d int)    { v.op3(p, "VSUBPS", a, b, d) }
func (v x86) mul(p *printer, a, b, d int)    { v.op3(p, "VMULPS", a, b, d) }
func (v x86) div(p *printer, a, b, d int)    { v.op3(p, "VDIVPS", a, b, d) }
func (v x86) fma(p *printer, a, b, d int)    { v.op3(p, "VFMADD231PS", a, b, d) }
func (v x86) fma64(p *printer, a, b, d int)  { v.op3(p, "VFMADD231PD", a, b, d) }
func (v x86) mulAdd(p *printer, a, c, d int) { v.op3(p, "VFMADD213PS", a, c, d) }
func (v x86) sqrt(p *printer, a, d int)      { p.op("VSQRTPS %s, %s", v.r(a), v.r(d)) }

func (v x86) roundEven(p *printer, d int) {
	op := "VROUNDPS"
	if v.wide {
		op = "VRNDSCALEPS"
	}
	p.op("%s $0, %s, %s", op, v.r(d), v.r(d))
}

func (v x86) opConst(p *printer, op, name string, a, d int) {
	p.op("%s %s, %s, %s", op, v.memory(name), v.r(a), v.r(d))
}

func (v x86) addConst(p *printer, name string, d int)        { v.opConst(p, "VADDPS", name, d, d) }
func (v x86) mulConst(p *printer, a int, name string, d int) { v.opConst(p, "VMULPS", name, a, d) }
func (v x86) mulAddConst(p *printer, a int, name string, d int) {
	v.opConst(p, "VFMADD213PS", name, a, d)
}
func (v x86) mulSubConst(p *printer, a int, name string, d int) {
	v.opConst(p, "VFNMADD231PS", name, a, d)
}

func (v x86) addLanes(p *printer, a, d int, masked bool) {
	switch {
	case masked && v.wide:
		p.op("VADDPS %s, %s, K1, %s", v.r(a), v.r(d), v.r(d))
		return
	case masked:
		p.op("VANDPS %s, %s, %s", v.r(a), v.r(maskReg), v.r(a))
	}
	v.add(p, d, a, d)
}

// maxLanes relies on VMAXPS giving its first source in the order of the Go assembler where one of the two is NaN.
func (v x86) maxLanes(p *printer, a, d int, masked bool) {
	switch {
	case masked && v.wide:
		p.op("VMAXPS %s, %s, K1, %s", v.r(d), v.r(a), v.r(d))
		return
	case masked:
		p.op("VBLENDVPS %s, %s, %s, %s", v.r(maskReg), v.r(a), v.r(d), v.r(a))
	}
	v.op3(p, "VMAXPS", a, d, d)
}

func (v x86) clamp(p *printer, low, high, d int) {
	v.op3(p, "VMINPS", high, d, d)
	v.op3(p, "VMAXPS", low, d, d)
}

func (v x86) scalePower(p *printer, n, t, d int) {
	if v.wide {
		p.op("VSCALEFPS %s, %s, %s", v.r(n), v.r(d), v.r(d))
		return
	}
	p.op("VCVTPS2DQ %s, %s", v.r(n), v.r(n))
	p.op("VPSRAD $1, %s, %s", v.r(n), v.r(t))
	p.op("VPSUBD %s, %s, %s", v.r(t), v.r(n), v.r(n))
	for _, r := range []int{t, n} {
		v.opConst(p, "VPADDD", "bias", r, r)
		p.op("VPSLLD $23, %s, %s", v.r(r), v.r(r))
		v.mul(p, r, d, d)
	}
}

func (v x86) addHalves(p *printer, n int)   { v.halves(p, n, "VADDPS", false) }
func (v x86) addHalves64(p *printer, n int) { v.halves(p, n, "VADDPD", true) }
func (v x86) maxHalves(p *printer, n int)   { v.halves(p, n, "VMAXPS", false) }

// halves combines first whole registers, then halves of one.
func (v x86) halves(p *printer, n int, op string, float64s bool) {
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			v.op3(p, op, i, i+n/2, i)
		}
	}
	if v.wide {
		p.op("VEXTRACTF64X4 $1, Z0, Y1")
		p.op("%s Y1, Y0, Y0", op)
	}
	p.op("VEXTRACTF128 $1, Y0, X1")
	p.op("%s X1, X0, X0", op)
	p.op("VPERMILPD $1, X0, X1")
	p.op("%s X1, X0, X0", op)
	if !float64s {
		p.op("VMOVSHDUP X0, X1")
		p.op("%s X1, X0, X0", op)
	}
}
