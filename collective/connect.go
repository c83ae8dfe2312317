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
	dialer := net.Dialer{Timeout: dialTimeout}
	unanswered := 0
	var last error // the latest that says more than that time ran out
	for {
		network := "tcp"
		if strings.HasPrefix(address, "@") {
			network = "unix"
		}
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			err = c.greet(conn, h)
			stop()
			if err == nil {
				return conn, nil
			}
			conn.Close()
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

// NewGroup makes a group of the given ranks, in this order; this rank must be among them. The name is shown in messages.
// All members call it, in the same order for all groups; it returns when this rank is connected to all others. Each group
// has a stream of its own.
//
// Where all members are on one host they are connected by its memory, see shared. Else there is one connection for each pair of members, for each group: groups run at the same time, and on a shared
// connection one group's data could block another's that the receiver needs first.
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
	connect := w.connect
	if w.shares(ranks) {
		connect = w.share
	}
	if err := connect(g); err != nil {
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
	key := fmt.Sprintf("%q %v", name, ranks)
	g := w.newGroup(name, ranks, w.made[key], stream)
	w.made[key]++
	w.groups = append(w.groups, g)
	return g, nil
}

// connect links the group's members: the lower rank of a pair dials the higher.
func (w *World) connect(g *group) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.o.Timeout)
	defer cancel()
	type outcome struct {
		member int
		conn   net.Conn
		err    error
	}
	outcomes := make(chan outcome)
	for member, rank := range g.ranks {
		if member == g.me {
			continue
		}
		go func() {
			conn, err := w.reach(ctx, g, rank)
			outcomes <- outcome{member, conn, err}
		}()
	}
	var first error
	for range len(g.ranks) - 1 {
		o := <-outcomes
		if o.err != nil {
			if first == nil {
				first = o.err
			}
			cancel() // the others need not wait any longer
			continue
		}
		g.setLink(o.member, newTCPLink(g, g.ranks[o.member], o.conn))
	}
	return first
}

// reach connects to one other rank, or waits for its connection.
func (w *World) reach(ctx context.Context, g *group, rank int) (net.Conn, error) {
	if w.Rank() < rank {
		conn, err := w.door.dial(ctx, w.addresses[rank], hello{purpose: purposeData, from: int32(w.Rank()), to: int32(rank), group: g.id})
		if err == nil {
			return conn, nil
		}
		if cause := w.causeWithin(graceTime); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("connecting to rank %d: %w", rank, err)
	}
	select {
	case conn := <-w.connection(connectionKey{rank, g.id}).conn:
		return conn, nil
	case <-w.done:
		return nil, w.Err()
	case <-w.closing:
		return nil, errors.New("the job was closed")
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, g.stalled(rank)
		}
		return nil, ctx.Err()
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

// connection returns the meeting point for a data connection to this rank.
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

// claim reserves a data connection for an authenticated process.
func (w *World) claim(h hello) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case h.purpose != purposeData:
		return errors.New("only data connections go to a rank")
	case int(h.from) >= w.Rank():
		return fmt.Errorf("rank %d does not connect to rank %d; the lower rank of two connects", h.from, w.Rank())
	case w.closed:
		return fmt.Errorf("rank %d is leaving the job", w.Rank())
	}
	c := w.connectionLocked(connectionKey{int(h.from), h.group})
	if c.claimed {
		return fmt.Errorf("rank %d is already connected by another process", h.from)
	}
	c.claimed = true
	return nil
}

// hand passes an accepted connection on to NewGroup.
func (w *World) hand(h hello, conn net.Conn) {
	w.connection(connectionKey{int(h.from), h.group}).conn <- conn
}
