package cpu

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// rowsPerPart cuts rows of the given width into parts of about 16 Ki elements, by the shape alone.
func rowsPerPart(width int) int { return max(1, (16<<10)/max(1, width)) }

// partsOf returns how many parts of per items n items make. It is at least 1: a part may be empty.
func partsOf(n, per int) int { return max(1, (n+per-1)/per) }

// byRows merges leading dimensions of t that are evenly spaced in memory: operators on rows find them faster with fewer
// dimensions. A dense tensor comes out with two.
func byRows(t kernels.Tensor) kernels.Tensor {
	for k := t.Rank - 2; k > 0; k-- {
		if t.Stride[k-1] != t.Shape[k]*t.Stride[k] {
			continue
		}
		t.Shape[k-1] *= t.Shape[k]
		t.Stride[k-1] = t.Stride[k]
		copy(t.Shape[k:], t.Shape[k+1:])
		copy(t.Stride[k:], t.Stride[k+1:])
		t.Rank--
		t.Shape[t.Rank], t.Stride[t.Rank] = 0, 0
	}
	return t
}

// rowSpan returns the rows of t that the parts [from, to) of overRows hold.
func rowSpan(t *kernels.Tensor, from, to int) (first, end int) {
	per := rowsPerPart(t.Last())
	return from * per, min(to*per, t.Rows())
}

// Add computes y = a + b.
func (d *Device) Add(s device.Stream, y, a, b kernels.Tensor) {
	c := call{name: "Add", run: runAdd}
	c.operands(1, byRows(y), byRows(a), byRows(b))
	d.launch(s, kernels.CheckAdd(y, a, b), c)
}

func runAdd(d *Device, c *call) error {
	return d.overRows(c, &c.args[0], addRows)
}

func addRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, a, b := d.rows(&s, &c.args[0]), d.rows(&s, &c.args[1]), d.rows(&s, &c.args[2])
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		d.set.add(y.at(i), a.read(i), b.read(i))
		y.store(i)
	}
}

// AddBias computes y += bias.
func (d *Device) AddBias(s device.Stream, y, bias kernels.Tensor) {
	c := call{name: "AddBias", run: runAddBias}
	c.operands(1, byRows(y), bias)
	d.launch(s, kernels.CheckAddBias(y, bias), c)
}

func runAddBias(d *Device, c *call) error {
	return d.overRows(c, &c.args[0], addBiasRows)
}

func addBiasRows(d *Device, c *call, w *worker, from, to int) {
	s := w.free()
	y, bias := d.rows(&s, &c.args[0]), f32(c.args[1])
	i, end := rowSpan(&c.args[0], from, to)
	for ; i < end; i++ {
		r := y.read(i)
		d.set.add(r, r, bias)
		y.store(i)
	}
}

// AddBiasBackward computes dbias = (or +=) the sum of dy over its rows.
func (d *Device) AddBiasBackward(s device.Stream, dbias, dy kernels.Tensor, accumulate bool) {
	c := call{name: "AddBiasBackward", run: runAddBiasBackward}
	c.operands(1, dbias, byRows(dy))
	c.flag[0] = accumulate
	d.launch(s, kernels.CheckAddBiasBackward(dbias, dy), c)
}

func runAddBiasBackward(d *Device, c *call) error {
	return d.overColumns(c, &c.args[1], addBiasBackwardColumns)
}

func addBiasBackwardColumns(d *Device, c *call, w *worker, from, to int) {
	sumRows(d, c, w, &c.args[1], addBiasTerm, from, to)
}

// addBiasTerm is the rowsTerm of dy.
func addBiasTerm(d *Device, c *call, s scratch, sum []float32, first, end, at int) {
	dy := d.rows(&s, &c.args[1])
	for i := first; i < end; i++ {
		d.set.add(sum, sum, dy.part(i, at, len(sum)))
	}
}

// rowBlock is how many rows a sum over rows adds up before it adds the result to its total: rounding errors grow with
// rowBlock + rows/rowBlock instead of with rows.
const rowBlock = 64

// columnsPerPart cuts a sum over rows into parts by columns, one for each thread: the wider a part, the fewer pieces of
// rows to find. Each sum is one thread's whatever the parts are, so the number of threads may decide them.
func (d *Device) columnsPerPart(width int) int {
	perThread := (width + len(d.pool.workers) - 1) / len(d.pool.workers)
	return min(max(64, (perThread+31)/32*32), 1024)
}

// overColumns runs b over the columns of t, cut by columnsPerPart.
func (d *Device) overColumns(c *call, t *kernels.Tensor, b body) error {
	return d.overParts(c, partsOf(t.Last(), d.columnsPerPart(t.Last())), b)
}

// A rowsTerm adds to sum what the rows [first, end) contribute, in their order, to the columns [at, at+len(sum)). s is memory
// for its use.
type rowsTerm func(d *Device, c *call, s scratch, sum []float32, first, end, at int)

// sumRows computes the parts [from, to) of args[0] = (or += where flag[0] is set) the sum of term over the rows of t. A
// part is a range of columns, so that each sum is one thread's, in the order of rows.
func sumRows(d *Device, c *call, w *worker, t *kernels.Tensor, term rowsTerm, from, to int) {
	per := d.columnsPerPart(t.Last())
	for at := from * per; at < min(to*per, t.Last()); at += per {
		n := min(per, t.Last()-at)
		s := w.free()
		total, block := s.take(n), s.take(n)
		clear(total)
		for first := 0; first < t.Rows(); first += rowBlock {
			clear(block)
			term(d, c, s, block, first, min(first+rowBlock, t.Rows()), at)
			d.set.add(total, total, block)
		}
		out := f32(c.args[0])[at:][:n]
		if c.flag[0] {
			d.set.add(out, out, total)
		} else {
			copy(out, total)
		}
	}
}

// Copy computes y = x.
func (d *Device) Copy(s device.Stream, y, x kernels.Tensor) {
	c := call{name: "Copy", run: runCopy}
	c.operands(1, byRows(y), byRows(x))
	d.launch(s, kernels.CheckCopy(y, x), c)
}

func runCopy(d *Device, c *call) error {
	y := &c.args[0]
	d.parallel(c, partsOf(y.Rows(), rowsPerPart(y.Last())), copyRows)
	return nil
}

func copyRows(_ *Device, c *call, _ *worker, from, to int) {
	y, x := &c.args[0], &c.args[1]
	size := y.DType.Size()
	ys, xs := y.Region().Mapped(), x.Region().Mapped()
	i, end := rowSpan(y, from, to)
	for ; i < end; i++ {
		copy(ys[row(y, i)*size:][:y.Last()*size], xs[row(x, i)*size:])
	}
}

// Zero fills x with zeros.
func (d *Device) Zero(s device.Stream, x kernels.Tensor) {
	c := call{name: "Zero", run: runZero}
	c.operands(1, x)
	d.launch(s, kernels.CheckZero(x), c)
}

// zeroBytes is what one part of Zero fills.
const zeroBytes = 64 << 10

func runZero(d *Device, c *call) error {
	d.parallel(c, partsOf(c.args[0].Bytes(), zeroBytes), zeroBlocks)
	return nil
}

func zeroBlocks(_ *Device, c *call, _ *worker, from, to int) {
	mem := c.args[0].Region().Mapped()
	clear(mem[min(from*zeroBytes, len(mem)):min(to*zeroBytes, len(mem))])
}

// Sum computes out = the sum of x in float64, in row-major order: on one thread, since any other order would round
// differently. It serves vectors of per-token losses.
func (d *Device) Sum(s device.Stream, out, x kernels.Tensor) {
	c := call{name: "Sum", run: runSum}
	c.operands(1, out, x)
	d.launch(s, kernels.CheckSum(out, x), c)
}

func runSum(_ *Device, c *call) error {
	x := &c.args[1]
	xs := f32(*x)
	sum := 0.0
	for i := range x.Rows() {
		for _, v := range xs[row(x, i):][:x.Last()] {
			sum += float64(v)
		}
	}
	f64(c.args[0])[0] = sum
	return nil
}
