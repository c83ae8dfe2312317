package collective

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"lockstep/kernels/device"
)

// A testCase is one operation with random arguments, the buffers of all members, and what a single process computes as the
// result. It is a pure function of a seed, so that every rank makes it for itself.
type testCase struct {
	kind      operationKind
	counts    []int
	root      int
	r         Reduction
	matrix    [][]int // of an all-to-all-v: what member i sends to j
	before    [][]byte
	src       [][]byte // of an all-to-all
	after     [][]byte // nil where it is undefined
	from, to  []int    // what of after is defined
	transfers [][]Transfer
}

// A mix is what cases are made of.
type mix struct {
	kinds      []operationKind
	reductions []func() Reduction
}

// makeCase makes the case of a seed for p members. Parts have up to size bytes.
func makeCase(seed, index uint64, m mix, p, size int) *testCase {
	random := rand.New(rand.NewPCG(seed, index))
	c := &testCase{kind: m.kinds[random.IntN(len(m.kinds))], root: random.IntN(p), r: m.reductions[random.IntN(len(m.reductions))]()}
	element := 1
	if c.kind.reduces() {
		element = c.r.DType.Size()
	}
	total := c.makeCounts(random, p, size, element)
	c.before, c.after = make([][]byte, p), make([][]byte, p)
	c.from, c.to = make([]int, p), make([]int, p)
	for i := range p {
		c.before[i] = c.random(random, total)
		c.to[i] = total
	}
	switch c.kind {
	case opScatter, opGather:
		c.rooted()
	case opAllToAll, opAllToAllV:
		c.allToAll(random, p, size)
	case opTransfer:
		c.exchange(random, p, size)
	default:
		c.reference(p)
	}
	return c
}

// makeCounts cuts the buffer and returns its size.
func (c *testCase) makeCounts(random *rand.Rand, p, size, element int) int {
	cut := c.kind == opReduceScatter || c.kind == opAllGather || c.kind == opScatter || c.kind == opGather || c.kind == opAllToAll
	switch {
	case !cut:
		return random.IntN(p*size/element+1) * element
	case c.kind == opAllToAll || random.IntN(2) == 0:
		return random.IntN(size/element+1) * element * p
	}
	for range p {
		c.counts = append(c.counts, random.IntN(3)/2*random.IntN(size/element+1)*element+random.IntN(5)*element)
	}
	return sum(c.counts)
}

// random makes n bytes: numbers of very different sizes where they are reduced, so that every order has its own rounding.
func (c *testCase) random(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	number := func() float32 { return float32(random.NormFloat64() * math.Pow(10, 6*random.Float64()-3)) }
	switch {
	case c.kind.reduces() && c.r.DType == device.Float32:
		for at := 0; at < n; at += 4 {
			binary.NativeEndian.PutUint32(b[at:], math.Float32bits(number()))
		}
	case c.kind.reduces() && c.r.DType == device.BFloat16:
		for at := 0; at < n; at += 2 {
			binary.NativeEndian.PutUint16(b[at:], uint16(math.Float32bits(number())>>16))
		}
	}
	return b
}

// reference computes what operations on whole buffers do.
func (c *testCase) reference(p int) {
	offsets := appendParts(nil, c.counts, len(c.before[0]), p)
	result := bytes.Clone(c.before[c.root])
	switch {
	case c.kind.reduces():
		c.r.Fold([][]byte{result}, c.before)
	case c.kind == opAllGather:
		for i := range p {
			copy(result[offsets[i]:offsets[i+1]], c.before[i][offsets[i]:])
		}
	}
	for i := range p {
		if c.kind != opReduce || i == c.root {
			c.after[i] = result
		}
		if c.kind == opReduceScatter {
			c.from[i], c.to[i] = offsets[i], offsets[i+1]
		}
	}
}

// rooted computes scatter and gather, where all but the root have their own part only.
func (c *testCase) rooted() {
	all, p := bytes.Clone(c.before[c.root]), len(c.before)
	offsets := appendParts(nil, c.counts, len(all), p)
	for i := range p {
		if i != c.root {
			c.before[i] = c.before[i][offsets[i]:offsets[i+1]]
			c.to[i] = len(c.before[i])
		}
		c.after[i] = c.before[i]
		if c.kind == opScatter && i != c.root {
			c.after[i] = all[offsets[i]:offsets[i+1]]
		} else if c.kind == opGather && i != c.root {
			copy(all[offsets[i]:], c.before[i])
		}
	}
	c.after[c.root] = all
}

func (c *testCase) allToAll(random *rand.Rand, p, size int) {
	if c.matrix = make([][]int, p); c.kind == opAllToAllV {
		for i := range p {
			for range p {
				c.matrix[i] = append(c.matrix[i], random.IntN(2)*random.IntN(size+1))
			}
		}
	} else {
		for i := range p {
			c.matrix[i] = slices.Repeat([]int{len(c.before[0]) / p}, p)
		}
	}
	c.src = make([][]byte, p)
	for i := range p {
		c.src[i] = c.random(random, sum(c.matrix[i]))
	}
	for j := range p {
		c.after[j] = []byte{}
		for i := range p {
			at := sum(c.matrix[i][:j])
			c.after[j] = append(c.after[j], c.src[i][at:at+c.matrix[i][j]]...)
		}
		c.before[j] = make([]byte, len(c.after[j]))
		c.to[j] = len(c.after[j])
	}
}

// exchange makes a few messages between random members, in the order of one list. Each member's buffer holds all of them,
// those that it sends filled in.
func (c *testCase) exchange(random *rand.Rand, p, size int) {
	c.transfers = make([][]Transfer, p)
	var all []byte
	type message struct{ from, to, at, n int }
	var messages []message
	for range random.IntN(2 * p) {
		m := message{random.IntN(p), random.IntN(p), len(all), random.IntN(size + 1)}
		if m.from != m.to {
			messages = append(messages, m)
			all = append(all, c.random(random, m.n)...)
		}
	}
	for i := range p {
		c.before[i], c.after[i], c.to[i] = make([]byte, len(all)), make([]byte, len(all)), len(all)
		region := memory(c.before[i])
		for _, m := range messages {
			part := region.Slice(m.at, m.at+m.n)
			switch i {
			case m.from:
				c.transfers[i] = append(c.transfers[i], Transfer{Peer: m.to, Buf: part})
				copy(c.before[i][m.at:], all[m.at:m.at+m.n])
			case m.to:
				c.transfers[i] = append(c.transfers[i], Transfer{Peer: m.from, Buf: part, Receive: true})
			default:
				continue
			}
			copy(c.after[i][m.at:], all[m.at:m.at+m.n])
		}
	}
}

// A placement makes a region that holds b.
type placement func(b []byte) device.Region

// start enqueues the case on a group, with buffers where place makes them. wait checks the result.
func (c *testCase) start(g Group, place placement) (wait func() error) {
	me := g.Rank()
	// The buffer lies in the middle of an allocation, whose rest must stay as it is.
	whole := place(slices.Concat([]byte("before.."), c.before[me], []byte("after...")))
	around := whole.Mapped()
	buf := whole.Slice(8, 8+len(c.before[me]))
	var e device.Event
	switch c.kind {
	case opAllReduce:
		e = g.AllReduce(buf, c.r, device.Event{})
	case opReduceScatter:
		e = g.ReduceScatter(buf, c.counts, c.r, device.Event{})
	case opAllGather:
		e = g.AllGather(buf, c.counts, device.Event{})
	case opBroadcast:
		e = g.Broadcast(buf, c.root, device.Event{})
	case opReduce:
		e = g.Reduce(buf, c.root, c.r, device.Event{})
	case opScatter:
		e = g.Scatter(buf, c.counts, c.root, device.Event{})
	case opGather:
		e = g.Gather(buf, c.counts, c.root, device.Event{})
	case opAllToAll:
		e = g.AllToAll(buf, place(bytes.Clone(c.src[me])), device.Event{})
	case opAllToAllV:
		received := make([]int, g.Size())
		for i := range received {
			received[i] = c.matrix[i][me]
		}
		e = g.AllToAllV(buf, place(bytes.Clone(c.src[me])), received, c.matrix[me], device.Event{})
	case opTransfer:
		e = g.Exchange(c.transfers[me], device.Event{})
		buf = memory(c.before[me])
	case opBarrier:
		return func() error { return g.Barrier(context.Background()) }
	}
	return func() error {
		if err := e.Synchronize(); err != nil {
			return err
		}
		if c.after[me] != nil && !bytes.Equal(buf.Mapped()[c.from[me]:c.to[me]], c.after[me][c.from[me]:c.to[me]]) {
			return fmt.Errorf("%v of %d bytes (%v of %v, root %d, parts %v) on %d members: member %d has another result than one process",
				c.kind, len(c.before[me]), c.r.Op, c.r.DType, c.root, c.counts, g.Size(), me)
		}
		if string(around[:8])+string(around[len(around)-8:]) != "before..after..." {
			return fmt.Errorf("%v wrote outside its buffer", c.kind)
		}
		return nil
	}
}

// allReductions are of every type; those of ofAnyOrder have the same result in every order.
var (
	allReductions = []func() Reduction{sum32, first64, sum16, max32, min32}
	ofAnyOrder    = []func() Reduction{sum64, max32, min32}
)

// sum64 adds integers.
func sum64() Reduction {
	return Reduction{DType: device.Int64, Fold: foldWith(8, func(to, x, y []byte) {
		binary.NativeEndian.PutUint64(to, binary.NativeEndian.Uint64(x)+binary.NativeEndian.Uint64(y))
	})}
}

// sum16 adds bfloat16 in float32 and rounds once, to zero.
func sum16() Reduction {
	wide := func(b []byte) []byte {
		w := make([]byte, 2*len(b))
		for at := 0; at < len(b); at += 2 {
			binary.NativeEndian.PutUint32(w[2*at:], uint32(binary.NativeEndian.Uint16(b[at:]))<<16)
		}
		return w
	}
	return Reduction{DType: device.BFloat16, Fold: func(dst, src [][]byte) {
		var widened [][]byte
		for _, s := range src {
			widened = append(widened, wide(s))
		}
		result := wide(src[0])
		sum32().Fold([][]byte{result}, widened)
		for _, d := range dst {
			for at := 0; at < len(d); at += 2 {
				binary.NativeEndian.PutUint16(d[at:], uint16(binary.NativeEndian.Uint32(result[2*at:])>>16))
			}
		}
	}}
}

func max32() Reduction { return compare32(Max, func(a, b float32) float32 { return max(a, b) }) }
func min32() Reduction { return compare32(Min, func(a, b float32) float32 { return min(a, b) }) }

func compare32(op ReduceOp, f func(a, b float32) float32) Reduction {
	return Reduction{Op: op, DType: device.Float32, Fold: foldWith(4, func(to, x, y []byte) {
		result := f(math.Float32frombits(binary.NativeEndian.Uint32(x)), math.Float32frombits(binary.NativeEndian.Uint32(y)))
		binary.NativeEndian.PutUint32(to, math.Float32bits(result))
	})}
}
