package collective

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lockstep/kernels/device"
)

// Allocator makes device memory; device.Device is one.
type Allocator interface {
	Alloc(bytes int) (*device.Storage, error)
}

// A FileAllocator is an Allocator that can make memory of the pages of a file, which other processes map as well: the
// devices whose memory is the host's. The descriptor stays the caller's.
type FileAllocator interface {
	Allocator
	AllocFile(fd, bytes int) (*device.Storage, error)
}

// A symmetric is one allocation that each rank of this host made, and that all of them reach.
type symmetric struct {
	storage *device.Storage // this rank's
	peers   []*mapping      // of each of local.ranks, this one included
}

// Alloc returns zeroed memory for buffers that ranks exchange: symmetric memory, which the ranks of a host reach in place,
// where there are others and the device's memory is the host's; else any memory of the device. All ranks call it in the
// same order, one call at a time, each for as many bytes as it needs, and all with the most that one of them takes. Buffers of
// a group may lie anywhere in such memory, on each rank elsewhere, and
// operations on other memory work too; they copy more.
//
// Free releases it for this rank; its pages stay until the other ranks of the host have closed their worlds. After a
// failure in an operation, ranks that still run may write into it until they have left their operations.
func (w *World) Alloc(bytes, most int, on Allocator) (*device.Storage, error) {
	s, err := w.alloc(bytes, most, on)
	if err != nil {
		return nil, fmt.Errorf("allocating %s for exchange: %w", byteSize(bytes), err)
	}
	return s, nil
}

func (w *World) alloc(bytes, most int, on Allocator) (*device.Storage, error) {
	if bytes > most {
		return nil, fmt.Errorf("that is more than the %d bytes that a rank takes at most", most)
	}
	mapper, ok := on.(FileAllocator)
	if !ok || w.local.ranks == nil {
		return on.Alloc(bytes)
	}
	before := w.allocated()
	ctx, cancel := w.bounded()
	defer cancel()
	id := groupID("symmetric memory", w.local.ranks, len(before))
	late := func(rank int) error {
		report := fmt.Sprintf("no progress for %v: rank %d has not called Alloc; all ranks must make the same allocations in the same order", w.o.Timeout, rank)
		return &TimeoutError{Ranks: []int{rank}, Report: report}
	}
	storage, peers, err := w.local.sharing.symmetric(ctx, id, w.local.ranks, bytes, most, mapper, late)
	if err != nil {
		return nil, err
	}
	after := append(slices.Clip(before), &symmetric{storage, peers})
	w.memory.Store(&after)
	return storage, nil
}

// allocated returns what was allocated so far, in order.
func (w *World) allocated() []*symmetric {
	if all := w.memory.Load(); all != nil {
		return *all
	}
	return nil
}

// SymmetricBytes returns how much symmetric memory this rank has allocated. Its pages show in every rank of the host that reaches them.
func (w *World) SymmetricBytes() (bytes int) {
	for _, s := range w.allocated() {
		bytes += s.storage.Bytes()
	}
	return bytes
}

// bounded returns a context that ends after Options.Timeout or with the job.
func (w *World) bounded() (context.Context, context.CancelFunc) {
	deadline := time.Now().Add(w.o.Timeout)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	w.watcher.Go(func() {
		select {
		case <-w.done:
		case <-w.closing:
		case <-ctx.Done():
		}
		cancel()
	})
	return ctx, cancel
}

// place returns which allocation a region lies in and where, in one word, nowhere if it is in no symmetric memory.
func (w *World) place(r device.Region) uint64 {
	if r.Storage == nil {
		return nowhere
	}
	for i, s := range w.allocated() {
		if s.storage == r.Storage {
			return uint64(i+1)<<placeBits | uint64(r.Offset)
		}
	}
	return nowhere
}

// placeBits is how many bits of a place are the offset.
const placeBits = 48

// nowhere is the place of a region that peers do not reach.
const nowhere = uint64(0)

// at returns the bytes [from, to) at a place in the memory of a rank of this host, given by its index among them.
func (w *World) at(place uint64, local, from, to int) []byte {
	s := w.allocated()[place>>placeBits-1]
	offset := int(place & (1<<placeBits - 1))
	return s.peers[local].mem[offset+from : offset+to : offset+to]
}

// unmap gives up what Alloc mapped of other ranks' memory. No operation runs any more.
func (w *World) unmap() error {
	var first error
	for _, s := range w.allocated() {
		if err := closeMappings(s.peers); first == nil {
			first = err
		}
	}
	return first
}
