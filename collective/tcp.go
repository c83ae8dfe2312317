package collective

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// inlineBytes is the largest message, header included, that the stream's goroutine writes itself. It fits the
	// smallest socket buffer, so that two ranks that write to each other before they read do not wait for each other.
	inlineBytes = 4 << 10
	// writeChunk is the most that is written under one deadline: Options.Timeout bounds the time without progress, not
	// the time that a large message takes.
	writeChunk = 1 << 20
	// graceTime is how long a broken connection waits for the root to say who was lost. The root learns of a death at the
	// same time, from the control connection.
	graceTime = 3 * time.Second
)

// A tcpLink is a link over one TCP connection. A goroutine writes, so that sending and receiving overlap and two ranks
// that send large messages to each other cannot deadlock.
type tcpLink struct {
	group *group
	peer  int // the other's rank in the job
	conn  net.Conn
	in    *bufio.Reader

	jobs    chan sendJob
	pending sync.WaitGroup // jobs not yet written
	writer  sync.WaitGroup
	sendErr error // written by whoever writes, read when nothing is pending

	headOut, headIn [headerBytes]byte
	small           [inlineBytes]byte
	vector          [2][]byte   // header and data, for one writev
	buffers         net.Buffers // a view of vector; a field, so that sending does not allocate
}

// A sendJob is what the writer writes next.
type sendJob struct {
	header bool // headOut comes first
	data   []byte
}

func newTCPLink(g *group, peer int, conn net.Conn) *tcpLink {
	// Go sets TCP_NODELAY. Socket buffers are left to the kernel's tuning, which fixed sizes would switch off.
	l := &tcpLink{group: g, peer: peer, conn: conn, in: bufio.NewReaderSize(conn, inlineBytes), jobs: make(chan sendJob, 4)}
	l.writer.Go(func() {
		for job := range l.jobs {
			if l.sendErr == nil {
				l.sendErr = l.write(job)
			}
			l.pending.Done()
		}
	})
	return l
}

func (l *tcpLink) send(h header, data []byte) {
	h.encode(&l.headOut)
	if headerBytes+len(data) > inlineBytes {
		l.enqueue(sendJob{header: true, data: data})
		return
	}
	n := copy(l.small[:], l.headOut[:])
	n += copy(l.small[n:], data)
	if l.sendErr == nil {
		l.sendErr = l.write(sendJob{data: l.small[:n]})
	}
}

func (l *tcpLink) more(data []byte) { l.enqueue(sendJob{data: data}) }

func (l *tcpLink) enqueue(job sendJob) {
	l.pending.Add(1)
	l.jobs <- job // the writer always comes back to it: its writes have deadlines
}

func (l *tcpLink) write(job sendJob) error {
	first := job.data[:min(len(job.data), writeChunk)]
	if job.header {
		l.vector = [2][]byte{l.headOut[:], first}
		l.buffers = l.vector[:]
		if err := l.arm(l.conn.SetWriteDeadline); err != nil {
			return err
		}
		if _, err := l.buffers.WriteTo(l.conn); err != nil {
			return err
		}
		job.data = job.data[len(first):]
	}
	for len(job.data) > 0 {
		if err := l.arm(l.conn.SetWriteDeadline); err != nil {
			return err
		}
		n, err := l.conn.Write(job.data[:min(len(job.data), writeChunk)])
		if err != nil {
			return err
		}
		job.data = job.data[n:]
	}
	return nil
}

// arm sets the deadline of the next read or write. An interrupt sets the group's cause first and expires the deadlines
// then, so that either this check sees the cause or the deadline set here is overridden.
func (l *tcpLink) arm(set func(time.Time) error) error {
	if err := set(time.Now().Add(l.group.world.o.Timeout)); err != nil {
		return err
	}
	return l.group.broken()
}

func (l *tcpLink) flush() error {
	l.pending.Wait()
	return l.explain("sending to", l.sendErr)
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
	return int(got.size), nil
}

func (l *tcpLink) read(p []byte) error {
	for len(p) > 0 {
		if err := l.arm(l.conn.SetReadDeadline); err != nil {
			return l.explain("receiving from", err)
		}
		n, err := l.in.Read(p)
		p = p[n:]
		if err != nil && len(p) > 0 {
			return l.explain("receiving from", err)
		}
	}
	return nil
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
	timer := time.NewTimer(graceTime)
	defer timer.Stop()
	select {
	case <-l.group.world.done:
		return l.group.world.Err()
	case <-l.group.world.closing:
	case <-timer.C:
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it closed the connection")
	}
	return fmt.Errorf("%s rank %d: %w", doing, l.peer, err)
}

func (l *tcpLink) interrupt() {
	// It fails only on a closed connection, where nothing waits.
	_ = l.conn.SetDeadline(time.Unix(1, 0))
}

func (l *tcpLink) close() {
	close(l.jobs)
	l.interrupt()
	l.writer.Wait()
	l.conn.Close()
}
