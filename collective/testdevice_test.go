package collective

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"lockstep/kernels/device"
)

// testStream is a device.HostStream with a goroutine of its own, as a CPU's is.
type testStream struct {
	name string

	mu       sync.Mutex
	changed  *sync.Cond
	queue    []device.Work
	enqueued uint64
	done     uint64
	err      error
	closed   bool
}

func newTestStream(name string) *testStream {
	s := &testStream{name: name}
	s.changed = sync.NewCond(&s.mu)
	go s.loop()
	return s
}

func (s *testStream) loop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.queue) == 0 && !s.closed {
			s.changed.Wait()
		}
		if len(s.queue) == 0 {
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

func (s *testStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
}

// directStream is a testStream that runs work on the caller's goroutine when it is asked to.
type directStream struct{ *testStream }

func (s directStream) Run(w device.Work) error {
	if err := s.Synchronize(); err != nil {
		return err
	}
	if err := w.Run(); err != nil {
		s.Fail(fmt.Errorf("%s: %w", w.Name(), err))
	}
	return s.Synchronize()
}

func (s *testStream) Name() string { return s.name }

func (s *testStream) Launch(w device.Work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, w)
	s.enqueued++
	s.changed.Broadcast()
}

type waitFor struct{ event device.Event }

func (w waitFor) Name() string                       { return "wait" }
func (w waitFor) Accesses(func(device.Region, bool)) {}
func (w waitFor) Run() error                         { return w.event.Synchronize() }

func (s *testStream) Wait(e device.Event) {
	if e.Stream != nil {
		s.Launch(waitFor{e})
	}
}

func (s *testStream) Record() device.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return device.Event{Stream: s, Ticket: s.enqueued}
}

func (s *testStream) Synchronize() error { return s.SynchronizeTicket(s.Record().Ticket) }

func (s *testStream) SynchronizeTicket(ticket uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.done < ticket {
		s.changed.Wait()
	}
	return s.err
}

func (s *testStream) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// heap is an Allocator on the Go heap.
type heap struct{}

func (heap) Alloc(bytes int) (*device.Storage, error) {
	return device.NewStorage(0, make([]byte, bytes), bytes, nil), nil
}

// memory makes a region that holds b.
func memory(b []byte) device.Region {
	return device.Region{Storage: device.NewStorage(0, b, len(b), nil), Bytes: len(b)}
}

// sum32 is the Reduction that adds float32.
func sum32() Reduction {
	return Reduction{DType: device.Float32, Fold: func(dst, src [][]byte) {
		for at := 0; at < len(dst[0]); at += 4 {
			x := math.Float32frombits(binary.NativeEndian.Uint32(src[0][at:]))
			y := math.Float32frombits(binary.NativeEndian.Uint32(src[1][at:]))
			binary.NativeEndian.PutUint32(dst[0][at:], math.Float32bits(x+y))
		}
	}}
}

// first64 is a Reduction that is neither commutative nor cares for values: it takes 8-byte elements apart into two
// halves and keeps a hash of (lower, higher), so that any other tree or order of operands gives another result.
func first64() Reduction {
	return Reduction{DType: device.Int64, Fold: func(dst, src [][]byte) {
		for at := 0; at < len(dst[0]); at += 8 {
			x := binary.NativeEndian.Uint64(src[0][at:])
			y := binary.NativeEndian.Uint64(src[1][at:])
			binary.NativeEndian.PutUint64(dst[0][at:], hashPair(x, y))
		}
	}}
}

func hashPair(x, y uint64) uint64 {
	h := x*0x9e3779b97f4a7c15 ^ (x >> 29)
	return (h+y)*0xbf58476d1ce4e5b9 ^ (y >> 31)
}
