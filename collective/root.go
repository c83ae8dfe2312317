package collective

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// defaultTimeout is what a zero Timeout means in RootOptions and Options.
const defaultTimeout = 60 * time.Second

// RootOptions configure a Root.
type RootOptions struct {
	// Size is the number of ranks in the job.
	Size int
	// Job names the job, Epoch counts its restarts; every rank must be told the same. See Place.
	Job   string
	Epoch int
	// Secret authenticates the ranks. At least 16 bytes; launch makes SecretSize random ones.
	Secret []byte
	// Listen is the address to listen on, host:port; "" means "127.0.0.1:0".
	Listen string
	// Timeout is how long the ranks have to join; 0 means 60 seconds.
	Timeout time.Duration
	// Log receives what the root decides and whom it refuses; nil means slog.Default().
	Log *slog.Logger
}

// A Root is the meeting point of a job. It runs in launch's process, lets in the ranks that know the secret, waits for all
// of them, compares their facts, and tells each where the others listen. Then it holds one control connection to each rank
// and decides, once, which rank ended the job and why: whatever is seen first of a rank that says why it aborts, a process
// that launch saw die (Lost), or a connection that ends without a goodbye. All other ranks are told at once.
//
// A Root is safe for concurrent use.
type Root struct {
	o       RootOptions
	door    *acceptor
	running sync.WaitGroup
	timer   *time.Timer // fires when ranks are late to join

	mu       sync.Mutex
	closed   bool
	members  []member
	joined   int      // ranks that have joined, whether or not they are still there
	failure  *message // what was decided; nil while all is well
	suspect  int      // the rank whose connection ended first, -1 while there is none
	settling *time.Timer
	inquiry  *inquiry
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
	conn    *controlConn
	address string
	local   string
	facts   map[string]string
}

// settleTime is how long the root waits, after a control connection ended without a word, for launch to say how the
// process died. It delays the news, for a better cause; it does not change who is to blame.
const settleTime = 150 * time.Millisecond

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
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("starting the root of job %q: %w", o.Job, err)
	}
	r := &Root{o: o, members: make([]member, o.Size), suspect: -1}
	r.door = &acceptor{
		credentials: credentials{job: o.Job, epoch: uint32(o.Epoch), secret: slices.Clone(o.Secret)},
		self:        rootRank, listener: listener, log: o.Log, claim: r.claim, serve: r.serve,
	}
	r.timer = time.AfterFunc(o.Timeout, r.joinTimeout)
	r.door.start()
	return r, nil
}

func checkSecret(secret []byte) error {
	if len(secret) < 16 {
		return fmt.Errorf("the secret has %d bytes; at least 16 are needed", len(secret))
	}
	return nil
}

// Addr returns the address to which ranks connect, host:port: Place.Rendezvous.
func (r *Root) Addr() string { return r.door.listener.Addr().String() }

// Lost tells the root that the process of a rank has ended in failure, and how: "killed by signal 9", "exit status 3".
// It may be called for ranks that never joined and for ranks that ended because another did; only the first failure of the
// job counts.
func (r *Root) Lost(rank int, cause string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.failure; f != nil {
		if f.Rank == rank && f.Cause == causeSilent { // launch was slow to see it; FirstFailure can still say how it died
			f.Cause = cause
		}
		return
	}
	// Where a connection has already ended without a word, that rank came first; launch only lends its cause a text.
	if r.suspect < 0 || r.suspect == rank {
		r.decide(message{Kind: kindLost, Rank: rank, Cause: cause})
	}
}

// FirstFailure returns the rank that ended the job and why. ok is false while no rank has failed.
func (r *Root) FirstFailure() (rank int, cause string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil {
		if r.suspect >= 0 {
			return r.suspect, causeSilent, true
		}
		return 0, "", false
	}
	return r.failure.Rank, r.failure.Cause, true
}

// causeSilent is all that the root itself can see of a process that was killed.
const causeSilent = "its connection to launch ended without a goodbye"

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
	for i := range r.members {
		if c := r.members[i].conn; c != nil {
			c.Close()
		}
	}
	r.mu.Unlock()
	r.door.running.Wait()
	r.running.Wait()
	return nil
}

// decide makes f the job's failure, unless there is one, and tells everyone. r.mu is held.
func (r *Root) decide(f message) {
	if r.failure != nil || r.closed {
		return
	}
	r.failure = &f
	r.timer.Stop()
	r.o.Log.Debug("the job failed", "rank", f.Rank, "cause", f.Cause)
	r.tellAll(f)
}

// tellAll sends m to every rank that is there, to each on a goroutine of its own, so that one that does not read delays
// nobody. r.mu is held.
func (r *Root) tellAll(m message) {
	for i := range r.members {
		if c := r.members[i].conn; c != nil && r.members[i].state != gone {
			r.running.Go(func() {
				// A rank that cannot be told is lost as well, which its own connection shows.
				_ = c.send(m)
			})
		}
	}
}

// claim reserves a rank for an authenticated process.
func (r *Root) claim(h hello) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
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

// serve follows one rank from its join to the end of its connection.
func (r *Root) serve(h hello, conn net.Conn) {
	c := &controlConn{Conn: conn}
	defer c.Close()
	rank := int(h.from)
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.members[rank].conn = c
	if r.failure != nil { // decided after the claim, so that this rank was not told
		f := *r.failure
		r.running.Go(func() { _ = c.send(f) })
	}
	r.mu.Unlock()
	for {
		m, err := readMessage(c)
		if err == nil {
			err = r.receive(rank, m)
		}
		if err != nil {
			r.ended(rank, err)
			return
		}
	}
}

// receive acts on a message of a rank. An error ends its connection; io.EOF stands for a goodbye.
func (r *Root) receive(rank int, m message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.members[rank].state
	switch {
	case m.Kind == kindJoin && state == claimed:
		return r.join(rank, m)
	case m.Kind == kindGoodbye && state == present:
		r.members[rank].state = gone
		return io.EOF
	case m.Kind == kindAbort:
		if r.suspect < 0 || r.suspect == rank {
			r.decide(message{Kind: kindLost, Rank: rank, Cause: m.Cause})
		}
		return nil
	case m.Kind == kindStall && state == present && m.Stall != nil:
		r.inquire(*m.Stall, m.Cause)
		return nil
	case m.Kind == kindStatus && state == present:
		r.answered(rank, m.Operations)
		return nil
	}
	return fmt.Errorf("it sent a %q message out of place", m.Kind)
}

// ended handles the end of a rank's connection.
func (r *Root) ended(rank int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members[rank].state == gone || r.failure != nil || r.closed {
		r.members[rank].state = gone
		return
	}
	r.members[rank].state = gone
	cause := causeSilent
	if !errors.Is(err, io.EOF) {
		cause = fmt.Sprintf("its connection to launch broke: %v", err)
	}
	if r.suspect < 0 {
		r.suspect = rank
		r.settling = time.AfterFunc(settleTime, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.decide(message{Kind: kindLost, Rank: rank, Cause: cause})
		})
	}
}

// join notes a rank's address and facts; the last one to join completes the job. r.mu is held.
func (r *Root) join(rank int, m message) error {
	if m.Size != len(r.members) {
		r.decide(message{Kind: kindRefused, Rank: rank, Cause: fmt.Sprintf("rank %d was started for a job of %d ranks, the root for %d", rank, m.Size, len(r.members))})
		return nil
	}
	if _, _, err := net.SplitHostPort(m.Address); err != nil || len(m.Facts) > maxFacts {
		return fmt.Errorf("it joined with address %q and %d facts", m.Address, len(m.Facts))
	}
	self := &r.members[rank]
	self.state, self.address, self.local, self.facts = present, m.Address, m.Local, m.Facts
	if r.joined++; r.joined < len(r.members) {
		return nil
	}
	r.timer.Stop()
	if f := r.disagreement(); f != nil {
		r.decide(*f)
		return nil
	}
	table := message{Kind: kindTable}
	for i := range r.members {
		table.Addresses = append(table.Addresses, r.members[i].address)
		table.Locals = append(table.Locals, r.members[i].local)
	}
	r.tellAll(table)
	return nil
}

// disagreement compares every rank's facts with rank 0's. r.mu is held.
func (r *Root) disagreement() *message {
	first := r.members[0].facts
	for rank := range r.members {
		facts := r.members[rank].facts
		names := slices.Sorted(maps.Keys(first))
		for name := range facts {
			if _, ok := first[name]; !ok {
				names = append(names, name)
			}
		}
		for _, name := range names {
			want, ok := first[name]
			got, has := facts[name]
			if ok && has && want == got {
				continue
			}
			return &message{Kind: kindRefused, Rank: rank, Cause: fmt.Sprintf("the ranks disagree on the %s: rank %d has %s, rank 0 has %s; all ranks must be the same",
				name, rank, quoteFact(got, has), quoteFact(want, ok))}
		}
	}
	return nil
}

func quoteFact(value string, ok bool) string {
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%q", value)
}

func (r *Root) joinTimeout() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.joined == len(r.members) {
		return
	}
	var missing []int
	for rank := range r.members {
		if s := r.members[rank].state; s == absent || s == claimed {
			missing = append(missing, rank)
		}
	}
	if len(missing) == 0 {
		return // a rank that came and went; its loss is being decided
	}
	r.decide(message{Kind: kindRefused, Rank: missing[0], Cause: fmt.Sprintf("%s did not join within %v", rankList(missing), r.o.Timeout)})
}
