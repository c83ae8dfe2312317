package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"lockstep/collective"
	"lockstep/kernels/device"
)

// An operation is one that can be measured.
type operation struct {
	name string
	// parts says that the buffer is cut into one part for each member.
	parts bool
	// reads says that it reads src.
	reads bool
	// start enqueues it; nil stands for a barrier.
	start func(c *call) device.Event
	// want is what element i of dst holds afterwards, where ok.
	want func(c *call, i int) (v float64, ok bool)
}

// A call is an operation on buffers of one size. Before it, element i of member m's dst and src holds value(m, i).
type call struct {
	*bench
	op       operation
	me, p    int
	elements int   // of dst
	part     int   // elements of an equal part
	uneven   []int // bytes of parts of which some are an element shorter
	dst, src device.Region
	pairs    []collective.Transfer
	r        collective.Reduction
	view     collective.Group
}

// value is a small whole number, so that sums over many members are exact in bfloat16 too.
func value(member, i int) float64 { return float64((member + i) % valuePeriod) }

const (
	valuePeriod = 3
	// patternElements is how many elements buffers are filled with at a time.
	patternElements = valuePeriod << 10
)

// operations are all of Group's.
var operations = []operation{
	{"all-reduce", false, false, func(c *call) device.Event { return c.view.AllReduce(c.dst, c.r, device.Event{}) },
		func(c *call, i int) (float64, bool) { return c.reduced(i), true }},
	{"reduce-scatter", true, false, func(c *call) device.Event { return c.view.ReduceScatter(c.dst, nil, c.r, device.Event{}) },
		func(c *call, i int) (float64, bool) { return c.reduced(i), i/c.part == c.me }},
	{"all-gather", true, false, func(c *call) device.Event { return c.view.AllGather(c.dst, nil, device.Event{}) },
		func(c *call, i int) (float64, bool) { return value(i/c.part, i), true }},
	{"all-gather-v", true, false, (*call).gatherUneven,
		func(c *call, i int) (float64, bool) {
			member, _ := c.locate(i, 0)
			return value(member, i), i < c.total()
		}},
	{"broadcast", false, false, func(c *call) device.Event { return c.view.Broadcast(c.dst, 0, device.Event{}) },
		func(_ *call, i int) (float64, bool) { return value(0, i), true }},
	{"reduce", false, false, func(c *call) device.Event { return c.view.Reduce(c.dst, 0, c.r, device.Event{}) },
		func(c *call, i int) (float64, bool) { return c.reduced(i), c.me == 0 }},
	{"scatter", true, false, func(c *call) device.Event { return c.view.Scatter(c.ofRoot(), nil, 0, device.Event{}) },
		func(c *call, i int) (float64, bool) { return value(0, c.me*c.part+i), i < c.part }},
	{"gather", true, false, func(c *call) device.Event { return c.view.Gather(c.ofRoot(), nil, 0, device.Event{}) },
		func(c *call, i int) (float64, bool) { return value(i/c.part, i%c.part), c.me == 0 }},
	{"all-to-all", true, true, func(c *call) device.Event { return c.view.AllToAll(c.dst, c.src, device.Event{}) },
		func(c *call, i int) (float64, bool) { return value(i/c.part, c.me*c.part+i%c.part), true }},
	{"all-to-all-v", true, true, (*call).exchangeUneven,
		func(c *call, i int) (float64, bool) {
			from, at := c.locate(i, c.me)
			return value(from, c.begin(c.me, from)+at), i < c.total()
		}},
	{"send-receive", false, true, (*call).passOn, func(c *call, i int) (float64, bool) { return value(c.left(), i), true }},
	{"exchange", false, true, func(c *call) device.Event { return c.view.Exchange(c.pairs, device.Event{}) },
		func(c *call, i int) (float64, bool) { return value(c.me^1, i), len(c.pairs) > 0 }},
	{"barrier", false, false, nil, nil},
}

func (b *bench) newCall(op operation, size int) *call {
	c := &call{bench: b, op: op, me: b.group.Rank(), p: b.group.Size(), view: b.group.Blocking()}
	element := b.DType.Size()
	c.elements = max(1, size/element)
	c.part = max(1, size/element/c.p)
	if op.parts {
		c.elements = c.part * c.p
	}
	c.dst = device.Region{Storage: b.dst, Bytes: c.elements * element}
	c.src = device.Region{Storage: b.src, Bytes: c.elements * element}
	c.uneven = make([]int, c.p)
	if peer := c.me ^ 1; peer < c.p {
		c.pairs = []collective.Transfer{{Peer: peer, Buf: c.src}, {Peer: peer, Buf: c.dst, Receive: true}}
	}
	for i := range patternElements {
		c.encode(b.pattern, i, value(c.me, i))
	}
	c.r = collective.Reduction{Op: b.Reduce, DType: b.DType, Fold: b.Folds[b.DType][b.Reduce]}
	return c
}

// bytes is the size of the buffer, 0 for a barrier.
func (c *call) bytes() int {
	if c.op.start == nil {
		return 0
	}
	return c.dst.Bytes
}

// reduced is the reduction of all members' elements i.
func (c *call) reduced(i int) float64 {
	x := value(0, i)
	for m := 1; m < c.p; m++ {
		switch v := value(m, i); c.r.Op {
		case collective.Sum:
			x += v
		case collective.Max:
			x = max(x, v)
		case collective.Min:
			x = min(x, v)
		}
	}
	return x
}

// ofRoot is dst on the root, its first part elsewhere.
func (c *call) ofRoot() device.Region {
	if c.me == 0 {
		return c.dst
	}
	return c.dst.Slice(0, c.part*c.DType.Size())
}

// shorter is the size, in elements, of the part between two members: every other one is an element shorter.
func (c *call) shorter(a, b int) int { return c.part - (a+b)%2 }

// begin returns where the part for a member begins in the uneven parts of another.
func (c *call) begin(member, of int) (at int) {
	for m := range member {
		at += c.shorter(of, m)
	}
	return at
}

// cut fills in uneven, the parts of the uneven buffers of a member, and returns their sum in bytes.
func (c *call) cut(member int) (bytes int) {
	for m := range c.uneven {
		c.uneven[m] = c.shorter(member, m) * c.DType.Size()
		bytes += c.uneven[m]
	}
	return bytes
}

// total is the number of elements in this call's uneven parts.
func (c *call) total() (n int) {
	for _, bytes := range c.uneven {
		n += bytes / c.DType.Size()
	}
	return n
}

// locate returns in which part of a member's uneven buffer element i is, and where in that part.
func (c *call) locate(i, member int) (part, at int) {
	for part < c.p-1 && i >= c.shorter(member, part) {
		i -= c.shorter(member, part)
		part++
	}
	return part, i
}

func (c *call) gatherUneven() device.Event {
	return c.view.AllGather(c.dst.Slice(0, c.cut(0)), c.uneven, device.Event{})
}

func (c *call) exchangeUneven() device.Event {
	n := c.cut(c.me) // what a member sends to another is as long as what it gets from there
	return c.view.AllToAllV(c.dst.Slice(0, n), c.src.Slice(0, n), c.uneven, c.uneven, device.Event{})
}

func (c *call) left() int { return (c.me + c.p - 1) % c.p }

// passOn sends src to the right neighbour and receives dst from the left one. Odd members receive first.
func (c *call) passOn() device.Event {
	if c.p == 1 {
		return device.Event{}
	}
	send := func() device.Event { return c.view.Send(c.src, (c.me+1)%c.p, device.Event{}) }
	receive := func() device.Event { return c.view.Receive(c.dst, c.left(), device.Event{}) }
	if c.me%2 == 1 {
		send, receive = receive, send
	}
	first := send()
	if err := first.Synchronize(); err != nil {
		return first
	}
	return receive()
}

// perform runs the operation to its end.
func (c *call) perform(ctx context.Context) error {
	if c.op.start == nil {
		return c.group.Barrier(ctx)
	}
	return c.op.start(c).Synchronize()
}

// Name implements device.Work.
func (c *call) Name() string { return "filling the buffers" }

// Accesses implements device.Work.
func (c *call) Accesses(visit func(r device.Region, write bool)) {
	visit(c.dst, true)
	if c.op.reads {
		visit(c.src, true)
	}
}

// Run gives dst, and src where it is read, their values. Device.Write would leave garbage, whose collection would be timed.
func (c *call) Run() error {
	if c.op.reads {
		c.fill(c.src)
	}
	c.fill(c.dst)
	return nil
}

// fill writes the pattern again and again, as a loop that computes the values would leave the buffer: in this core's caches,
// as far as they hold it. One copy of a whole buffer would read as much again, and from 1 MiB on Go's copy goes past the
// caches to memory, where the operation would have to fetch it.
func (c *call) fill(r device.Region) {
	mem, pattern := r.Mapped(), c.pattern[:patternElements*c.DType.Size()]
	for len(mem) > 0 {
		mem = mem[copy(mem, pattern):]
	}
}

// check compares dst with what it should hold.
func (c *call) check(d device.Device, s device.Stream) error {
	if c.op.want == nil || c.p == 1 {
		return nil
	}
	got, element := c.read[:c.dst.Bytes], c.DType.Size()
	if err := d.Read(s, got, c.dst); err != nil {
		return err
	}
	want := make([]byte, element)
	for i := range c.elements {
		v, ok := c.op.want(c, i)
		c.encode(want, 0, v)
		if ok && string(want) != string(got[i*element:(i+1)*element]) {
			return fmt.Errorf("the result is wrong: element %d of member %d should be %v", i, c.me, v)
		}
	}
	return nil
}

// encode writes a whole number as element i of b.
func (c *call) encode(b []byte, i int, v float64) {
	bits := math.Float32bits(float32(v))
	if c.DType == device.BFloat16 {
		binary.NativeEndian.PutUint16(b[2*i:], uint16(bits>>16))
		return
	}
	binary.NativeEndian.PutUint32(b[4*i:], bits)
}
