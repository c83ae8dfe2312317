package collective

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/kernels/device"
)

// Options configure a World.
type Options struct {
	// Place says which rank this process is and where the root listens; see PlaceFrom.
	Place Place
	// Secret is the job's secret; see ReadSecret. Not needed by a process started alone.
	Secret []byte
	// Facts must be the same on all ranks, or the job does not form: versions, kernel set, a hash of the configuration.
	// The names are shown to the user: "kernel set".
	Facts map[string]string
	// Backend says how ranks reach one another: BackendAuto (also ""), BackendTCP or BackendShm.
	Backend string
	// TLS puts the connections to ranks and to a root on other hosts inside TLS 1.3. All ranks must be given the same.
	TLS bool
	// Timeout is how long joining may take and how long an operation may go without progress; 0 means 60 seconds.
	Timeout time.Duration
	// Silence is how long nothing may be heard of another process, not even a heartbeat, before it counts as lost; 0 means
	// 30 seconds, less than 0 without end. All ranks must be given the same.
	Silence time.Duration
	// Prepare, unless nil, is what this rank has to do before it can join, such as to make its data ready. Ranks that have
	// joined wait for it. Join returns its error as it is, and the others' Join an error with its text.
	Prepare func(ctx context.Context) error
	// NewStream makes the stream on which a group's operations run: the device's NewStream. It must return
	// device.HostStreams.
	NewStream func(name string) device.Stream
	// Log receives refused connections; nil means slog.Default().
	Log *slog.Logger

	// Algorithm is used for every operation that has it, instead of the one that the cost model finds fastest; see
	// ParseAlgorithm. Auto, the zero value, leaves it to the model.
	Algorithm Algorithm
	// AnyOrder allows reductions in another order than the aligned pairwise tree. The order then depends on the layout, but
	// is the same for every repetition.
	AnyOrder bool
	// TimeBlocking has World.Blocked counted. Reading the clock takes as long as some per cent of the smallest operations.
	TimeBlocking bool

	// For tests: the length of segments, so that short buffers take the paths of long ones, whether to wait as if there were a
	// core for each rank, and the host of each rank.
	segmentBytes int
	coreEach     bool
	hosts        []int
	sharing      sharing // nil means files
}

// A World is a rank's membership in its job: it makes groups, and it knows when the job has failed. It is safe for
// concurrent use.
type World struct {
	o       Options
	control *controlConn  // to the root; nil for a process started alone
	door    *acceptor     // for other ranks' data connections; nil for a process started alone
	table   *addressTable // where the ranks listen
	cores   int           // of this host
	local   local         // the ranks of this host
	done    chan struct{}
	closing chan struct{}
	watcher sync.WaitGroup
	blocked atomic.Int64 // nanoseconds, see Blocked

	mu      sync.Mutex
	err     error
	closed  bool
	groups  []*group
	made    map[uint64]int                // how many groups there are of a name and members
	inbound map[connectionKey]*connection // data connections, by their other end
	memory  atomic.Pointer[[]*symmetric]  // what Alloc returned, in its order
}

// A connectionKey names the data connection with another rank.
type connectionKey struct {
	peer  int
	group uint64
}

// A connection is the meeting point of the two ranks that want it: this rank's operation and the acceptor.
type connection struct {
	mu    sync.Mutex
	state connectionState
	conn  chan net.Conn // what the peer has made; of capacity 1
}

// A connectionState says who makes a connection.
type connectionState int

const (
	unconnected   connectionState = iota
	dialing                       // this rank
	claimedByPeer                 // the other
)

// Blocked returns how long callers of blocking groups have waited for their operations so far, 0 without
// Options.TimeBlocking.
func (w *World) Blocked() time.Duration { return time.Duration(w.blocked.Load()) }

// Join makes this process a member of its job. It returns when all ranks have joined. Errors are a *RefusedError where the
// root did not let the job form, a *RankLostError where a rank was lost meanwhile.
//
// A process started alone (Place.Size 1 and no Rendezvous) uses no network.
func Join(ctx context.Context, o Options) (*World, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Silence == 0 {
		o.Silence = defaultSilence
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	switch o.Backend {
	case "":
		o.Backend = BackendAuto
	case BackendAuto, BackendTCP, BackendShm:
	default:
		return nil, fmt.Errorf("joining job %q: there is no backend %q", o.Place.Job, o.Backend)
	}
	if o.segmentBytes == 0 {
		o.segmentBytes = defaultSegment
	}
	w := &World{
		o: o, cores: runtime.NumCPU(), done: make(chan struct{}), closing: make(chan struct{}),
		made: map[uint64]int{}, inbound: map[connectionKey]*connection{},
	}
	if o.Place.Size == 1 && o.Place.Rendezvous == "" {
		if err := w.prepare(ctx); err != nil {
			return nil, err
		}
		return w, nil
	}
	cred, err := w.reachRoot(ctx)
	if err == nil {
		if failed := w.prepare(ctx); failed != nil {
			return nil, errors.Join(failed, w.Close())
		}
		err = w.join(ctx, cred)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rank %d joining job %q at %s: %w", o.Place.Rank, o.Place.Job, o.Place.Rendezvous, err), w.Close())
	}
	return w, nil
}

// reachRoot connects to the root and returns what other connections authenticate themselves with.
func (w *World) reachRoot(ctx context.Context) (credentials, error) {
	if err := checkSecret(w.o.Secret); err != nil {
		return credentials{}, err
	}
	p := w.o.Place
	cred := credentials{job: p.Job, epoch: uint32(p.Epoch), secret: slices.Clone(w.o.Secret)}
	dialing, cancel := context.WithTimeout(ctx, w.o.Timeout)
	defer cancel()
	if host, _, err := net.SplitHostPort(p.Rendezvous); err == nil {
		cred.secure = w.o.TLS && !isLoopback(host) // what stays on this host needs no protection from the network
	}
	conn, err := cred.dial(dialing, p.Rendezvous, hello{purpose: purposeControl, from: int32(p.Rank), to: rootRank})
	if err != nil {
		return credentials{}, err
	}
	w.control = &controlConn{Conn: conn}
	cred.secure = w.o.TLS
	return cred, nil
}

// join says where this rank listens and waits until all ranks have.
func (w *World) join(ctx context.Context, cred credentials) error {
	p := w.o.Place
	if err := w.listen(cred); err != nil {
		return err
	}
	local, err := w.openLocal(cred)
	if err != nil {
		return err
	}
	err = w.control.send(message{
		Kind: kindJoin, Size: p.Size, Address: w.door.listeners[0].Addr().String(), Local: local, Facts: w.o.Facts, Silence: max(0, w.o.Silence),
	})
	if err != nil {
		return err
	}
	table, err := w.await(ctx)
	if err != nil {
		return err
	}
	if err := table.Table.check(p.Size); err != nil {
		return err
	}
	w.table = table.Table
	w.control.beat(table.Silence)
	if table.Beats {
		w.control.listenFor(table.Silence)
	}
	if err := w.findLocal(table.Locals); err != nil {
		return err
	}
	w.watcher.Go(w.watch)
	return nil
}

// listen opens this rank's door: at Place.Address, else on the interface from which it reached the root.
func (w *World) listen(cred credentials) error {
	host := w.o.Place.Address
	if host == "" {
		var err error
		if host, _, err = net.SplitHostPort(w.control.LocalAddr().String()); err != nil {
			return err
		}
	}
	listener, err := w.o.Place.Ports.listen(host)
	if err != nil {
		return fmt.Errorf("listening for other ranks: %w", err)
	}
	w.door = &acceptor{
		credentials: cred, self: int32(w.o.Place.Rank), listeners: []net.Listener{listener}, log: w.o.Log, claim: w.claim, serve: w.hand,
	}
	if w.o.TLS {
		w.door.tls = tlsAlways
	}
	w.door.start()
	return nil
}

// await reads the root's answer to the join. The root has a time limit of its own, whose message is better: it names the
// missing ranks. So this waits somewhat longer.
func (w *World) await(ctx context.Context) (message, error) {
	stop := context.AfterFunc(ctx, func() { w.control.Close() })
	defer stop()
	for {
		if err := w.control.SetReadDeadline(time.Now().Add(max(w.o.Timeout, defaultTimeout) + graceTime)); err != nil {
			return message{}, err
		}
		m, err := w.control.receive() // a heartbeat may overtake the table
		switch {
		case err != nil:
			return message{}, fmt.Errorf("waiting for the other ranks: %w", errors.Join(context.Cause(ctx), noEOF(err)))
		case m.Kind == kindWait:
		case m.Kind == kindTable:
			return m, w.control.SetReadDeadline(time.Time{})
		default:
			return message{}, failureOf(m)
		}
	}
}

// failureOf returns the error that a message of the root stands for.
func failureOf(m message) error {
	switch m.Kind {
	case kindLost:
		return &RankLostError{Rank: m.Rank, Cause: m.Cause}
	case kindTimeout:
		return &TimeoutError{Ranks: m.Ranks, Report: m.Cause}
	case kindRefused:
		return &RefusedError{Rank: m.Rank, Reason: m.Cause}
	case kindCutOff:
		return &CutOffError{Cause: m.Cause}
	}
	return fmt.Errorf("the root sent a %q message out of place", m.Kind)
}

// watch receives from the root until the connection ends.
func (w *World) watch() {
	for {
		m, err := w.control.receive()
		if err != nil {
			w.mu.Lock()
			closed := w.closed
			w.mu.Unlock()
			switch {
			case closed:
			case w.o.Place.Launcher != "":
				w.fail(&RankLostError{Rank: 0, Cause: endOf(err, "its connection") + "; it held the job together"})
			default:
				w.fail(fmt.Errorf("the connection to launch ended, so launch, or its agent on this host, is gone: %w", noEOF(err)))
			}
			return
		}
		if m.Kind == kindWait { // the table has overtaken it
			continue
		}
		if m.Kind == kindQuery && m.Stall != nil {
			if slices.Contains(m.Stall.Members, w.Rank()) {
				// Where the answer does not get through, the root blames this rank as it should.
				_ = w.control.send(message{Kind: kindStatus, Operations: w.standing(*m.Stall)})
			}
			continue
		}
		w.fail(failureOf(m))
	}
}

// fail makes err the end of the job for this rank, unless it has ended before: all that waits in a group ends with it.
func (w *World) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.closed {
		return
	}
	w.err = err
	close(w.done)
	for _, g := range w.groups {
		g.interrupt(err)
	}
}

// Sent returns how many bytes of data this rank has sent to others over the network, in all its groups. It waits for running operations.
func (w *World) Sent() (bytes int) {
	w.mu.Lock()
	groups := slices.Clone(w.groups)
	w.mu.Unlock()
	for _, g := range groups {
		g.running.Lock()
		for _, l := range g.links {
			if l, ok := l.(*tcpLink); ok {
				bytes += l.sent.bytes
			}
		}
		g.running.Unlock()
	}
	return bytes
}

// Rank returns this process's rank in the job.
func (w *World) Rank() int { return w.o.Place.Rank }

// Size returns the number of ranks in the job.
func (w *World) Size() int { return w.o.Place.Size }

// Done is closed when the job has failed; Err says why.
func (w *World) Done() <-chan struct{} { return w.done }

// Err returns why the job has failed, nil while it has not: usually a *RankLostError or *TimeoutError, decided by the root
// and the same on all ranks.
func (w *World) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Abort ends the job for all ranks because of err, which becomes the cause that they report. Where the job has already
// failed it does nothing, so that a rank may abort with whatever error stopped it, its own or another rank's. It returns
// when the root has confirmed, or after a few seconds. Close still has to be called.
func (w *World) Abort(err error) {
	if w.control != nil && w.Err() == nil && w.control.send(message{Kind: kindAbort, Cause: err.Error()}) == nil {
		timer := time.NewTimer(graceTime)
		defer timer.Stop()
		select {
		case <-w.done:
		case <-timer.C:
		}
	}
	w.fail(&RankLostError{Rank: w.Rank(), Cause: err.Error()})
}

// Close leaves the job: with a goodbye, unless the job has failed. It waits a few seconds at most. The groups' streams
// should be idle; an operation that still runs is made to end with an error.
func (w *World) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.closing)
	failed := w.err != nil
	w.mu.Unlock()
	for _, g := range w.groups {
		g.close()
	}
	var err error
	if w.control != nil {
		err = w.leave(failed)
	}
	err = errors.Join(err, w.unmap())
	for _, door := range []*acceptor{w.door, w.local.door} {
		if door != nil {
			door.close()
			door.running.Wait()
		}
	}
	if w.door != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.inbound {
			select {
			case conn := <-c.conn:
				conn.Close()
			default:
			}
		}
	}
	return err
}

// leave ends the control connection.
func (w *World) leave(failed bool) error {
	var err error
	if !failed && w.table != nil {
		if err = w.control.send(message{Kind: kindGoodbye}); err == nil {
			// The root answers a goodbye by closing; closing first could discard it unread.
			late := time.AfterFunc(graceTime, func() { w.control.Close() })
			w.watcher.Wait()
			late.Stop()
		}
	}
	w.control.Close()
	w.watcher.Wait()
	if err != nil {
		return fmt.Errorf("saying goodbye to the job's root: %w", err)
	}
	return nil
}
