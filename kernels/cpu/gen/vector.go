package main

import (
	"fmt"
	"math"
)

// maskReg is the number of the AVX2 register that masks an incomplete vector; AVX-512 uses K1.
const maskReg = 15

// A row is a function over slices of one length. Its slices are at the pointers below, AX counts the elements done, CX
// those that are left.
type row struct {
	name    string
	slices  []string // argument names in order; the first one's length counts
	scalars []string // float32 arguments after the slices
	result  string   // MOVSS or MOVSD where the function returns a number

	elements int // elements of one step: lanes, or half of them where they are widened to float64
	steps    int // steps of one round, each with its own accumulator
	setup    func(p *printer)
	// step computes one vector; masked says that not all of its lanes are there.
	step   func(p *printer, accumulator int, masked bool)
	finish func(p *printer) // leaves the result in X0
}

// pointers are the registers of the slices' first elements.
var pointers = []string{"DI", "SI", "BX", "DX", "R8"}

func (v isa) vector(p *printer) {
	v.constants(p)
	for _, list := range [][]row{v.elementwise(), v.reductions(), v.exponentials(), v.optimizer()} {
		for _, f := range list {
			v.row(p, f)
		}
	}
}

// row writes one function: rounds of whole vectors, then masked ones for what is left.
func (v isa) row(p *printer, f row) {
	args := 24*len(f.slices) + 4*len(f.scalars)
	at := (args + 7) / 8 * 8 // of the result
	if f.result != "" {
		args = at + map[string]int{"MOVSS": 4, "MOVSD": 8}[f.result]
	}
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
		p.op("VBROADCASTSS %s+%d(FP), %s", s, 24*len(f.slices)+4*i, v.r(v.scalar(i)))
	}
	if f.setup != nil {
		f.setup(p)
	}
	p.op("XORQ AX, AX")
	f.steps = max(f.steps, 1)
	if f.elements == 0 {
		f.elements = v.lanes
	}
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
	p.op("ADDQ $%d, CX", f.steps*f.elements)
	for i := range f.steps {
		p.op("JLE %s", done)
		v.mask(p, f.elements)
		f.step(p, i, true)
		p.op("ADDQ $%d, AX", f.elements)
		p.op("SUBQ $%d, CX", f.elements)
	}
	p.label(done)
	if f.result != "" {
		f.finish(p)
		p.op("%s X0, ret+%d(FP)", f.result, at)
	}
	p.end()
}

// scalar returns the register of scalar argument i.
func (v isa) scalar(i int) int { return maskReg - 1 - i }

// mask sets the mask to the lanes of min(CX, elements) elements.
func (v isa) mask(p *printer, elements int) {
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
	p.op("LEAQ ·%s<>+%d(SB), R10", v.table("mask"), 4*v.lanes)
	p.op("SHLQ $2, R9")
	p.op("SUBQ R9, R10")
	p.op("VMOVUPS (R10), Y%d", maskReg)
}

// load reads slice i into a register, zeros into the lanes that are not there.
func (v isa) load(p *printer, slice int, r string, masked bool) {
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

// store writes the lanes that are there.
func (v isa) store(p *printer, slice int, r string, masked bool) {
	at := fmt.Sprintf("(%s)(AX*4)", pointers[slice])
	switch {
	case !masked:
		p.op("VMOVUPS %s, %s", r, at)
	case v.wide:
		p.op("VMOVUPS %s, K1, %s", r, at)
	default:
		p.op("VMASKMOVPS %s, Y%d, %s", r, maskReg, at)
	}
}

// table returns the name of a table of constants, which belongs to one file.
func (v isa) table(name string) string { return name + v.name }

// constant returns the memory operand of a constant, repeated in all lanes.
func (v isa) constant(name string) string { return fmt.Sprintf("·%s<>(SB)", v.table(name)) }

// constants writes the tables: one vector of copies of each constant, and the source of AVX2's masks.
func (v isa) constants(p *printer) {
	bits := func(x float64) uint32 { return math.Float32bits(float32(x)) }
	for _, c := range []struct {
		name string
		bits uint32
	}{
		{"low", bits(-104)}, {"high", bits(89)}, {"log2e", bits(math.Log2E)},
		{"ln2High", bits(0.693359375)}, {"ln2Low", bits(-2.12194440e-4)},
		{"exp0", bits(1.9875691500e-4)}, {"exp1", bits(1.3981999507e-3)}, {"exp2", bits(8.3334519073e-3)},
		{"exp3", bits(4.1665795894e-2)}, {"exp4", bits(1.6666665459e-1)}, {"exp5", bits(5.0000001201e-1)},
		{"one", bits(1)}, {"minusOne", bits(-1)}, {"infinity", bits(math.Inf(-1))}, {"bias", 127},
	} {
		if v.wide && c.name == "bias" {
			continue // AVX-512 scales by a power of two in one instruction
		}
		p.line("")
		v.data(p, v.table(c.name), v.lanes, func(int) uint32 { return c.bits })
	}
	if !v.wide {
		p.line("")
		v.data(p, v.table("mask"), 2*v.lanes, func(i int) uint32 {
			if i < v.lanes {
				return math.MaxUint32
			}
			return 0
		})
	}
}

func (v isa) data(p *printer, name string, n int, word func(i int) uint32) {
	for i := 0; i < n; i += 2 {
		p.line("DATA ·%s<>+%d(SB)/8, $0x%08x%08x", name, 4*i, word(i+1), word(i))
	}
	p.line("GLOBL ·%s<>(SB), RODATA|NOPTR, $%d", name, 4*n)
}
