package collective

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
)

// RelayOptions configure a Relay.
type RelayOptions struct {
	// Size is the number of ranks in the job, Host the number of this host in RootOptions.Hosts, Hosts how many there are.
	Size, Host, Hosts int
	// Ranks are those of this host.
	Ranks []int
	// Job, Epoch and Secret are the job's, see RootOptions.
	Job    string
	Epoch  int
	Secret []byte
	// Outside is the IP address at which the relays of hosts further down are met, empty if there are none; Ports is the range
	// of ports to take one from.
	Outside string
	Ports   PortRange
	// Log receives whom the relay refuses; nil means slog.Default().
	Log *slog.Logger
}

// A Relay stands for the root on another host. It holds the control connections of the ranks there, and those of relays
// further down, so that the root of a large job has few: relays form a tree. What ranks say it passes on upwards, under
// their numbers; what the root says it passes on to all below it. It decides nothing, but when its own connection upwards is
// lost it tells all below it that they are cut off.
//
// Its own connection upwards, which leaves the host, is inside TLS.
//
// A Relay is safe for concurrent use.
type Relay struct {
	o       RelayOptions
	door    *acceptor
	running sync.WaitGroup
	done    chan struct{}

	mu     sync.Mutex
	up     *controlConn
	closed bool
	ranks  map[int]memberState // of this host
	hosts  []memberState       // of relays below
	below  map[*controlConn]struct{}
	told   *message // the failure that was passed on, nil while all is well
	table  *message // the table, once it has come
	err    error    // why the relay is cut off
}

// NewRelay starts listening. Ranks may come at once; they wait until Connect has reached the root.
func NewRelay(o RelayOptions) (*Relay, error) {
	if err := checkSecret(o.Secret); err != nil {
		return nil, fmt.Errorf("starting the relay of job %q: %w", o.Job, err)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &Relay{
		o: o, done: make(chan struct{}), ranks: map[int]memberState{}, hosts: make([]memberState, o.Hosts),
		below: map[*controlConn]struct{}{},
	}
	for _, rank := range o.Ranks {
		r.ranks[rank] = absent
	}
	r.door = &acceptor{
		credentials: credentials{job: o.Job, epoch: uint32(o.Epoch), secret: slices.Clone(o.Secret), secure: true},
		self:        rootRank, log: o.Log, tls: tlsEither, claim: r.claim, serve: r.serve,
	}
	if err := r.door.listen("127.0.0.1:0", o.Outside, o.Ports); err != nil {
		return nil, fmt.Errorf("starting the relay of job %q: %w", o.Job, err)
	}
	return r, nil
}

// Addr returns the address to which the ranks of this host connect: Place.Rendezvous.
func (r *Relay) Addr() string { return r.door.listeners[0].Addr().String() }

// Outside returns the address to which the relays of other hosts connect; empty without RelayOptions.Outside.
func (r *Relay) Outside() string { return r.door.outside() }

// Done is closed when this host is cut off from the root; Err says why.
func (r *Relay) Done() <-chan struct{} { return r.done }

// Err returns why this host is cut off, nil while it is not.
func (r *Relay) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Connect reaches the root, or the relay between it and this host, at parent, and lets ranks and relays in from then on.
func (r *Relay) Connect(ctx context.Context, parent string) error {
	conn, err := r.door.dial(ctx, parent, hello{purpose: purposeRelay, from: int32(r.o.Host), to: rootRank})
	if err != nil {
		return fmt.Errorf("connecting to the root of job %q at %s: %w", r.o.Job, parent, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		conn.Close()
		return net.ErrClosed
	}
	r.up = &controlConn{Conn: conn}
	r.running.Go(r.listenUp)
	r.door.start()
	return nil
}

// listenUp passes on what the root says.
func (r *Relay) listenUp() {
	for {
		m, err := r.up.receive()
		if err != nil {
			r.CutOff(fmt.Errorf("this host is cut off from launch: %s", endOf(err, "the connection to it")))
			return
		}
		r.passDown(m)
	}
}

// passDown sends a message of the root to all below.
func (r *Relay) passDown(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m.Kind {
	case kindTable:
		r.up.beat(m.Silence)
		r.up.listenFor(m.Silence)
		m.Beats = true
		r.table = &m
	case kindLost, kindTimeout, kindRefused:
		if r.told != nil {
			return
		}
		r.told = &m
	}
	for c := range r.below {
		r.tell(c, m)
	}
}

// tell sends m on a goroutine of its own. r.mu is held.
func (r *Relay) tell(c *controlConn, m message) {
	if m.Kind == kindTable {
		c.beat(m.Silence)
		c.listenFor(m.Silence)
	}
	r.running.Go(func() { _ = c.send(m) }) // one that cannot be told is lost, which its own connection shows
}

// CutOff tells all below that the job has ended for this host, and why.
func (r *Relay) CutOff(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil || r.closed {
		return
	}
	r.err = err
	close(r.done)
	if r.told == nil {
		r.told = &message{Kind: kindCutOff, Cause: err.Error()}
		for c := range r.below {
			r.tell(c, *r.told)
		}
	}
}

// claim reserves a rank of this host for an authenticated process, or a host for a relay.
func (r *Relay) claim(h hello) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch state, ours := r.ranks[int(h.from)]; {
	case h.purpose == purposeRelay:
		return claimHost(r.hosts, int(h.from))
	case h.purpose != purposeControl:
		return errors.New("only control connections go to a relay")
	case !ours:
		return fmt.Errorf("rank %d is not one of this host", h.from)
	case state != absent:
		return fmt.Errorf("rank %d is already taken by another process", h.from)
	case r.told != nil:
		return fmt.Errorf("the job has failed already: rank %d: %s", r.told.Rank, r.told.Cause)
	}
	r.ranks[int(h.from)] = claimed
	return nil
}

// serve follows one rank or relay below to the end of its connection.
func (r *Relay) serve(h hello, conn net.Conn) {
	c := &controlConn{Conn: conn}
	defer c.Close()
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.below[c] = struct{}{}
	for _, m := range []*message{r.table, r.told} { // what came after the claim, so that this one was not told
		if m != nil {
			r.tell(c, *m)
		}
	}
	up := r.up
	r.mu.Unlock()
	err := error(nil)
	for err == nil {
		var m message
		if m, err = c.receive(); err != nil {
			break
		}
		if h.purpose == purposeControl {
			m.From = int(h.from)
		}
		if err = up.send(m); err == nil && h.purpose == purposeControl && m.Kind == kindGoodbye {
			err = errGoodbye
		}
	}
	r.mu.Lock()
	delete(r.below, c)
	r.mu.Unlock()
	switch {
	case err == errGoodbye:
	case h.purpose == purposeRelay:
		_ = up.send(message{Kind: kindHostGone, Host: int(h.from), Cause: endOf(err, "its agent's connection")})
	default:
		_ = up.send(message{Kind: kindGone, From: int(h.from), Cause: endOf(err, "its connection to launch")})
	}
}

// errGoodbye ends the connection of a rank that has left the job as it should.
var errGoodbye = fmt.Errorf("goodbye: %w", io.EOF)

// Close ends all connections. It is called when the ranks of this host have ended.
func (r *Relay) Close() error {
	r.door.close()
	r.mu.Lock()
	r.closed = true
	if r.up != nil {
		r.up.Close()
	}
	for c := range r.below {
		c.Close()
	}
	r.mu.Unlock()
	r.door.running.Wait()
	r.running.Wait()
	return nil
}
