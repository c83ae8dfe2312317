// Package device is the ground floor of Lockstep: what memory, streams and events are on any kind of device.
//
// A Device hands out Storage, which is memory that only the device may touch, and Streams, which are queues of work. Work
// on one stream runs in the order in which it was enqueued; work on two streams runs in any order, unless one of them
// waits for an Event of the other. Enqueueing returns at once and never reports an error: the first failure sticks to its
// stream, everything enqueued after it is skipped, streams that wait for the failed one fail with it, and Synchronize
// returns it. Host code sees device memory through Read and Write only.
//
// Operators (package kernels) and collectives (package collective) are both written against this package, and neither
// knows the other: they meet in Region, which says what a piece of work reads and writes, and in Event.
package device

import (
	"time"
	"unsafe"
)

// A Device owns memory and makes streams. Devices are safe for concurrent use; each Stream belongs to one goroutine at a
// time.
type Device interface {
	// Name identifies the device in messages, such as "cpu (avx2, 2 threads)".
	Name() string
	// Alloc returns zeroed memory, aligned to at least 64 bytes.
	Alloc(bytes int) (*Storage, error)
	// NewStream makes a stream whose work overlaps with that of others. The name appears in errors.
	NewStream(name string) Stream
	// Write enqueues a copy of src to dst, whose sizes must be equal. src may be reused as soon as Write returns.
	Write(s Stream, dst Region, src []byte)
	// Read enqueues a copy of src to dst, whose sizes must be equal, and waits for it. It returns the stream's error.
	Read(s Stream, dst []byte, src Region) error
	// Close frees what the device holds, its storages included. Streams must be idle.
	Close() error
}

// A Stream is a queue of work on a device.
type Stream interface {
	// Name returns the name given to NewStream.
	Name() string
	// Record returns an event that is done when all work enqueued so far is.
	Record() Event
	// Wait makes work enqueued from now on wait for e. If e's stream has failed, this stream fails with the same error.
	Wait(e Event)
	// Synchronize waits for all work enqueued so far and returns the stream's first error, which stays.
	Synchronize() error
	// SynchronizeTicket waits for the work up to ticket, which an Event of this stream carries.
	SynchronizeTicket(ticket uint64) error
	// Fail makes err the stream's error, unless it has one.
	Fail(err error)
}

// A TimedStream is a Stream that knows how long its work has stood still for events of other streams.
type TimedStream interface {
	Stream
	// Waited returns that time, of all waits so far.
	Waited() time.Duration
}

// An Event marks a point in a stream. The zero Event is done.
type Event struct {
	// Stream is the stream that recorded the event, nil for an event that is done.
	Stream Stream
	// Ticket is the stream's own name for the point.
	Ticket uint64
}

// Synchronize waits for the event on the host and returns the error of its stream, if that failed before the event.
func (e Event) Synchronize() error {
	if e.Stream == nil {
		return nil
	}
	return e.Stream.SynchronizeTicket(e.Ticket)
}

// A HostStream is a Stream that runs Go code in its order, on a device whose memory the host can address. The CPU's
// operators and the collectives over TCP and shared memory run on one.
type HostStream interface {
	Stream
	// Launch enqueues w. It may run before Launch returns; callers may not rely on that.
	Launch(w Work)
}

// A DirectStream is a HostStream that can lend itself to the caller's goroutine.
type DirectStream interface {
	HostStream
	// Run waits for the work enqueued so far, runs w before it returns, without handing it to another goroutine, and
	// returns the stream's error.
	Run(w Work) error
}

// Work is a piece of Go code in a HostStream.
type Work interface {
	// Name names the work in errors, such as "RMSNorm" or "all-reduce".
	Name() string
	// Accesses calls visit for each region that Run reads or writes.
	Accesses(visit func(r Region, write bool))
	// Run does the work. Only here may memory be reached through Region.Mapped.
	Run() error
}

// Storage is one allocation of device memory.
type Storage struct {
	address uintptr
	mapped  []byte
	bytes   int
	free    func() error
}

// NewStorage describes bytes of memory at address, for use by devices. mapped is where running work reaches it: the same
// memory on a CPU, a second mapping on a device that guards the first, nil where the host cannot address device memory.
// free releases the memory and may be nil.
func NewStorage(address uintptr, mapped []byte, bytes int, free func() error) *Storage {
	return &Storage{address: address, mapped: mapped, bytes: bytes, free: free}
}

// Bytes returns the size.
func (s *Storage) Bytes() int { return s.bytes }

// Address returns the device's address of the first byte. It is a name, not a way to the contents: host code that reads
// through it sees stale data on some devices and faults on others.
func (s *Storage) Address() uintptr { return s.address }

// Free releases the memory. No work may use it any more.
func (s *Storage) Free() error {
	if s.free == nil {
		return nil
	}
	free := s.free
	s.free, s.mapped = nil, nil
	return free()
}

// A Region is a range of bytes in a Storage.
type Region struct {
	Storage *Storage
	Offset  int
	Bytes   int
}

// Mapped returns the region's memory, for code that runs as Work in a stream: operators, transports, reducers. It is nil
// where the host cannot address the device's memory.
func (r Region) Mapped() []byte {
	if r.Storage == nil || r.Storage.mapped == nil {
		return nil
	}
	return r.Storage.mapped[r.Offset : r.Offset+r.Bytes : r.Offset+r.Bytes]
}

// Slice returns the bytes [from, to) of the region as a region.
func (r Region) Slice(from, to int) Region {
	return Region{Storage: r.Storage, Offset: r.Offset + from, Bytes: to - from}
}

// Overlaps reports whether the two regions share a byte.
func (r Region) Overlaps(o Region) bool {
	return r.Storage == o.Storage && r.Bytes > 0 && o.Bytes > 0 && r.Offset < o.Offset+o.Bytes && o.Offset < r.Offset+r.Bytes
}

// BytesOf returns the memory of a slice of fixed-size numbers, to be handed to Read and Write.
func BytesOf[T ~float32 | ~float64 | ~int32 | ~int64 | ~uint16 | ~uint8](x []T) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), len(x)*int(unsafe.Sizeof(x[0])))
}
