package collective

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/kernels/device"
)

const (
	// defaultSegment is how much is received before it is folded. It stays in a core's second-level cache, while the
	// kernel's socket buffers take in what comes meanwhile.
	defaultSegment = 256 << 10
	// defaultSmall is the largest buffer that all-reduce exchanges whole, which saves half of the steps.
	defaultSmall = 16 << 10
	// maxGatherBytes is the most that a member may pass to GatherBytes.
	maxGatherBytes = 16 << 20
)

// A group implements Group over links. Operations run as work on the group's stream, one at a time, so that scratch memory
// and links are used by one goroutine. It is one of two views of what it points to, see Blocking.
type group struct {
	*members
	stream device.HostStream
}

// members are what the views of a group share.
type members struct {
	world  *World
	name   string
	id     uint64
	ranks  []int      // the members' ranks in the job
	me     int        // this rank's position among them
	direct *group     // the view that Blocking returns
	mu     sync.Mutex // guards links while they are made
	links  []link     // by position; nil at this rank's own
	shared *shared    // the transport where all members are on this host, else nil

	sequence uint64     // the number of the last operation called
	running  sync.Mutex // held while an operation runs
	cause    atomic.Pointer[groupError]

	state   sync.Mutex // guards what follows
	entered work       // a copy of the last operation that has begun
	inside  bool       // whether it still runs
	spare   []*work    // operations on buffers that have ended well, to be used again: steps allocate nothing

	scratch  []byte // what was received and is not yet folded
	dst      [1][]byte
	src      [2][]byte
	segment  int
	smallest int
}

// A groupError is why a group is broken.
type groupError struct{ err error }

func (w *World) newGroup(name string, ranks []int, nth int, stream device.HostStream) *group {
	g := &group{stream: stream, members: &members{
		world: w, name: name, id: groupID(name, ranks, nth), ranks: slices.Clone(ranks), me: slices.Index(ranks, w.o.Place.Rank),
		links: make([]link, len(ranks)), segment: w.o.segmentBytes, smallest: w.o.smallBytes,
	}}
	g.direct = &group{members: g.members, stream: &blockingStream{HostStream: stream}}
	if len(ranks) > 1 {
		g.scratch = make([]byte, max(g.segment, g.smallest, 64)) // at least one element of any type, and aligned for it
	}
	return g
}

// groupID makes an identifier that the members compute alike: from the name, the members, and how many groups of that name
// and members there were before.
func groupID(name string, ranks []int, nth int) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %v %d", name, ranks, nth))
	return binary.BigEndian.Uint64(sum[:])
}

// Name returns the group's name.
func (g *group) Name() string { return g.name }

// Rank returns this process's position in the group.
func (g *group) Rank() int { return g.me }

// Size returns the number of members.
func (g *group) Size() int { return len(g.ranks) }

// Blocking implements Group; see blocking.go.
func (g *group) Blocking() Group { return g.direct }

// AllReduce implements Group; see allreduce.go.
func (g *group) AllReduce(buf device.Region, r Reduction, after device.Event) device.Event {
	w := work{run: (*group).allReduce, kind: opAllReduce, buf: buf, reduction: r, writes: true}
	if size := r.DType.Size(); size == 0 || buf.Bytes%size != 0 || r.Fold == nil {
		w.invalid = fmt.Errorf("a buffer of %d bytes cannot be reduced as %v (with a fold: %v)", buf.Bytes, r.DType, r.Fold != nil)
	}
	return g.enqueue(g.reuse(w), after)
}

// AllGather implements Group; see allgather.go.
func (g *group) AllGather(buf device.Region, after device.Event) device.Event {
	w := work{run: (*group).allGather, kind: opAllGather, buf: buf, writes: true}
	if buf.Bytes%g.Size() != 0 {
		w.invalid = fmt.Errorf("a buffer of %d bytes has no %d equal slices", buf.Bytes, g.Size())
	}
	return g.enqueue(g.reuse(w), after)
}

// Broadcast implements Group; see broadcast.go.
func (g *group) Broadcast(buf device.Region, root int, after device.Event) device.Event {
	w := work{run: (*group).broadcast, kind: opBroadcast, buf: buf, root: root, writes: root != g.me}
	if root < 0 || root >= g.Size() {
		w.invalid = fmt.Errorf("member %d is the root, but there are %d members", root, g.Size())
	}
	return g.enqueue(g.reuse(w), after)
}

// Barrier implements Group; see barrier.go.
func (g *group) Barrier(ctx context.Context) error {
	return g.call(ctx, &work{run: (*group).barrier, kind: opBarrier})
}

// GatherBytes implements Group; see gather.go.
func (g *group) GatherBytes(ctx context.Context, mine []byte) ([][]byte, error) {
	w := &work{run: (*group).gather, kind: opGather, host: make([][]byte, g.Size())}
	w.host[g.me] = slices.Clone(mine)
	if len(mine) > maxGatherBytes {
		w.invalid = fmt.Errorf("%s exceed the limit of %s for host data", byteSize(len(mine)), byteSize(maxGatherBytes))
	}
	if err := g.call(ctx, w); err != nil {
		return nil, err
	}
	return w.host, nil
}

// reuse returns v in memory of an operation that has ended, where there is one.
func (g *group) reuse(v work) *work {
	v.recycle = true
	g.state.Lock()
	defer g.state.Unlock()
	var w *work
	if last := len(g.spare) - 1; last >= 0 {
		w, g.spare = g.spare[last], g.spare[:last]
	} else {
		w = new(work)
	}
	*w = v
	return w
}

// enqueue puts an operation into the group's stream.
func (g *group) enqueue(w *work, after device.Event) device.Event {
	g.sequence++
	w.group, w.sequence = g, g.sequence
	g.stream.Wait(after)
	g.stream.Launch(w)
	return g.stream.Record()
}

// call runs an operation to its end. It goes through the stream like all others, because they share links and numbers.
// A context that ends breaks the group: the other members cannot know that this one has given up.
func (g *group) call(ctx context.Context, w *work) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { g.interrupt(context.Cause(ctx)) })
		defer stop()
	}
	return g.direct.enqueue(w, device.Event{}).Synchronize()
}

// setLink adds the link to a member while the group is made.
func (g *group) setLink(member int, l link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.links[member] = l
	if g.broken() != nil {
		l.interrupt()
	}
}

// attach makes shared memory the group's transport.
func (g *group) attach(s *shared) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shared = s
	for member, l := range s.links {
		if l != nil {
			g.links[member] = l
		}
	}
	if g.broken() != nil {
		s.interrupt()
	}
}

// broken returns why no operation of the group can succeed any more, nil while all is well.
func (g *group) broken() error {
	if c := g.cause.Load(); c != nil {
		return c.err
	}
	return nil
}

// interrupt breaks the group: operations that wait end with err. The first cause stays.
func (g *group) interrupt(err error) {
	g.cause.CompareAndSwap(nil, &groupError{err})
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if l != nil {
			l.interrupt()
		}
	}
}

// stalled reports to the root that nothing came from or went to the rank peer for Options.Timeout, and returns the root's
// finding; where none comes, what is known here.
func (g *group) stalled(peer int) error {
	op := g.position()
	op.Members, op.Waiting = g.ranks, peer
	timeout := g.world.o.Timeout
	if err := g.world.control.send(message{Kind: kindStall, Stall: &op, Cause: timeout.String()}); err == nil {
		timer := time.NewTimer(inquiryTime + graceTime)
		defer timer.Stop()
		select {
		case <-g.world.done:
			return g.world.Err()
		case <-g.world.closing:
		case <-timer.C:
		}
	}
	return &TimeoutError{Ranks: []int{peer}, Report: lateReport(timeout, peer)}
}

// position returns where this rank stands in the group.
func (g *group) position() operation {
	op := operation{Group: g.id, Name: "the forming of group " + g.name}
	g.state.Lock()
	defer g.state.Unlock()
	if w := &g.entered; w.group != nil {
		op.Sequence, op.Name, op.Inside = w.sequence, w.Name(), g.inside
	}
	return op
}

// close ends the group's connections, after the operation that may still run has been made to end.
func (g *group) close() {
	g.interrupt(errors.New("the group was closed"))
	g.running.Lock()
	defer g.running.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if l != nil {
			l.close()
		}
	}
	if g.shared != nil {
		g.shared.close()
	}
}

// A work is one operation as it runs on the group's stream.
type work struct {
	group     *group
	run       func(*group, *work) error
	kind      operationKind
	sequence  uint64
	buf       device.Region
	writes    bool // whether buf is written (it is read in any case)
	reduction Reduction
	root      int
	host      [][]byte // what GatherBytes exchanges
	invalid   error    // why the arguments cannot be used
	recycle   bool     // whether its memory may be used again once it has ended well
}

// Name returns a name such as "all-reduce 17 of group data (1.2 MB)".
func (w *work) Name() string {
	if w.kind == opBarrier || w.kind == opGather {
		return fmt.Sprintf("%v %d of group %s", w.kind, w.sequence, w.group.name)
	}
	return fmt.Sprintf("%v %d of group %s (%s)", w.kind, w.sequence, w.group.name, byteSize(w.buf.Bytes))
}

// Accesses visits the buffer.
func (w *work) Accesses(visit func(r device.Region, write bool)) {
	if w.buf.Storage != nil {
		visit(w.buf, w.writes)
	}
}

// Run does the operation. A failure breaks the group, and when Run returns nothing touches the buffer any more.
func (w *work) Run() error {
	g := w.group
	g.running.Lock()
	defer g.running.Unlock()
	g.enter(w)
	err := w.invalid
	if err == nil {
		err = g.broken()
	}
	if err == nil && w.buf.Bytes > 0 && w.buf.Mapped() == nil {
		err = errors.New("the buffer is not in memory that the host can address")
	}
	if err == nil {
		err = g.perform(w)
	}
	if err != nil {
		g.interrupt(err)
		for _, l := range g.links {
			if l != nil {
				// The operation has failed already; this only waits until the writer is out of the buffer.
				_ = l.flush()
			}
		}
	}
	g.leave(w, err)
	return err
}

// perform runs the operation's algorithm.
func (g *group) perform(w *work) error {
	if g.shared != nil {
		return g.shared.run(w)
	}
	return w.run(g, w)
}

// enter notes that an operation has begun.
func (g *group) enter(w *work) {
	g.state.Lock()
	defer g.state.Unlock()
	g.entered, g.inside = *w, true
}

// leave notes that it has ended. One that failed is still to be named by its stream.
func (g *group) leave(w *work, err error) {
	g.state.Lock()
	defer g.state.Unlock()
	g.inside = false
	if w.recycle && err == nil {
		g.spare = append(g.spare, w)
	}
}

// header returns the header of a message of this operation with size bytes of data.
func (w *work) header(step, size int) header {
	return header{
		kind: w.kind, dtype: w.reduction.DType, step: uint16(step), root: int32(w.root), group: uint32(w.group.id),
		sequence: w.sequence, total: uint64(w.buf.Bytes), size: uint64(size),
	}
}
