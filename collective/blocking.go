package collective

import (
	"time"

	"lockstep/kernels/device"
)

// A blockingStream is a group's stream as Group.Blocking uses it: work has run when Launch returns, on the caller's
// goroutine if the stream is a device.DirectStream. To hand work over to the stream's goroutine and back takes several
// microseconds, an all-reduce of a few KiB in shared memory less than one.
type blockingStream struct {
	device.HostStream
	world  *World
	failed bool
}

// Launch runs w to its end.
func (s *blockingStream) Launch(w device.Work) {
	if s.world.o.TimeBlocking {
		began := time.Now()
		defer func() { s.world.blocked.Add(int64(time.Since(began))) }()
	}
	var err error
	if direct, ok := s.HostStream.(device.DirectStream); ok {
		err = direct.Run(w)
	} else {
		s.HostStream.Launch(w)
		err = s.HostStream.Synchronize()
	}
	s.failed = s.failed || err != nil
}

// Wait waits for the event. A failure that it carries becomes the stream's.
func (s *blockingStream) Wait(e device.Event) {
	if err := e.Synchronize(); err != nil && e.Stream != s.HostStream {
		s.Fail(err)
	}
}

// Fail makes err the stream's error.
func (s *blockingStream) Fail(err error) {
	s.HostStream.Fail(err)
	s.failed = true
}

// Record returns the done event, or one that carries the failure.
func (s *blockingStream) Record() device.Event {
	if s.failed {
		return s.HostStream.Record()
	}
	return device.Event{}
}
