package cpu

import "unsafe"

// genericMR and genericNR are the generic tile.
const genericMR, genericNR = 4, 4

func genericTile() tileKernels {
	panel := panelKernels{width: genericMR, copy: packGeneric, transpose: transposeGeneric}
	return tileKernels{a: panel, b: panel, multiply: multiplyGeneric, prefetch: func(unsafe.Pointer, int) {}}
}

// multiplyGeneric spells out its 16 sums because the compiler keeps variables in registers, but not the elements of an
// array.
func multiplyGeneric(kc int, a, b, c *float32, ldc int, accumulate bool) {
	as, bs := unsafe.Slice(a, kc*genericMR), unsafe.Slice(b, kc*genericNR)
	var s00, s01, s02, s03, s10, s11, s12, s13, s20, s21, s22, s23, s30, s31, s32, s33 float32
	for ; len(as) >= genericMR && len(bs) >= genericNR; as, bs = as[genericMR:], bs[genericNR:] {
		y0, y1, y2, y3 := bs[0], bs[1], bs[2], bs[3]
		x0 := as[0]
		s00 += float32(x0 * y0)
		s01 += float32(x0 * y1)
		s02 += float32(x0 * y2)
		s03 += float32(x0 * y3)
		x1 := as[1]
		s10 += float32(x1 * y0)
		s11 += float32(x1 * y1)
		s12 += float32(x1 * y2)
		s13 += float32(x1 * y3)
		x2 := as[2]
		s20 += float32(x2 * y0)
		s21 += float32(x2 * y1)
		s22 += float32(x2 * y2)
		s23 += float32(x2 * y3)
		x3 := as[3]
		s30 += float32(x3 * y0)
		s31 += float32(x3 * y1)
		s32 += float32(x3 * y2)
		s33 += float32(x3 * y3)
	}
	sum := [genericMR][genericNR]float32{
		{s00, s01, s02, s03},
		{s10, s11, s12, s13},
		{s20, s21, s22, s23},
		{s30, s31, s32, s33},
	}
	cs := unsafe.Slice(c, (genericMR-1)*ldc+genericNR)
	for i := range sum {
		row := cs[i*ldc:][:genericNR]
		for j := range row {
			if accumulate {
				row[j] += sum[i][j]
			} else {
				row[j] = sum[i][j]
			}
		}
	}
}

func packGeneric(kc int, dst, src *float32, lds int) {
	const w = genericMR
	d, s := unsafe.Slice(dst, kc*w), unsafe.Slice(src, (kc-1)*lds+w)
	for k := range kc {
		*(*[w]float32)(d[k*w:]) = *(*[w]float32)(s[k*lds:])
	}
}

func transposeGeneric(kc int, dst, src *float32, lds int) {
	const w = genericMR
	d, s := unsafe.Slice(dst, kc*w), unsafe.Slice(src, (w-1)*lds+kc)
	for i := range w {
		for k, v := range s[i*lds:][:kc] {
			d[k*w+i] = v
		}
	}
}
