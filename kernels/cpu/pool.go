package cpu

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scratchBytes is each worker's private memory for packed operands and block results.
const scratchBytes = 4 << 20

// A worker is one thread of the pool with its scratch memory. Contents do not outlive one call of a body.
type worker struct {
	scratch []float32
	mem     []byte
	wake    chan struct{}
}

// A body computes the parts [from, to) of a call on worker w.
type body func(d *Device, c *call, w *worker, from, to int)

// A pool is a fixed set of threads that share one operator's work at a time. The goroutine that calls parallel is its
// first worker; the others are goroutines parked on their wake channel.
type pool struct {
	workers []*worker

	mu      sync.Mutex // held by the operator that uses the pool
	device  *Device
	call    *call
	body    body
	parts   int
	next    atomic.Int64
	pending sync.WaitGroup
}

func newPool(threads int) (*pool, error) {
	p := &pool{}
	for i := range threads {
		mem, err := mapMemory(scratchBytes)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("cpu: scratch memory for thread %d: %w", i, err)
		}
		w := &worker{mem: mem, wake: make(chan struct{}, 1)}
		w.scratch = unsafe.Slice((*float32)(unsafe.Pointer(&mem[0])), scratchBytes/4)
		p.workers = append(p.workers, w)
		if i > 0 {
			go func() {
				for range w.wake {
					p.work(w)
					p.pending.Done()
				}
			}()
		}
	}
	return p, nil
}

// parallel runs b over the parts [0, parts), each part once, on all workers.
func (d *Device) parallel(c *call, parts int, b body) {
	if parts == 0 {
		return
	}
	p := d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.workers) == 1 || parts == 1 {
		b(d, c, p.workers[0], 0, parts)
		return
	}
	p.device, p.call, p.body, p.parts = d, c, b, parts
	p.next.Store(0)
	helpers := min(len(p.workers), parts) - 1
	p.pending.Add(helpers)
	for _, w := range p.workers[1 : 1+helpers] {
		w.wake <- struct{}{}
	}
	p.work(p.workers[0])
	p.pending.Wait()
}

// work takes parts until none is left.
func (p *pool) work(w *worker) {
	for {
		i := int(p.next.Add(1)) - 1
		if i >= p.parts {
			return
		}
		p.body(p.device, p.call, w, i, i+1)
	}
}

func (p *pool) close() {
	for _, w := range p.workers {
		close(w.wake)
		_ = unix.Munmap(w.mem)
	}
}
