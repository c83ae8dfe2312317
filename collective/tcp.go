package collective

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// inBytes is what a link reads ahead: a header and the data of a small message come with one call.
	inBytes = 16 << 10
	// writeChunk is the most that is written in one call, so that reading takes its turn.
	writeChunk = 512 << 10
	// maxVector is how many pieces one call writes.
	maxVector = 16
	// graceTime is how long a broken connection waits for the root to say who was lost. The root learns of a death at the
	// same time, from the control connection.
	graceTime = 3 * time.Second
	// leftTime is how long a link whose other end was closed waits for that word before it asks.
	leftTime = 300 * time.Millisecond
)

// A tcpLink is a link over one TCP connection. The stream's goroutine itself reads and writes, without blocking: whenever a
// read would have to wait, it moves what is queued on all of the group's links, and only when nothing moves in either
// direction does it wait, in one call for all of them (see tcpWaiter). A goroutine for each direction would cost a switch of
// threads for each message; the runtime's poller costs another.
type tcpLink struct {
	group  *group
	waiter *tcpWaiter
	peer   int // the other's rank in the job
	fd     int

	out     []outgoing // messages not yet written; the first may be in part
	head    int        // the first of out that is not written whole
	queued  bool       // whether the waiter knows of out
	sendErr error

	in       []byte // read ahead
	from, to int    // what of it is not yet taken
	headIn   [headerBytes]byte

	sent, received counter
}

// A counter says how many messages went over a link in one direction, and how much data.
type counter struct{ messages, bytes int }

// An outgoing is data to be written, with a header before it where it starts a message.
type outgoing struct {
	header [headerBytes]byte
	headed int // bytes of the header that are still to be written
	data   []byte
}

// newTCPLink takes over a connection.
func newTCPLink(g *group, peer int, conn net.Conn) (*tcpLink, error) {
	var fd int
	var err error
	if s, ok := conn.(*secureConn); ok {
		fd, err = bridge(s)
	} else {
		fd, err = detach(conn)
	}
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to rank %d: %w", peer, err)
	}
	w, err := g.tcpWaiter()
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &tcpLink{group: g, waiter: w, peer: peer, fd: fd, in: make([]byte, inBytes)}, nil
}

// detach returns a descriptor of the connection's socket that the runtime's poller does not know, in non-blocking mode.
func detach(conn net.Conn) (int, error) {
	defer conn.Close()
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0, fmt.Errorf("a connection of type %T has no socket", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(own uintptr) {
		fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return 0, err
	}
	return fd, dupErr
}

func (l *tcpLink) send(h header, data []byte) {
	l.sent.messages++
	o := outgoing{headed: headerBytes, data: data}
	h.encode(&o.header)
	l.enqueue(o)
}

func (l *tcpLink) more(data []byte) {
	if len(data) > 0 {
		l.enqueue(outgoing{data: data})
	}
}

func (l *tcpLink) enqueue(o outgoing) {
	l.sent.bytes += len(o.data)
	if l.sendErr != nil {
		return
	}
	l.out = append(l.out, o)
	if !l.queued {
		l.queued = true
		l.waiter.sending = append(l.waiter.sending, l)
	}
}

// push writes what it can without waiting. It reports whether anything moved.
func (l *tcpLink) push() (moved bool) {
	for l.sendErr == nil && l.head < len(l.out) {
		n, err := writeNow(l.fd, l.vector())
		switch {
		case n > 0:
			moved = true
			l.written(n)
		case err == unix.EAGAIN:
			return moved
		case err != nil && err != unix.EINTR:
			l.sendErr = err
		}
	}
	// All is written, or nothing can be any more.
	clear(l.out)
	l.out, l.head = l.out[:0], 0
	return moved
}

// vector lists the next pieces to write, at most writeChunk bytes.
func (l *tcpLink) vector() []unix.Iovec {
	v, room := l.waiter.vector[:0], writeChunk
	for i := l.head; i < len(l.out) && len(v)+2 <= maxVector && room > 0; i++ {
		o := &l.out[i]
		if o.headed > 0 {
			v = append(v, piece(o.header[headerBytes-o.headed:]))
		}
		if n := min(len(o.data), room); n > 0 {
			v = append(v, piece(o.data[:n]))
			room -= n
		}
	}
	return v
}

// written takes n bytes off the queue.
func (l *tcpLink) written(n int) {
	for l.head < len(l.out) {
		o := &l.out[l.head]
		k := min(n, o.headed)
		o.headed -= k
		n -= k
		k = min(n, len(o.data))
		o.data = o.data[k:]
		n -= k
		if o.headed > 0 || len(o.data) > 0 {
			return
		}
		l.head++
	}
}

func (l *tcpLink) flush() error {
	for {
		l.waiter.push()
		if l.head == len(l.out) {
			return l.explain("sending to", l.sendErr)
		}
		if err := l.waiter.wait(l.peer, nil); err != nil {
			return l.explain("sending to", err)
		}
	}
}

func (l *tcpLink) receive(want header) (int, error) {
	if err := l.read(l.headIn[:]); err != nil {
		return 0, err
	}
	got, err := parseHeader(l.headIn[:])
	if err != nil {
		return 0, fmt.Errorf("receiving from rank %d: %w", l.peer, err)
	}
	if err := got.check(&want, l.peer, l.group.name); err != nil {
		return 0, err
	}
	l.received.messages++
	l.received.bytes += int(got.size)
	return int(got.size), nil
}

func (l *tcpLink) read(p []byte) error {
	for {
		n := copy(p, l.in[l.from:l.to])
		l.from += n
		if p = p[n:]; len(p) == 0 {
			return nil
		}
		l.from, l.to = 0, 0
		// What is queued goes first: the other side may wait for it.
		l.waiter.push()
		into := p
		if len(p) < inBytes {
			into = l.in
		}
		n, err := readNow(l.fd, into)
		if n > 0 {
			l.waiter.tries = 0
		}
		switch {
		case n > 0 && len(p) < inBytes:
			l.to = n
		case n > 0:
			p = p[n:]
		case err == nil:
			return l.explain("receiving from", io.EOF)
		case err == unix.EAGAIN:
			if err := l.waiter.wait(l.peer, l); err != nil {
				return l.explain("receiving from", err)
			}
		case err != unix.EINTR:
			return l.explain("receiving from", err)
		}
	}
}

// explain finds the cause behind a failed read or write: the group's, if it is broken; the root's finding, if the peer is
// late; the root's decision, if the connection has ended.
func (l *tcpLink) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	if cause := l.group.broken(); cause != nil {
		return cause
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return l.group.stalled(l.peer)
	}
	if errors.Is(err, io.EOF) {
		// A rank that dies or aborts is in the root's words at once. One that has left in good order is not.
		if cause := l.group.world.causeWithin(leftTime); cause != nil {
			return cause
		}
		return l.group.stalledFor(leftTime, l.peer)
	}
	if cause := l.group.world.causeWithin(graceTime); cause != nil {
		return cause
	}
	return fmt.Errorf("%s rank %d: %w", doing, l.peer, err)
}

func (l *tcpLink) close() { unix.Close(l.fd) }
