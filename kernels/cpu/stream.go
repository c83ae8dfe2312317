package cpu

import (
	"fmt"
	"sync"
	"time"

	"lockstep/kernels/device"
)

var _ device.TimedStream = (*inlineStream)(nil)

// inlineStream runs work as it is enqueued, so that nothing is ever outstanding. It is used by one goroutine.
type inlineStream struct {
	name    string
	err     error
	waited  time.Duration
	current call // the running call; kept here so that launching one does not allocate
}

func (s *inlineStream) Name() string { return s.name }

// Record returns the done event: nothing is ever outstanding. An event of a failed stream carries the failure.
func (s *inlineStream) Record() device.Event {
	if s.err != nil {
		return device.Event{Stream: s}
	}
	return device.Event{}
}

func (s *inlineStream) Wait(e device.Event) {
	if e.Stream == nil || e.Stream == s {
		return
	}
	began := time.Now()
	if err := e.Synchronize(); err != nil {
		s.Fail(err)
	}
	s.waited += time.Since(began)
}

// Waited implements device.TimedStream.
func (s *inlineStream) Waited() time.Duration { return s.waited }

func (s *inlineStream) Synchronize() error { return s.err }

func (s *inlineStream) SynchronizeTicket(uint64) error { return s.err }

func (s *inlineStream) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Launch runs w.
func (s *inlineStream) Launch(w device.Work) {
	if s.err == nil {
		s.Fail(entry{work: w}.run())
	}
}

func (s *inlineStream) call(c call) {
	if s.err != nil {
		return
	}
	s.current = c
	if err := s.current.Run(); err != nil {
		s.Fail(fmt.Errorf("%s: %w", c.name, err))
	}
}

// copy copies between a region's memory and the host's.
func (s *inlineStream) copy(name string, dst, src []byte) {
	switch {
	case s.err != nil:
	case len(dst) != len(src):
		s.Fail(fmt.Errorf("%s: copying %d bytes to %d", name, len(src), len(dst)))
	default:
		copy(dst, src)
	}
}

// queueStream runs work on a goroutine of its own, which ends when the stream is closed.
type queueStream struct {
	name  string
	ended chan struct{} // closed when the goroutine is gone

	mu       sync.Mutex
	changed  sync.Cond // signalled when work arrives, work is done, or the stream closes
	queue    []entry
	head     int    // of queue: the first that has not been taken
	enqueued uint64 // tickets given out
	done     uint64 // tickets finished
	err      error
	failed   uint64 // the ticket whose work failed
	lent     bool   // a caller's goroutine runs work, see Run
	waiting  int    // goroutines that wait for work to end
	closed   bool
}

var _ device.DirectStream = (*queueStream)(nil)

func newQueueStream(name string) *queueStream {
	s := &queueStream{name: name, ended: make(chan struct{})}
	s.changed.L = &s.mu
	go s.loop()
	return s
}

func (s *queueStream) Name() string { return s.name }

// An entry of a queue is a piece of work, an event to wait for, or the stream's failure.
type entry struct {
	work  device.Work
	event device.Event
	err   error
}

// run does what the entry says. An error that came from elsewhere is the stream's as it is; that of work is named.
func (e entry) run() error {
	switch {
	case e.err != nil:
		return e.err
	case e.work == nil:
		return e.event.Synchronize()
	}
	if err := e.work.Run(); err != nil {
		return fmt.Errorf("%s: %w", e.work.Name(), err)
	}
	return nil
}

// Launch enqueues w.
func (s *queueStream) Launch(w device.Work) { s.enqueue(entry{work: w}) }

func (s *queueStream) Wait(e device.Event) {
	if e.Stream != nil && e.Stream != s {
		s.enqueue(entry{event: e})
	}
}

// Fail makes err the stream's error once the work enqueued before it has run.
func (s *queueStream) Fail(err error) { s.enqueue(entry{err: err}) }

func (s *queueStream) enqueue(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0 // reuse the memory
	}
	s.queue = append(s.queue, e)
	s.enqueued++
	s.changed.Broadcast()
}

func (s *queueStream) Record() device.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return device.Event{Stream: s, Ticket: s.enqueued}
}

func (s *queueStream) Synchronize() error { return s.SynchronizeTicket(s.Record().Ticket) }

func (s *queueStream) SynchronizeTicket(ticket uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.await(ticket)
	switch {
	case s.err != nil && s.failed <= ticket:
		return s.err
	case s.done < ticket:
		return fmt.Errorf("stream %s was closed with work outstanding", s.name)
	}
	return nil
}

// await waits until ticket is done or the stream is closed.
func (s *queueStream) await(ticket uint64) {
	s.waiting++
	for s.done < ticket && !s.closed {
		s.changed.Wait()
	}
	s.waiting--
}

// loop runs the work in order; after the first error it only counts it as done.
func (s *queueStream) loop() {
	defer close(s.ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for (s.head == len(s.queue) || s.lent) && !s.closed {
			s.changed.Wait()
		}
		if s.closed {
			return
		}
		e := s.queue[s.head]
		s.queue[s.head] = entry{} // what the work holds may be freed
		s.head++
		s.finish(e)
		s.changed.Broadcast()
	}
}

// finish runs the entry that is next, without holding mu, unless the stream has failed.
func (s *queueStream) finish(e entry) {
	if s.err == nil {
		s.mu.Unlock()
		err := e.run()
		s.mu.Lock()
		if err != nil {
			s.err, s.failed = err, s.done+1
		}
	}
	s.done++
}

// Run runs w on the caller's goroutine, after the work enqueued so far. The stream's own goroutine sleeps on: to wake it
// would take longer than many a small piece of work.
func (s *queueStream) Run(w device.Work) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.await(s.enqueued)
	if s.closed {
		return fmt.Errorf("stream %s was closed", s.name)
	}
	s.enqueued++
	s.lent = true
	s.finish(entry{work: w})
	s.lent = false
	if s.head < len(s.queue) || s.waiting > 0 || s.closed {
		s.changed.Broadcast() // for what came meanwhile
	}
	return s.err
}

// close ends the stream after the work that is running. What is still queued never runs.
func (s *queueStream) close() {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.ended
}
