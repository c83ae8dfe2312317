package kernels

import "lockstep/kernels/device"

// arenaAlign is the alignment of every tensor in an Arena, in bytes: whole cache lines on CPUs, whole blocks on NPUs.
const arenaAlign = 512

// An Arena lays out tensors one after the other in one allocation, before the first step; it never frees. An Arena
// without memory (the zero value) only measures: the same code run first over a measuring arena, then over one of the
// size measured, plans and places a step's memory.
type Arena struct {
	storage    *device.Storage
	start      int // of this arena in storage
	used, high int
}

// NewArena returns an arena over storage.
func NewArena(storage *device.Storage) *Arena { return &Arena{storage: storage} }

// After returns an arena over the same storage that begins the given number of bytes after a does: one allocation can hold
// several arenas whose sizes were measured.
func (a *Arena) After(bytes int) *Arena { return &Arena{storage: a.storage, start: a.start + bytes} }

// Tensor places a dense tensor. In an arena without memory its Storage is nil.
func (a *Arena) Tensor(dtype device.DType, shape ...int) Tensor {
	t := NewTensor(a.storage, a.start+a.used, dtype, shape...)
	a.used += (t.Bytes() + arenaAlign - 1) / arenaAlign * arenaAlign
	a.high = max(a.high, a.used)
	if a.storage != nil && a.start+a.used > a.storage.Bytes() {
		panic("kernels: an arena is smaller than what was measured for it")
	}
	return t
}

// Mark returns the place where the next tensor goes.
func (a *Arena) Mark() int { return a.used }

// Release gives back all that was placed since mark, so that what comes next lies in the same memory. Two uses of one
// stretch of memory must be ordered by the stream that does the work.
func (a *Arena) Release(mark int) { a.used = mark }

// Reserve moves the place where the next tensor goes past everything that was ever placed.
func (a *Arena) Reserve() { a.used = a.high }

// Bytes returns the most that was in use at once.
func (a *Arena) Bytes() int { return a.high }
