// Package deferred is a device for tests that behaves like an accelerator where the CPU is too forgiving. Its operators
// are the CPU's, but:
//
//   - Nothing runs before the call that enqueues it returns. Each stream has a worker that starts when somebody waits for
//     it, or a moment later.
//   - Host code cannot read device memory by accident. Memory is one file mapped twice: Storage.Address is a mapping
//     without any permission, where a read faults; work reaches the contents through Region.Mapped, the second mapping.
//   - Work that touches what another stream's work wrote, or writes what it read, must be ordered after it by an Event or
//     by the host's having waited. Otherwise it fails when it is enqueued, by name: both pieces of work, both streams,
//     and the wait that is missing. This does not depend on how the work happens to be timed.
//
// Collectives are work like any other, on streams of their own, and are checked in the same way.
package deferred

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
)

// Device is the deferred device.
type Device struct {
	kernels.Operators // the CPU's, which launch on any device.HostStream
	cpu               *cpu.Device

	// mu guards all below and the state of the streams.
	mu      sync.Mutex
	streams []*stream
	host    clock // what the host has waited for
	spans   map[*device.Storage][]span
	memory  map[*device.Storage]mapping
}

var _ kernels.Device = (*Device)(nil)

// New returns a deferred device over a CPU with the given options.
func New(o cpu.Options) (*Device, error) {
	c, err := cpu.New(o)
	if err != nil {
		return nil, err
	}
	return &Device{
		Operators: c, cpu: c,
		spans: map[*device.Storage][]span{}, memory: map[*device.Storage]mapping{},
	}, nil
}

// Name returns a name such as "deferred cpu (generic, 1 thread)".
func (d *Device) Name() string { return "deferred " + d.cpu.Name() }

// KernelSet returns the name of the CPU's kernel set.
func (d *Device) KernelSet() string { return d.cpu.KernelSet() }

// mapping is one piece of memory, mapped twice.
type mapping struct{ guard, open []byte }

// Alloc returns zeroed memory whose address cannot be read.
func (d *Device) Alloc(bytes int) (*device.Storage, error) {
	fd, err := unix.MemfdCreate("lockstep-deferred", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("deferred: creating a memory file: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(max(bytes, 1))); err != nil {
		return nil, fmt.Errorf("deferred: allocating %d bytes: %w", bytes, err)
	}
	return d.AllocFile(fd, bytes)
}

// AllocFile returns the first bytes of a file, which other processes may map as well, as memory whose address cannot be
// read.
func (d *Device) AllocFile(fd, bytes int) (*device.Storage, error) {
	m, err := mapTwice(fd, max(bytes, 1))
	if err != nil {
		return nil, fmt.Errorf("deferred: mapping %d bytes: %w", bytes, err)
	}
	var s *device.Storage
	address := uintptr(unsafe.Pointer(unsafe.SliceData(m.guard)))
	s = device.NewStorage(address, m.open[:bytes], bytes, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.spans, s)
		delete(d.memory, s)
		return m.unmap()
	})
	d.mu.Lock()
	d.memory[s] = m
	d.mu.Unlock()
	return s, nil
}

func mapTwice(fd, bytes int) (m mapping, err error) {
	if m.guard, err = unix.Mmap(fd, 0, bytes, unix.PROT_NONE, unix.MAP_SHARED); err != nil {
		return m, fmt.Errorf("mapping the guarded address: %w", err)
	}
	if m.open, err = unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		_ = unix.Munmap(m.guard)
		return m, fmt.Errorf("mapping the contents: %w", err)
	}
	return m, nil
}

func (m mapping) unmap() error {
	err := unix.Munmap(m.guard)
	if e := unix.Munmap(m.open); err == nil {
		err = e
	}
	return err
}

// Write enqueues a copy of src to dst.
func (d *Device) Write(s device.Stream, dst device.Region, src []byte) { device.WriteHost(s, dst, src) }

// Read enqueues a copy of src to dst and waits for it.
func (d *Device) Read(s device.Stream, dst []byte, src device.Region) error {
	return device.ReadHost(s, dst, src)
}

// Close ends the workers and frees the memory. Work that nobody waited for may not have run.
func (d *Device) Close() error {
	d.mu.Lock()
	for _, s := range d.streams {
		s.stop()
	}
	d.mu.Unlock()
	first := d.cpu.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.memory {
		if err := m.unmap(); first == nil {
			first = err
		}
	}
	clear(d.memory)
	clear(d.spans)
	return first
}
