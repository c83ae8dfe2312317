package collective

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"time"
)

// defaultTimeout is what a zero Timeout means in RootOptions and Options.
const defaultTimeout = 60 * time.Second

// defaultSilence is what a zero Silence means in Options.
const defaultSilence = 30 * time.Second

// RootOptions configure a Root.
type RootOptions struct {
	// Size is the number of ranks in the job.
	Size int
	// Job names the job, Epoch counts its restarts; every rank must be told the same. See Place.
	Job   string
	Epoch int
	// Secret authenticates the ranks. At least 16 bytes; launch makes SecretSize random ones.
	Secret []byte
	// Listen is the address to listen on for the ranks of this host, host:port; "" means "127.0.0.1:0".
	Listen string
	// Hosts are the other hosts of the job, on each of which a Relay speaks for its ranks; a host's number is its index
	// here. Ranks of no host in the list connect to the root itself.
	Hosts []Host
	// Outside is the IP address on which relays are met, empty without Hosts; Ports is the range of ports to take one from.
	Outside string
	Ports   PortRange
	// Supervised says that whoever runs the root watches the processes of its own ranks and calls Lost when one has ended.
	Supervised bool
	// Timeout is how long the ranks have to join once the first one has; 0 means 60 seconds. Those that say that they prepare,
	// see Options.Prepare, may take as long as they live.
	Timeout time.Duration
	// Log receives what the root decides and whom it refuses; nil means slog.Default().
	Log *slog.Logger

	settle time.Duration // for tests; 0 means settleTime
}

// A Host is a host of a job, with the ranks that run there.
type Host struct {
	Name string
	// Ranks are in order.
	Ranks []int
}

// A Root is the meeting point of a job. It runs in launch's process, lets in the ranks that know the secret, waits for all
// of them, compares their facts, and tells each where the others listen. Then it holds a control connection to each rank of
// its own host, and through relays to those of other hosts, and decides, once, which rank ended the job and why: whatever is
// seen first of a rank that says why it aborts, a process that launch saw die (Lost), a connection that ends without a
// goodbye, or one on which nothing comes any more, not even a heartbeat. All other ranks are told at once.
//
// A Root is safe for concurrent use.
type Root struct {
	o       RootOptions
	door    *acceptor
	running sync.WaitGroup
	timer   *time.Timer // fires when ranks are late to join
	failed  chan struct{}
	left    chan struct{} // holds a token after a connection has ended

	mu        sync.Mutex
	closed    bool
	members   []member
	hosts     []memberState            // of the relays
	below     map[*controlConn]purpose // the connections of ranks and relays
	joined    int                      // ranks that have joined, whether or not they are still there
	silence   time.Duration            // after which a rank or relay counts as lost; the longest that a rank has asked for
	failure   *message                 // what was decided; nil while all is well
	suspect   int                      // the rank whose connection ended first, -1 while there is none
	suspicion string                   // how it ended
	settling  *time.Timer
	inquiry   *inquiry
}

// A memberState is how far a rank has come.
type memberState int

const (
	absent  memberState = iota
	claimed             // authenticated
	present             // joined
	gone                // said goodbye, or its connection ended
)

// A member is the root's view of a rank.
type member struct {
	state   memberState
	address string
	local   string
	facts   map[string]string

	prepares time.Time // when it last said that it prepares
}

// NewRoot starts listening and returns; ranks join in the background.
func NewRoot(o RootOptions) (*Root, error) {
	if o.Size < 1 {
		return nil, fmt.Errorf("starting the root of a job: %d ranks", o.Size)
	}
	if err := checkSecret(o.Secret); err != nil {
		return nil, fmt.Errorf("starting the root of job %q: %w", o.Job, err)
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.settle == 0 {
		o.settle = settleTime
	}
	r := &Root{
		o: o, failed: make(chan struct{}), left: make(chan struct{}, 1), members: make([]member, o.Size), hosts: make([]memberState, len(o.Hosts)),
		below: map[*controlConn]purpose{}, suspect: -1,
	}
	r.door = &acceptor{
		credentials: credentials{job: o.Job, epoch: uint32(o.Epoch), secret: slices.Clone(o.Secret)},
		self:        rootRank, log: o.Log, tls: tlsEither, claim: r.claim, serve: r.serve,
	}
	if err := r.door.listen(o.Listen, o.Outside, o.Ports); err != nil {
		return nil, fmt.Errorf("starting the root of job %q: %w", o.Job, err)
	}
	r.timer = time.AfterFunc(math.MaxInt64, r.joinTimeout) // until the first rank joins
	r.door.start()
	return r, nil
}

func checkSecret(secret []byte) error {
	if len(secret) < 16 {
		return fmt.Errorf("the secret has %d bytes; at least 16 are needed", len(secret))
	}
	return nil
}

// Addr returns the address to which the ranks of this host connect, host:port: Place.Rendezvous.
func (r *Root) Addr() string { return r.door.listeners[0].Addr().String() }

// Outside returns the address to which relays connect, host:port; empty where the job has no other hosts.
func (r *Root) Outside() string { return r.door.outside() }

// Failed is closed when the job has failed; FirstFailure says why.
func (r *Root) Failed() <-chan struct{} { return r.failed }

// Close ends all connections. Ranks that are still there see their job fail, so it is called after they have ended.
func (r *Root) Close() error {
	r.door.close()
	r.mu.Lock()
	r.closed = true
	r.timer.Stop()
	if r.settling != nil {
		r.settling.Stop()
	}
	if r.inquiry != nil {
		r.inquiry.timer.Stop()
	}
	for c := range r.below {
		c.Close()
	}
	r.mu.Unlock()
	r.door.running.Wait()
	r.running.Wait()
	return nil
}

// awaitLeave returns when all who came have left, or after the time limit.
func (r *Root) awaitLeave(limit time.Duration) {
	late := time.NewTimer(limit)
	defer late.Stop()
	for {
		r.mu.Lock()
		here := len(r.below)
		r.mu.Unlock()
		if here == 0 {
			return
		}
		select {
		case <-r.left:
		case <-late.C:
			return
		}
	}
}

// decide makes f the job's failure, unless there is one, and tells everyone. r.mu is held.
func (r *Root) decide(f message) {
	if r.failure != nil || r.closed {
		return
	}
	r.failure = &f
	close(r.failed)
	r.timer.Stop()
	r.o.Log.Debug("the job failed", "rank", f.Rank, "cause", f.Cause)
	r.tellAll(f)
}

// tellAll sends m to every rank that is there, through relays where it is on another host. r.mu is held.
func (r *Root) tellAll(m message) {
	for c := range r.below {
		r.tell(c, m)
	}
}

// tell sends m on a goroutine of its own, so that one that does not read delays nobody.
func (r *Root) tell(c *controlConn, m message) {
	r.running.Go(func() {
		// A rank that cannot be told is lost as well, which its own connection shows.
		_ = c.send(m)
	})
}

// claim reserves a rank for an authenticated process, or a host for a relay.
func (r *Root) claim(h hello) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case h.purpose == purposeRelay:
		return claimHost(r.hosts, int(h.from))
	case h.purpose != purposeControl:
		return errors.New("only control connections go to the root")
	case int(h.from) >= len(r.members):
		return fmt.Errorf("rank %d is not in a job of %d ranks", h.from, len(r.members))
	case r.members[h.from].state != absent:
		return fmt.Errorf("rank %d is already taken by another process", h.from)
	case r.failure != nil:
		return fmt.Errorf("the job has failed already: rank %d: %s", r.failure.Rank, r.failure.Cause)
	}
	r.members[h.from].state = claimed
	return nil
}

// claimHost reserves a host for a relay.
func claimHost(hosts []memberState, host int) error {
	switch {
	case host >= len(hosts):
		return fmt.Errorf("host %d is not in a job of %d other hosts", host, len(hosts))
	case hosts[host] != absent:
		return fmt.Errorf("host %d is already taken by another process", host)
	}
	hosts[host] = present
	return nil
}

// serve follows one rank or relay to the end of its connection.
func (r *Root) serve(h hello, conn net.Conn) {
	c := &controlConn{Conn: conn}
	defer c.Close()
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.below[c] = h.purpose
	if r.failure != nil { // decided after the claim, so that this one was not told
		r.tell(c, *r.failure)
	}
	r.mu.Unlock()
	err := error(nil)
	for err == nil {
		var m message
		if m, err = c.receive(); err == nil {
			err = r.receive(h, m)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.below, c)
	select {
	case r.left <- struct{}{}:
	default:
	}
	if h.purpose == purposeRelay {
		r.hostEnded(int(h.from), endOf(err, "its agent's connection to launch"))
	} else {
		r.ended(int(h.from), endOf(err, "its connection to launch"))
	}
}

// endOf says how a connection has ended.
func endOf(err error, what string) string {
	switch {
	case errors.Is(err, errSilent):
		return fmt.Sprintf("%v: it is stopped, or its network is down", err)
	case errors.Is(err, io.EOF):
		return what + " ended without a goodbye"
	}
	return fmt.Sprintf("%s broke: %v", what, err)
}

// receive acts on a message of a rank, its own or one that a relay passes on. An error ends the connection; io.EOF stands for
// a goodbye.
func (r *Root) receive(h hello, m message) error {
	rank := int(h.from)
	if h.purpose == purposeRelay {
		rank = m.From
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rank < 0 || rank >= len(r.members) || m.Host < 0 || m.Host >= max(1, len(r.hosts)) {
		return fmt.Errorf("it sent a %q message about rank %d and host %d", m.Kind, rank, m.Host)
	}
	state := &r.members[rank].state
	if h.purpose == purposeRelay {
		switch m.Kind {
		case kindGone:
			r.ended(rank, m.Cause)
			return nil
		case kindHostGone:
			r.hostEnded(m.Host, m.Cause)
			return nil
		case kindJoin, kindPreparing:
			if *state == absent { // the relay has let it in
				*state = claimed
			}
		}
	}
	switch {
	case m.Kind == kindJoin && *state == claimed:
		return r.join(rank, m)
	case m.Kind == kindPreparing && *state == claimed:
		r.members[rank].prepares = time.Now()
		return nil
	case m.Kind == kindGoodbye && *state == present:
		*state = gone
		if h.purpose == purposeRelay {
			return nil
		}
		return io.EOF
	case m.Kind == kindAbort:
		if r.suspect < 0 || r.suspect == rank {
			r.decide(message{Kind: kindLost, Rank: rank, Cause: m.Cause})
		}
		return nil
	case m.Kind == kindStall && *state == present && m.Stall != nil:
		r.inquire(*m.Stall, m.Cause)
		return nil
	case m.Kind == kindStatus && *state == present:
		r.answered(rank, m.Operations)
		return nil
	}
	return fmt.Errorf("it sent a %q message out of place", m.Kind)
}
