package collective

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync"
	"unsafe"

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

// AllocFile makes heap a FileAllocator. With heapSharing there are no files.
func (heap) AllocFile(fd, bytes int) (*device.Storage, error) {
	m, err := (&memoryFile{fd}).mapped(max(bytes, 1))
	if err != nil {
		return nil, err
	}
	return device.NewStorage(0, m.mem[:bytes], bytes, m.close), nil
}

// heapSharing is sharing in the Go heap, between ranks of one process: the race detector sees what they do to it.
type heapSharing struct {
	mu      sync.Mutex
	changed sync.Cond
	made    map[uint64][][]byte
}

func newHeapSharing() *heapSharing {
	h := &heapSharing{made: map[uint64][][]byte{}}
	h.changed.L = &h.mu
	return h
}

// heapRank is one rank's view of a heapSharing.
type heapRank struct {
	*heapSharing
	rank int
}

func (h heapRank) common(_ context.Context, id uint64, _ []int, bytes int, _ func(int) error) (*mapping, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.made[id] == nil {
		h.made[id] = [][]byte{alignedBytes(bytes)}
	}
	return &mapping{mem: h.made[id][0]}, nil
}

func (h heapRank) symmetric(_ context.Context, id uint64, ranks []int, bytes, _ int, _ FileAllocator, _ func(int) error) (*device.Storage, []*mapping, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.made[id] == nil {
		h.made[id] = make([][]byte, len(ranks))
	}
	mine := alignedBytes(bytes)
	h.made[id][slices.Index(ranks, h.rank)] = mine
	h.changed.Broadcast()
	for slices.ContainsFunc(h.made[id], func(b []byte) bool { return b == nil }) {
		h.changed.Wait()
	}
	var all []*mapping
	for _, b := range h.made[id] {
		all = append(all, &mapping{mem: b})
	}
	return device.NewStorage(0, mine, bytes, nil), all, nil
}

// alignedBytes returns zeroed memory that begins at a cache line.
func alignedBytes(n int) []byte {
	b := make([]byte, n+2*lineBytes)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (2*lineBytes - 1)
	return b[skip : skip+n : skip+n]
}

// memory makes a region that holds b.
func memory(b []byte) device.Region {
	return device.Region{Storage: device.NewStorage(0, b, len(b), nil), Bytes: len(b)}
}

// sum32 is the Reduction that adds float32.
func sum32() Reduction {
	return Reduction{DType: device.Float32, Fold: foldWith(4, func(to, x, y []byte) {
		sum := math.Float32frombits(binary.NativeEndian.Uint32(x)) + math.Float32frombits(binary.NativeEndian.Uint32(y))
		binary.NativeEndian.PutUint32(to, math.Float32bits(sum))
	})}
}

// first64 is a Reduction that is neither commutative nor cares for values: it takes 8-byte elements apart into two
// halves and keeps a hash of (lower, higher), so that any other tree or order of operands gives another result.
func first64() Reduction {
	return Reduction{DType: device.Int64, Fold: foldWith(8, func(to, x, y []byte) {
		binary.NativeEndian.PutUint64(to, hashPair(binary.NativeEndian.Uint64(x), binary.NativeEndian.Uint64(y)))
	})}
}

// foldWith makes the Fold of an operation on two elements.
func foldWith(size int, combine func(to, x, y []byte)) func(dst, src [][]byte) {
	return func(dst, src [][]byte) {
		var element [64][8]byte
		n, core := len(src), 1<<(bits.Len(uint(len(src)))-1)
		for at := 0; at < len(dst[0]); at += size {
			for i := range core {
				copy(element[i][:], src[i][at:at+size])
				if i+core < n {
					combine(element[i][:], element[i][:], src[i+core][at:])
				}
			}
			for distance := 1; distance < core; distance *= 2 {
				for i := 0; i < core; i += 2 * distance {
					combine(element[i][:], element[i][:], element[i+distance][:])
				}
			}
			for _, d := range dst {
				copy(d[at:at+size], element[0][:])
			}
		}
	}
}

func hashPair(x, y uint64) uint64 {
	h := x*0x9e3779b97f4a7c15 ^ (x >> 29)
	return (h+y)*0xbf58476d1ce4e5b9 ^ (y >> 31)
}
