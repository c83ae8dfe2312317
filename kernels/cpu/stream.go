package cpu

import (
	"fmt"
	"sync"

	"lockstep/kernels/device"
)

// inlineStream runs work as it is enqueued, so that nothing is ever outstanding. It is used by one goroutine.
type inlineStream struct {
	name    string
	err     error
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
	if e.Stream == s {
		return
	}
	if err := e.Synchronize(); err != nil {
		s.Fail(err)
	}
}

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
		s.Fail(run(w))
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

// queueStream runs work on a goroutine of its own, which ends when the stream is closed.
type queueStream struct {
	name  string
	ended chan struct{} // closed when the goroutine is gone

	mu       sync.Mutex
	changed  sync.Cond // signalled when work arrives, work is done, or the stream closes
	queue    []device.Work
	enqueued uint64 // tickets given out
	done     uint64 // tickets finished
	err      error
	failed   uint64 // the ticket whose work failed
	closed   bool
}

func newQueueStream(name string) *queueStream {
	s := &queueStream{name: name, ended: make(chan struct{})}
	s.changed.L = &s.mu
	go s.loop()
	return s
}

func (s *queueStream) Name() string { return s.name }

// Launch enqueues w.
func (s *queueStream) Launch(w device.Work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, w)
	s.enqueued++
	s.changed.Broadcast()
}

// A control is an entry of a queue that moves no data. Its error becomes the stream's as it is.
type control func() error

func (control) Name() string                             { return "control" }
func (control) Accesses(func(r device.Region, wrt bool)) {}
func (c control) Run() error                             { return c() }

func (s *queueStream) Wait(e device.Event) {
	if e.Stream != nil && e.Stream != s {
		s.Launch(control(e.Synchronize))
	}
}

// Fail makes err the stream's error once the work enqueued before it has run.
func (s *queueStream) Fail(err error) { s.Launch(control(func() error { return err })) }

func (s *queueStream) Record() device.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return device.Event{Stream: s, Ticket: s.enqueued}
}

func (s *queueStream) Synchronize() error { return s.SynchronizeTicket(s.Record().Ticket) }

func (s *queueStream) SynchronizeTicket(ticket uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.done < ticket && !s.closed {
		s.changed.Wait()
	}
	switch {
	case s.err != nil && s.failed <= ticket:
		return s.err
	case s.done < ticket:
		return fmt.Errorf("stream %s was closed with work outstanding", s.name)
	}
	return nil
}

// loop runs the work in order; after the first error it only counts it as done.
func (s *queueStream) loop() {
	defer close(s.ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.queue) == 0 && !s.closed {
			s.changed.Wait()
		}
		if s.closed {
			return
		}
		w := s.queue[0]
		s.queue[0] = nil // what the work holds may be freed
		s.queue = s.queue[1:]
		if s.err == nil {
			s.mu.Unlock()
			err := run(w)
			s.mu.Lock()
			if err != nil {
				s.err, s.failed = err, s.done+1
			}
		}
		s.done++
		s.changed.Broadcast()
	}
}

// run runs w and names it in its error.
func run(w device.Work) error {
	err := w.Run()
	if _, ok := w.(control); ok || err == nil {
		return err
	}
	return fmt.Errorf("%s: %w", w.Name(), err)
}

// close ends the stream after the work that is running. What is still queued never runs.
func (s *queueStream) close() {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.ended
}
