// Package cpu implements the operators of package kernels on CPUs, in Go and Go assembly.
//
// Each operator is a method of Device that checks its operands and launches a call: a small fixed-size record of what to
// compute. On a plain stream of this package the call runs before the method returns, with no hand-off and no allocation;
// on any other device.HostStream (another stream's goroutine, or the deferred test device) it runs when its turn comes.
//
// Inside an operator each output element is computed by one thread, in an order that depends on the shape alone: sums are
// cut by the shape, never by the number of threads, and results do not depend on it.
//
// The innermost loops are functions of a kernelSet, one table for each kind of vector unit: plain Go, and assembly that
// package gen writes. MatMul and Attention share the register tiles of gemm_tile.go.
package cpu

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Options configure a Device. The zero value is one thread and the best kernel set of this machine.
type Options struct {
	// Threads is the number of threads that share an operator's work; 0 means 1.
	Threads int
	// KernelSet chooses the arithmetic by name; "" means the best that this machine and build have. See KernelSets.
	KernelSet string
	// BFloat16 says that products may be asked for in bfloat16 (see kernels.MatMulOptions). Without it, the best kernel set is
	// one that makes none, so that work in float32 has the same bits, by the same name, on machines with and without such kernels.
	BFloat16 bool
}

// Device is the CPU.
type Device struct {
	set  *kernelSet
	pool *pool
	// order is EmbeddingBackward's.
	order idOrder

	mu      sync.Mutex
	storage map[*device.Storage][]byte // what Alloc mapped, for Close
	queues  []*queueStream
}

var _ kernels.Device = (*Device)(nil)

// New returns a CPU device. Close frees its memory and ends its threads.
func New(o Options) (*Device, error) {
	set, err := chooseKernelSet(o.KernelSet, o.BFloat16)
	if err != nil {
		return nil, err
	}
	p, err := newPool(max(o.Threads, 1))
	if err != nil {
		return nil, err
	}
	return &Device{set: set, pool: p, storage: map[*device.Storage][]byte{}}, nil
}

// Name returns a name such as "cpu (avx2, 2 threads)".
func (d *Device) Name() string {
	plural := "s"
	if len(d.pool.workers) == 1 {
		plural = ""
	}
	return fmt.Sprintf("cpu (%s, %d thread%s)", d.set.name, len(d.pool.workers), plural)
}

// KernelSet returns the name of the kernel set in use.
func (d *Device) KernelSet() string { return d.set.name }

// Alloc maps zeroed memory outside the Go heap.
func (d *Device) Alloc(bytes int) (*device.Storage, error) {
	mem, err := mapMemory(bytes)
	if err != nil {
		return nil, fmt.Errorf("cpu: allocating %d bytes: %w", bytes, err)
	}
	return d.store(mem, bytes), nil
}

// AllocFile maps the first bytes of a file, which other processes may map as well. The descriptor stays the caller's, who
// may close it at once.
func (d *Device) AllocFile(fd, bytes int) (*device.Storage, error) {
	mem, err := unix.Mmap(fd, 0, max(bytes, 1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cpu: mapping %d bytes of a file: %w", bytes, err)
	}
	return d.store(mem, bytes), nil
}

// store makes a storage of mapped memory, which Free or Close unmaps.
func (d *Device) store(mem []byte, bytes int) *device.Storage {
	var s *device.Storage
	s = device.NewStorage(addressOf(mem), mem[:bytes], bytes, func() error {
		d.mu.Lock()
		delete(d.storage, s)
		d.mu.Unlock()
		return unix.Munmap(mem)
	})
	d.mu.Lock()
	d.storage[s] = mem
	d.mu.Unlock()
	return s
}

// NewStream returns a stream with a goroutine of its own, so that its work overlaps with that of others.
func (d *Device) NewStream(name string) device.Stream {
	q := newQueueStream(name)
	d.mu.Lock()
	d.queues = append(d.queues, q)
	d.mu.Unlock()
	return q
}

// NewInlineStream returns a stream whose work runs before the call that enqueues it returns: the fastest choice for a
// rank's computation, which has nothing else to do meanwhile.
func (d *Device) NewInlineStream(name string) device.Stream { return &inlineStream{name: name} }

// Write enqueues a copy of src to dst. An inline stream copies at once, without a copy of src in between.
func (d *Device) Write(s device.Stream, dst device.Region, src []byte) {
	if in, ok := s.(*inlineStream); ok {
		d.copyHost(in, "Write", dst.Mapped(), src)
		return
	}
	device.WriteHost(s, dst, src)
}

// Read enqueues a copy of src to dst and waits for it.
func (d *Device) Read(s device.Stream, dst []byte, src device.Region) error {
	if in, ok := s.(*inlineStream); ok {
		d.copyHost(in, "Read", dst, src.Mapped())
		return in.err
	}
	return device.ReadHost(s, dst, src)
}

// copyPart is what one part of a large copy to or from the host's memory has, in bytes. From this size on, Go's copy stores past the
// cache, which saves reading what is overwritten.
const copyPart = 1 << 20

// copyHost copies between a region's memory and the host's: a large one, as of a checkpoint, on all threads.
func (d *Device) copyHost(s *inlineStream, name string, dst, src []byte) {
	if len(dst) != len(src) || len(dst) < 2*copyPart {
		s.copy(name, dst, src)
		return
	}
	whole := func(mem []byte) kernels.Tensor {
		return kernels.NewTensor(device.NewStorage(addressOf(mem), mem, len(mem), nil), 0, device.Uint8, len(mem))
	}
	c := call{device: d, name: name, run: runCopyHost}
	c.operands(1, whole(dst), whole(src))
	s.call(c)
}

func runCopyHost(d *Device, c *call) error {
	d.parallel(c, (c.args[0].Len()+copyPart-1)/copyPart, func(_ *Device, c *call, _ *worker, from, to int) {
		from, to = from*copyPart, min(to*copyPart, c.args[0].Len())
		copy(c.args[0].Region().Mapped()[from:to], c.args[1].Region().Mapped()[from:to])
	})
	return nil
}

// Close ends the device's threads and streams and frees its memory.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		q.close()
	}
	d.pool.close()
	var first error
	for _, mem := range d.storage {
		if err := unix.Munmap(mem); err != nil && first == nil {
			first = err
		}
	}
	clear(d.storage)
	return first
}
