package collective

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"lockstep/kernels/device"
)

const (
	dialPause   = 50 * time.Millisecond // between attempts to connect
	maxAnswers  = 5                     // connections that may end without an answer before dialling fails
	dialTimeout = 10 * time.Second      // of one attempt
)

// dial connects to a listener of the job and goes through the handshake. While nobody listens it tries again until ctx
// ends: processes may start in any order.
func (c *credentials) dial(ctx context.Context, address string, h hello) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, Control: controlCongestion}
	unanswered := 0
	var last error // the latest that says more than that time ran out
	for {
		network := "tcp"
		if strings.HasPrefix(address, "@") {
			network = "unix"
		}
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			raw := conn
			stop := context.AfterFunc(ctx, func() { raw.Close() })
			conn, err = c.approach(conn, h)
			stop()
			if err == nil {
				return conn, nil
			}
			raw.Close()
			if ctx.Err() != nil { // that is why it was closed
				return nil, fmt.Errorf("%w: handshake with %s: %w", context.Cause(ctx), address, err)
			}
			if unanswered++; !errors.Is(err, errNoAnswer) || unanswered == maxAnswers {
				return nil, fmt.Errorf("handshake with %s: %w", address, err)
			}
		}
		if late := net.Error(nil); last == nil || !errors.As(err, &late) || !late.Timeout() {
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-time.After(dialPause):
		}
	}
}

// approach goes through the handshake on a new connection, inside TLS if the job asks for it.
func (c *credentials) approach(conn net.Conn, h hello) (net.Conn, error) {
	if c.secure {
		inside, err := secureDialed(conn)
		if err != nil {
			return conn, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		conn = inside
	}
	return conn, c.greet(conn, h)
}

// NewGroup makes a group of the given ranks, in this order; this rank must be among them. The name is shown in messages.
// All members call it, in the same order for all groups. Each group has a stream of its own.
//
// A group whose members are all on one host is connected by its memory, see shared, before NewGroup returns; so are those on
// one host in a group that spans hosts. Else two members connect when an operation first sends between them, for each group:
// groups run at the same time, and on a shared connection one group's data could block another's that the receiver needs
// first. So a rank has as many connections as its algorithms have partners, not as the job has ranks.
func (w *World) NewGroup(name string, ranks []int) (Group, error) {
	if err := w.checkMembers(ranks); err != nil {
		return nil, fmt.Errorf("making group %s: %w", name, err)
	}
	stream, ok := w.o.NewStream(name).(device.HostStream)
	if !ok {
		return nil, fmt.Errorf("making group %s: the device's streams do not run host code", name)
	}
	g, err := w.register(name, ranks, stream)
	if err != nil {
		return nil, fmt.Errorf("making group %s: %w", name, err)
	}
	share := w.shareInside
	if w.shares(ranks) {
		share = w.share
	}
	if err := share(g); err != nil {
		g.interrupt(err)
		return nil, fmt.Errorf("making group %s: %w", name, err)
	}
	return g, nil
}

func (w *World) checkMembers(ranks []int) error {
	sorted := slices.Sorted(slices.Values(ranks))
	switch {
	case !slices.Contains(ranks, w.Rank()):
		return fmt.Errorf("rank %d is not among its members %v", w.Rank(), ranks)
	case sorted[0] < 0 || sorted[len(sorted)-1] >= w.Size():
		return fmt.Errorf("its members %v are not all in a job of %d ranks", ranks, w.Size())
	case len(slices.Compact(sorted)) != len(ranks):
		return fmt.Errorf("its members %v are not distinct", ranks)
	}
	return nil
}

// register makes the group known, so that a failure of the job reaches it and the root's questions are answered.
func (w *World) register(name string, ranks []int, stream device.HostStream) (*group, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return nil, errors.New("the job was closed")
	case w.err != nil:
		return nil, w.err
	}
	key := groupID(name, ranks, 0)
	g := w.newGroup(name, ranks, w.made[key], stream)
	w.made[key]++
	w.groups = append(w.groups, g)
	return g, nil
}

// link returns the link to a member, connected at its first use.
func (g *group) link(member int) (link, error) {
	if l, ok := g.links[member]; ok {
		return l, nil
	}
	rank := g.ranks[member]
	conn, err := g.world.reach(g, rank)
	if err != nil {
		return nil, err
	}
	l, err := newTCPLink(g, rank, conn)
	if err != nil {
		return nil, err
	}
	g.links[member] = l
	return l, nil
}

// reach connects to another rank, or waits for the connection that it has begun to make. Both may dial at once; then the
// lower rank's attempt counts, and the higher rank's is refused.
func (w *World) reach(g *group, rank int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, w.o.Timeout)
	defer cancel()
	c := w.connection(connectionKey{rank, g.id})
	if c.begin(dialing) {
		conn, err := w.door.dial(ctx, w.table.address(rank), hello{purpose: purposeData, from: int32(w.Rank()), to: int32(rank), group: g.id})
		if err == nil {
			return conn, nil
		}
		if refused := new(RefusedError); !errors.As(err, &refused) || rank > w.Rank() {
			return nil, w.unreachable(g, rank, err)
		}
		// The lower rank dials itself, so that its connection comes or has come.
	}
	select {
	case conn := <-c.conn:
		return conn, nil
	case <-w.closing:
		return nil, errors.New("the job was closed")
	case <-ctx.Done():
		return nil, w.unreachable(g, rank, ctx.Err())
	}
}

// unreachable finds the cause behind a failed attempt to connect.
func (w *World) unreachable(g *group, rank int, err error) error {
	if cause := g.broken(); cause != nil {
		return cause
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return g.stalled(rank)
	}
	if cause := w.causeWithin(graceTime); cause != nil {
		return cause
	}
	return fmt.Errorf("connecting to rank %d: %w", rank, err)
}

// connection returns the meeting point for the data connection with another rank.
func (w *World) connection(key connectionKey) *connection {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connectionLocked(key)
}

func (w *World) connectionLocked(key connectionKey) *connection {
	c := w.inbound[key]
	if c == nil {
		c = &connection{conn: make(chan net.Conn, 1)}
		w.inbound[key] = c
	}
	return c
}

// begin changes the state from the first and reports whether it did.
func (c *connection) begin(to connectionState) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != unconnected {
		return false
	}
	c.state = to
	return true
}

// errCrossing refuses the higher rank's attempt where both dial at once.
var errCrossing = errors.New("this rank dials the other itself")

// claim lets another rank's attempt be the connection, unless there is one already or this rank's own attempt counts.
func (c *connection) claim(from, self int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == claimedByPeer:
		return fmt.Errorf("rank %d is already connected by another process", from)
	case c.state == dialing && self < from:
		return errCrossing
	}
	c.state = claimedByPeer
	return nil
}

// claim reserves a data connection for an authenticated process.
func (w *World) claim(h hello) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case h.purpose != purposeData:
		return errors.New("only data connections go to a rank")
	case int(h.from) >= w.Size() || int(h.from) == w.Rank():
		return fmt.Errorf("rank %d does not connect to rank %d of a job of %d ranks", h.from, w.Rank(), w.Size())
	case w.closed:
		return fmt.Errorf("rank %d is leaving the job", w.Rank())
	}
	return w.connectionLocked(connectionKey{int(h.from), h.group}).claim(int(h.from), w.Rank())
}

// hand passes an accepted connection on to the operation that needs it, or will.
func (w *World) hand(h hello, conn net.Conn) {
	w.connection(connectionKey{int(h.from), h.group}).conn <- conn
}
