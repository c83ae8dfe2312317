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

// defaultSegment is how much is received before it is folded. It stays in a core's second-level cache, while the kernel's
// socket buffers take in what comes meanwhile.
const defaultSegment = 256 << 10

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
	ranks  []int           // the members' ranks in the job
	me     int             // this rank's position among them
	maker  string          // the goroutine that made the group, and so calls its operations
	direct *group          // the view that Blocking returns
	ctx    context.Context // ends when the group breaks
	cancel context.CancelFunc

	sequence uint64     // the number of the last operation called
	running  sync.Mutex // held while an operation runs, and over what only operations use
	cause    atomic.Pointer[groupError]

	mu     sync.Mutex // guards making and ending what interrupt reaches
	waiter *tcpWaiter // nil until there is a TCP link
	shared *shared    // the transport where all members are on this host, else nil
	onHost *group     // the members on this host, where the others are elsewhere and these share memory; else nil

	state   sync.Mutex  // guards what follows
	entered *work       // the last operation that has begun
	inside  atomic.Bool // whether it still runs
	spare   []*work     // operations that have ended well, to be used again: steps allocate nothing

	// What running operations use.
	links     map[int]link // by position
	topology  topology
	teams     teams
	offsets   []int // where the parts of the running operation begin, and the end of the last
	counts    []int // the sizes of parts in a step inside this host
	transfers map[transferKey]uint64
	scratch   scratch
	segment   int
}

// A groupError is why a group is broken.
type groupError struct{ err error }

func (w *World) newGroup(name string, ranks []int, nth int, stream device.HostStream) *group {
	g := &group{stream: stream, members: &members{
		world: w, name: name, id: groupID(name, ranks, nth), ranks: slices.Clone(ranks), me: slices.Index(ranks, w.o.Place.Rank),
		maker: goroutineID(),
		links: map[int]link{}, transfers: map[transferKey]uint64{}, segment: w.o.segmentBytes,
	}}
	g.direct = &group{members: g.members, stream: &blockingStream{HostStream: stream, world: w}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.topology = newTopology(w.hostsOf(ranks))
	g.topology.memory = w.shareOnHosts(ranks)
	g.teams = newTeams(g)
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

// reuse returns v in memory of an operation that has ended, where there is one.
func (g *group) reuse(v *work) *work {
	v.recycle = true
	g.state.Lock()
	defer g.state.Unlock()
	var w *work
	if last := len(g.spare) - 1; last >= 0 {
		w, g.spare = g.spare[last], g.spare[:last]
	} else {
		w = new(work)
	}
	*w = *v
	return w
}

// enqueue puts an operation into the group's stream. Transfers have numbers of their own: not all members call them.
func (g *group) enqueue(w *work, after device.Event) device.Event {
	if w.kind != opTransfer {
		g.sequence++
	}
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

// attach makes shared memory the group's transport. No operation has been called.
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
	g.cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiter != nil {
		g.waiter.interrupt()
	}
	if g.shared != nil {
		g.shared.interrupt()
	}
	if g.onHost != nil {
		g.onHost.interrupt(err)
	}
}

// stalled reports to the root that nothing came from or went to the rank peer for Options.Timeout, and returns the root's
// finding; where none comes, what is known here.
func (g *group) stalled(peer int) error { return g.stalledFor(g.world.o.Timeout, peer) }

// stalledFor is stalled after another time.
func (g *group) stalledFor(timeout time.Duration, peer int) error {
	op, kind := g.position()
	op.Members, op.Waiting = g.ranks, peer
	if kind == opTransfer { // the others have nothing to do with it, and its number means nothing to the peer
		op.Members, op.Sequence = []int{peer}, ^uint64(0)
	}
	if err := g.world.control.send(message{Kind: kindStall, Stall: &op, Cause: timeout.String()}); err == nil {
		if cause := g.world.causeWithin(inquiryTime + graceTime); cause != nil {
			return cause
		}
	}
	return &TimeoutError{Ranks: []int{peer}, Report: lateReport(timeout, peer)}
}

// position returns where this rank stands in the group, and the kind of the operation that it has entered last.
func (g *group) position() (operation, operationKind) {
	op := operation{Group: g.id, Name: "the forming of group " + g.name}
	g.state.Lock()
	defer g.state.Unlock()
	w := g.entered
	if w == nil {
		return op, 0
	}
	h := w.header(0, 0)
	op.Sequence, op.Name, op.Inside, op.What = w.sequence, w.Name(), g.inside.Load(), h.describe()
	return op, w.kind
}

// close ends the group's connections, after the operation that may still run has been made to end.
func (g *group) close() {
	g.interrupt(errors.New("the group was closed"))
	g.running.Lock()
	defer g.running.Unlock()
	for _, l := range g.links {
		l.close()
	}
	clear(g.links)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiter != nil {
		g.waiter.close()
		g.waiter = nil
	}
	if g.shared != nil {
		g.shared.close()
	}
}

// causeWithin waits up to d for the job's failure and returns it, nil when there is none.
func (w *World) causeWithin(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.done:
		return w.Err()
	case <-w.closing:
	case <-timer.C:
	}
	return nil
}
