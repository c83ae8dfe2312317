package collective

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spinTries is how often a wait looks again before it sleeps, where every rank of the host can have a core of its own: to
	// fall asleep and be woken takes longer than most messages. Some looks offer the core to others first, in case the
	// kernel has put the rank that is waited for on the same one.
	spinTries   = 1000
	spinsAYield = 10
	// yieldTries is how often it looks where ranks share cores, each time after it has offered its core.
	yieldTries = 50
)

// A tcpWaiter waits for all TCP links of a group at once. It belongs to the group's stream, but for interrupt.
type tcpWaiter struct {
	group   *group
	wake    int        // an eventfd that ends every wait of the group
	spin    int        // how often to look before sleeping
	yield   int        // at every how many of these looks to offer the core
	sending []*tcpLink // with something queued

	vector [maxVector]unix.Iovec
	polled []unix.PollFd
	tries  int // since something moved
}

// tcpWaiter returns the group's waiter, made with its first link.
func (g *group) tcpWaiter() (*tcpWaiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiter != nil {
		return g.waiter, nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("making an eventfd: %w", err)
	}
	g.waiter = &tcpWaiter{group: g, wake: fd, spin: yieldTries, yield: 1}
	if g.world.o.Place.LocalSize <= g.world.cores {
		g.waiter.spin, g.waiter.yield = spinTries, spinsAYield
	}
	if g.broken() != nil {
		g.waiter.interrupt()
	}
	return g.waiter, nil
}

// interrupt ends every wait, the present one and those to come; the group's cause has been set before.
func (w *tcpWaiter) interrupt() {
	// It fails only when the counter is full, and then the eventfd is readable as it should be.
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// push writes what it can on all links.
func (w *tcpWaiter) push() {
	left := w.sending[:0]
	for _, l := range w.sending {
		if l.push() {
			w.tries = 0
		}
		if len(l.out) > 0 {
			left = append(left, l)
		} else {
			l.queued = false
		}
	}
	clear(w.sending[len(left):])
	w.sending = left
}

// wait returns when the link in can perhaps be read (unless nil), a link with something queued can perhaps be written, or
// the group is broken, which is an error like a time without any of them.
func (w *tcpWaiter) wait(peer int, in *tcpLink) error {
	if cause := w.group.broken(); cause != nil {
		return cause
	}
	if w.tries < w.spin {
		if w.tries++; w.tries%w.yield == 0 {
			yield()
		}
		return nil
	}
	w.tries = 0
	w.polled = append(w.polled[:0], unix.PollFd{Fd: int32(w.wake), Events: unix.POLLIN})
	if in != nil {
		w.polled = append(w.polled, unix.PollFd{Fd: int32(in.fd), Events: unix.POLLIN})
	}
	for _, l := range w.sending {
		if in != nil && l == in {
			w.polled[1].Events |= unix.POLLOUT
			continue
		}
		w.polled = append(w.polled, unix.PollFd{Fd: int32(l.fd), Events: unix.POLLOUT})
	}
	deadline := time.Now().Add(w.group.world.o.Timeout)
	for {
		n, err := unix.Poll(w.polled, int(max(1, time.Until(deadline).Milliseconds()+1)))
		switch {
		case n > 0:
			return w.group.broken()
		case err == unix.EINTR && time.Now().Before(deadline):
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("waiting for rank %d: %w", peer, err)
		case !time.Now().Before(deadline):
			return os.ErrDeadlineExceeded
		}
	}
}

// close releases the eventfd. No work runs, and nobody interrupts any more.
func (w *tcpWaiter) close() { unix.Close(w.wake) }
