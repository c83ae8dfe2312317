package deferred

import (
	"sort"
	"time"

	"lockstep/kernels/device"
)

// lag is how long work stays put when nobody waits for it. It must start some time: a collective on this stream may be
// what another process waits for.
const lag = time.Millisecond

// A stream holds work back in front of one of the CPU's queues and hands it over, in order, when it is waited for. Its
// tickets are the queue's.
type stream struct {
	device *Device
	id     int // index of this stream's component in clocks
	queue  device.HostStream

	// All below is guarded by device.mu.
	pending  []entry
	enqueued uint64 // tickets given out
	released uint64 // tickets handed to the queue
	timer    *time.Timer
	failed   bool // work enqueued from now on will be skipped
	stopped  bool

	clock   clock      // what work enqueued from now on is ordered after
	history []snapshot // clocks of the past, oldest first
}

// An entry is work, a wait, or a failure.
type entry struct {
	work device.Work
	wait device.Event
	err  error
}

// NewStream returns a stream with a worker of its own.
func (d *Device) NewStream(name string) device.Stream {
	queue := d.cpu.NewStream(name).(device.HostStream) // the CPU has no other kind
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &stream{device: d, id: len(d.streams), queue: queue}
	d.streams = append(d.streams, s)
	return s
}

func (s *stream) Name() string { return s.queue.Name() }

// Launch enqueues w, or a failure in its place if nothing orders it after work of another stream that it conflicts with.
func (s *stream) Launch(w device.Work) {
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	if !s.failed {
		if err := s.claim(w); err != nil {
			s.failed = true
			s.push(entry{err: err})
			return
		}
	}
	s.push(entry{work: w})
}

// Wait makes work enqueued from now on wait for e.
func (s *stream) Wait(e device.Event) {
	if e.Stream == nil || e.Stream == s {
		return
	}
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	s.push(entry{wait: e})
	if other := s.device.own(e.Stream); other != nil {
		s.clock.join(other.clockAt(e.Ticket))
		s.remember()
	}
}

// Fail makes err the stream's error once the work enqueued before it has run.
func (s *stream) Fail(err error) {
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	s.failed = true
	s.push(entry{err: err})
}

func (s *stream) Record() device.Event {
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	return device.Event{Stream: s, Ticket: s.enqueued}
}

func (s *stream) Synchronize() error { return s.SynchronizeTicket(s.Record().Ticket) }

func (s *stream) SynchronizeTicket(ticket uint64) error {
	s.device.mu.Lock()
	s.release(ticket)
	seen := s.clockAt(ticket)
	s.device.mu.Unlock()
	err := s.queue.SynchronizeTicket(ticket)
	s.device.mu.Lock()
	defer s.device.mu.Unlock()
	s.device.host.join(seen)
	return err
}

// own returns s if it is a stream of this device, else nil.
func (d *Device) own(s device.Stream) *stream {
	if own, ok := s.(*stream); ok && own.device == d {
		return own
	}
	return nil
}

func (s *stream) push(e entry) {
	s.pending = append(s.pending, e)
	s.enqueued++
	if s.timer == nil && !s.stopped {
		s.timer = time.AfterFunc(lag, func() {
			s.device.mu.Lock()
			defer s.device.mu.Unlock()
			s.timer = nil
			if !s.stopped {
				s.release(s.enqueued)
			}
		})
	}
}

// release hands the entries up to ticket to the queue, and first what they wait for on other streams. An event is always
// older than the wait for it, so this ends.
func (s *stream) release(ticket uint64) {
	for s.released < ticket && len(s.pending) > 0 {
		e := s.pending[0]
		s.pending[0] = entry{}
		s.pending = s.pending[1:]
		s.released++
		switch {
		case e.work != nil:
			s.queue.Launch(e.work)
		case e.err != nil:
			s.queue.Fail(e.err)
		default:
			if other := s.device.own(e.wait.Stream); other != nil {
				other.release(e.wait.Ticket)
				e.wait.Stream = other.queue
			}
			s.queue.Wait(e.wait)
		}
	}
}

// stop keeps the stream from handing over anything more.
func (s *stream) stop() {
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// A snapshot is a stream's clock from ticket on, until the next snapshot.
type snapshot struct {
	ticket uint64
	clock  clock
}

// remember keeps the clock for events recorded from now on, and forgets those that can no longer matter: an event up to a
// ticket that the host has waited for orders nothing that the host's wait does not.
func (s *stream) remember() {
	done := s.device.host.at(s.id)
	old := 0
	for old+1 < len(s.history) && s.history[old+1].ticket <= done {
		old++
	}
	s.history = append(s.history[old:], snapshot{ticket: s.enqueued, clock: s.clock.clone()})
}

// clockAt returns what is ordered before an event with the given ticket.
func (s *stream) clockAt(ticket uint64) clock {
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].ticket > ticket })
	var c clock
	if i > 0 {
		c = s.history[i-1].clock.clone()
	}
	c.set(s.id, ticket)
	return c
}
