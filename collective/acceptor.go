package collective

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// maxUnproven bounds the connections that are in their handshake at once. Beyond it the oldest is dropped: a rank proves
// itself within milliseconds, so the oldest is a stranger's, and a flood of silent connections cannot keep ranks out.
const maxUnproven = 64

// An acceptor owns the listeners of a root, relay or rank, and lets nobody past the handshake who does not know the secret.
// Strangers are logged and disturb nothing.
type acceptor struct {
	credentials
	self      int32 // the rank that listens
	listeners []net.Listener
	log       *slog.Logger
	tls       tlsMode
	// certificate makes the acceptor's certificate, once.
	certificate func() (tls.Certificate, error)
	// claim decides whether an authenticated process may have the connection that it asks for, and reserves it.
	claim func(h hello) error
	// serve takes over the connection after a successful claim. It is called on a goroutine of its own.
	serve func(h hello, conn net.Conn)

	mu       sync.Mutex
	closed   bool
	unproven []net.Conn // oldest first
	refused  int        // connections
	running  sync.WaitGroup
}

// listen opens the listener for the ranks of this host and, unless outside is empty, one for the relays of others.
func (a *acceptor) listen(local, outside string, ports PortRange) error {
	l, err := net.Listen("tcp", local)
	if err != nil {
		return err
	}
	a.listeners = []net.Listener{l}
	if outside == "" {
		return nil
	}
	if l, err = ports.listen(outside); err != nil {
		a.listeners[0].Close()
		return err
	}
	a.listeners = append(a.listeners, l)
	return nil
}

// outside returns the address of the listener for relays, "" if there is none.
func (a *acceptor) outside() string {
	if len(a.listeners) < 2 {
		return ""
	}
	return a.listeners[1].Addr().String()
}

func (a *acceptor) start() {
	a.certificate = sync.OnceValues(newCertificate)
	for _, l := range a.listeners {
		a.running.Go(func() { a.acceptLoop(l) })
	}
}

func (a *acceptor) acceptLoop(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			a.mu.Lock()
			closed := a.closed
			a.mu.Unlock()
			if closed {
				return
			}
			// Accept fails for a while when descriptors run out; giving up would cut the job off.
			a.log.Warn("accepting a connection failed", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if a.admitUnproven(conn) {
			a.running.Go(func() { a.handle(conn) })
		}
	}
}

func (a *acceptor) admitUnproven(conn net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		conn.Close()
		return false
	}
	if len(a.unproven) >= maxUnproven {
		a.unproven[0].Close() // its handshake fails, and is logged
		a.unproven = slices.Delete(a.unproven, 0, 1)
	}
	a.unproven = append(a.unproven, conn)
	return true
}

func (a *acceptor) handle(accepted net.Conn) {
	var h hello
	conn, err := a.secureAccepted(accepted)
	if err == nil {
		h, err = a.examine(conn, a.self)
	} else {
		conn = accepted
	}
	a.mu.Lock()
	if i := slices.Index(a.unproven, accepted); i >= 0 {
		a.unproven = slices.Delete(a.unproven, i, i+1)
	}
	a.mu.Unlock()
	if err != nil {
		a.logRefusal(err, "from", conn.RemoteAddr())
		conn.Close()
		return
	}
	if err := a.claim(h); err != nil {
		if !errors.Is(err, errCrossing) {
			a.logRefusal(err, "from", conn.RemoteAddr(), "rank", h.from)
		}
		// The other side may be gone; then there is nobody to tell.
		_ = writeMessage(conn, message{Kind: kindRefused, Cause: err.Error()})
		conn.Close()
		return
	}
	// A failure to write here shows as soon as the connection is used, where it is handled like any lost connection.
	_ = writeMessage(conn, message{Kind: kindAdmitted})
	_ = conn.SetDeadline(time.Time{})
	a.serve(h, conn)
}

// maxRefusalLines is how many refusals are logged one by one. Of more, which is a flood, only the number is, whenever it has
// doubled.
const maxRefusalLines = 64

// logRefusal counts and logs a connection that was refused.
func (a *acceptor) logRefusal(reason error, attributes ...any) {
	a.mu.Lock()
	a.refused++
	n, closed := a.refused, a.closed
	a.mu.Unlock()
	switch {
	case closed:
	case n <= maxRefusalLines:
		a.log.Warn("refused a connection", append(attributes, "reason", reason)...)
	case n&(n-1) == 0:
		a.log.Warn("refused connections", append([]any{"so far", n}, append(attributes, "last reason", reason)...)...)
	}
}

// close ends the listener and every handshake. Connections that were handed over belong to others.
func (a *acceptor) close() {
	a.mu.Lock()
	a.closed = true
	for _, l := range a.listeners {
		l.Close()
	}
	for _, c := range a.unproven {
		c.Close()
	}
	a.mu.Unlock()
}
