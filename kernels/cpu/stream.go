package cpu

import (
	"fmt"
	"sync"

	"lockstep/kernels/device"
)

// inlineStream runs work as it is enqueued. It is used by one goroutine.
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
		s.fail(w.Name(), w.Run())
	}
}

func (s *inlineStream) call(c call) {
	if s.err != nil {
		return
	}
	s.current = c
	s.fail(c.name, s.current.run(c.device, &s.current))
}

func (s *inlineStream) fail(name string, err error) {
	if err != nil {
		s.Fail(fmt.Errorf("%s: %w", name, err))
	}
}

// queueStream runs work on a goroutine of its own, which ends when the stream is closed.
type queueStream struct {
	name string

	mu       sync.Mutex
	changed  sync.Cond     // signalled when work arrives, work is done, or the stream closes
	queue    []device.Work // not yet started
	enqueued uint64        // tickets given out
	done     uint64        // tickets finished
	err      error
	closed   bool
}

func newQueueStream(name string) *queueStream {
	s := &queueStream{name: name}
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

// waitWork makes a queue wait for another stream's event.
type waitWork struct{ event device.Event }

func (w waitWork) Name() string                            { return "wait" }
func (w waitWork) Accesses(func(r device.Region, wr bool)) {}
func (w waitWork) Run() error                              { return w.event.Synchronize() }

func (s *queueStream) Wait(e device.Event) {
	if e.Stream != nil && e.Stream != s {
		s.Launch(waitWork{e})
	}
}

func (s *queueStream) Record() device.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return device.Event{Stream: s, Ticket: s.enqueued}
}

func (s *queueStream) Synchronize() error {
	s.mu.Lock()
	ticket := s.enqueued
	s.mu.Unlock()
	return s.SynchronizeTicket(ticket)
}

func (s *queueStream) SynchronizeTicket(ticket uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.done < ticket && !s.closed {
		s.changed.Wait()
	}
	return s.err
}

func (s *queueStream) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// loop runs the work in order; after the first error it only counts it as done.
func (s *queueStream) loop() {
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
		s.queue = s.queue[1:]
		if s.err == nil {
			s.mu.Unlock()
			err := w.Run()
			s.mu.Lock()
			if err != nil && s.err == nil {
				s.err = fmt.Errorf("%s: %w", w.Name(), err)
			}
		}
		s.done++
		s.changed.Broadcast()
	}
}

func (s *queueStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
}
