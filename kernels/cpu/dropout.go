package cpu

import (
	"math"
	"math/bits"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Dropout computes y = scale * x without the elements that are dropped.
func (d *Device) Dropout(s device.Stream, y, x kernels.Tensor, o kernels.DropoutOptions) {
	c := call{name: "Dropout", run: runDropout}
	c.operands(1, byRows(y), byRows(x))
	c.f[0], c.f[1], c.f[2] = o.Scale, o.Rate, float64(max(o.Columns, y.Last()))
	c.word = [3]uint64{o.Key, o.Stream, uint64(o.First)}
	d.launch(s, kernels.CheckDropout(y, x, o), c)
}

func runDropout(d *Device, c *call) error {
	return d.overRows(c, &c.args[0], dropoutRows)
}

func dropoutRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, x := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1])
	scale, limit := float32(c.f[0]), uint64(math.Ceil(c.f[1]*(1<<32)))
	columns := uint64(c.f[2])
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		out := y.at(i)
		d.set.scale(out, x.read(i), scale)
		if limit > 0 {
			dropRow(out, c.word[2]+uint64(i)*columns, limit, c.word[0], c.word[1])
		}
		y.store(i)
	}
}

// dropRow puts zeros into row, whose first element has the given index.
func dropRow(row []float32, first, limit, key, stream uint64) {
	words := philox(first/4, stream, key)
	for j := range row {
		i := first + uint64(j)
		if i%4 == 0 {
			words = philox(i/4, stream, key)
		}
		if uint64(words[i%4]) < limit {
			row[j] = 0
		}
	}
}

// philox is Philox4x32-10 of the counter {low, high} under key: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC 2011.
func philox(low, high, key uint64) [4]uint32 {
	c := [4]uint32{uint32(low), uint32(low >> 32), uint32(high), uint32(high >> 32)}
	k := [2]uint32{uint32(key), uint32(key >> 32)}
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, c[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}
