package main

// The Go assembler does not know the instructions of AVX512_BF16. All are of one form, with 512-bit registers.

// The prefixes that tell the instructions apart, as EVEX encodes them.
const (
	prefixF3 = 2
	prefixF2 = 3
)

// evex prints an instruction of opcode map 0F38 in bytes: d = op(b, a). An instruction of two operands has b = 0.
func (p *printer) evex(comment string, prefix, opcode, a, b, d int) {
	bit := func(register, i, to int) int { return (^register >> i & 1) << to } // EVEX has these bits inverted
	p0 := bit(d, 3, 7) | bit(a, 4, 6) | bit(a, 3, 5) | bit(d, 4, 4) | 2
	p1 := (^b&15)<<3 | 4 | prefix
	p2 := 2<<5 | bit(b, 4, 3)
	modRM := 0xc0 | d&7<<3 | a&7
	p.op("LONG $%#08x; WORD $%#04x // "+comment, p2<<24|p1<<16|p0<<8|0x62, modRM<<8|opcode, a, b, d)
}

// dotBFloat16 prints VDPBF16PS: to each float32 of d it adds the products of the pair of bfloat16 in its place in a and b.
func (p *printer) dotBFloat16(a, b, d int) {
	p.evex("VDPBF16PS Z%d, Z%d, Z%d", prefixF3, 0x52, a, b, d)
}

// packPairs writes the loops that make pairs for the panels. Their lengths are multiples of castWhole.
func (v x86) packPairs(p *printer) {
	const low, high = 0, 1
	word := func(d int) { // widens the 16 bfloat16 in the lower half
		p.op("VPMOVZXWD Y%d, Z%d", d, d)
	}
	join := func() {
		p.op("VPSLLD $16, Z%d, Z%d", high, high)
		p.op("VPORD Z%d, Z%d, Z%d", low, high, low)
		v.store(p, 0, low, false)
	}
	narrow := func(slice, d int) {
		v.load(p, slice, d, false)
		p.evex("VCVTNEPS2BF16 Z%[1]d, Y%[3]d", prefixF3, 0x72, d, 0, d)
	}
	for _, f := range []row{
		{name: "round", slices: []string{"y", "x"}, sizes: []int{2, 4}, step: func(p *printer, _ int, _ bool) {
			narrow(1, low)
			p.op("VMOVUPS Y%d, (%s)(AX*2)", low, pointers[0])
		}},
		{name: "roundPairs", slices: []string{"y", "a", "b"}, step: func(*printer, int, bool) {
			narrow(1, low)
			narrow(2, high)
			word(low)
			word(high)
			join()
		}},
		{name: "joinPairs", slices: []string{"y", "a", "b"}, sizes: []int{4, 2, 2}, step: func(p *printer, _ int, _ bool) {
			p.op("VPMOVZXWD (%s)(AX*2), Z%d", pointers[1], low)
			p.op("VPMOVZXWD (%s)(AX*2), Z%d", pointers[2], high)
			join()
		}},
	} {
		f.steps, f.elements, f.whole = 1, v.lanes(), true
		v.row(p, f)
	}
}
