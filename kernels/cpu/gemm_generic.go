package cpu

import "unsafe"

// genericMR and genericNR are the generic tile: 16 sums, as many as compilers keep in registers.
const genericMR, genericNR = 4, 4

func genericTile() tileKernels {
	panel := panelKernels{width: genericMR, copy: packGeneric, transpose: transposeGeneric}
	return tileKernels{a: panel, b: panel, multiply: multiplyGeneric}
}

func multiplyGeneric(kc int, a, b, c *float32, ldc int, accumulate bool) {
	as, bs := unsafe.Slice(a, kc*genericMR), unsafe.Slice(b, kc*genericNR)
	var sum [genericMR][genericNR]float32
	for ; len(as) >= genericMR && len(bs) >= genericNR; as, bs = as[genericMR:], bs[genericNR:] {
		x, y := (*[genericMR]float32)(as), (*[genericNR]float32)(bs)
		for i := range genericMR {
			sum[i][0] += float32(x[i] * y[0])
			sum[i][1] += float32(x[i] * y[1])
			sum[i][2] += float32(x[i] * y[2])
			sum[i][3] += float32(x[i] * y[3])
		}
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
