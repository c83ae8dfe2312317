package cpu

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scratchBytes is each worker's private memory for packed operands and block results; a strip of MatMul has more. Pages that
// nothing is written to take no memory.
const scratchBytes = 4 << 20

// A worker is one thread of the pool with its scratch memory. Contents do not outlive one call of a body.
type worker struct {
	index   int
	scratch []float32
	strip   strip // MatMul's, with memory of its own
	mem     []byte
	start   signal
}

// A body computes the parts [from, to) of a call on worker w.
type body func(d *Device, c *call, w *worker, from, to int)

// A pool is a fixed set of threads that share one operator's work at a time. The goroutine that calls parallel is its
// first worker; the others are goroutines that wait for their start signal.
type pool struct {
	workers []*worker
	closed  atomic.Bool

	mu      sync.Mutex // held by the operator that uses the pool
	device  *Device
	call    *call
	body    body
	parts   int
	next    atomic.Int64
	helpers atomic.Int64 // workers besides the first that have not finished
	done    signal       // by the last of them
	product product      // MatMul's
}

func newPool(threads int) (*pool, error) {
	p := &pool{done: newSignal()}
	for i := range threads {
		mem, err := mapMemory(scratchBytes + 4*(2*packedB+sumElements))
		if err != nil {
			p.close()
			return nil, fmt.Errorf("cpu: scratch memory for thread %d: %w", i, err)
		}
		w := &worker{index: i, mem: mem, start: newSignal()}
		memory := unsafe.Slice((*float32)(unsafe.Pointer(&mem[0])), len(mem)/4)
		s := scratch{free: memory}
		w.scratch, w.strip.packed, w.strip.sums = s.take(scratchBytes/4), s.take(2*packedB), s.take(sumElements)
		p.workers = append(p.workers, w)
		if i > 0 {
			go p.help(w)
		}
	}
	return p, nil
}

// parallel runs b over the parts [0, parts), each part once, on all workers.
func (d *Device) parallel(c *call, parts int, b body) {
	p := d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run(d, c, parts, b)
}

// run is parallel for an operator that holds mu.
func (p *pool) run(d *Device, c *call, parts int, b body) {
	if len(p.workers) == 1 || parts <= 1 {
		b(d, c, p.workers[0], 0, parts)
		return
	}
	p.device, p.call, p.body, p.parts = d, c, b, parts
	p.next.Store(0)
	helpers := min(len(p.workers), parts) - 1
	p.helpers.Store(int64(helpers))
	for _, w := range p.workers[1 : 1+helpers] {
		w.start.send()
	}
	p.work(p.workers[0])
	p.done.wait()
}

// help is the life of a worker other than the first.
func (p *pool) help(w *worker) {
	for {
		w.start.wait()
		if p.closed.Load() {
			return
		}
		p.work(w)
		if p.helpers.Add(-1) == 0 {
			p.done.send()
		}
	}
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

// close ends the workers. None is at work.
func (p *pool) close() {
	p.closed.Store(true)
	for i, w := range p.workers {
		if i > 0 {
			w.start.send()
		}
		_ = unix.Munmap(w.mem)
	}
}

// A signal wakes one waiting goroutine. Waking a parked one takes some fifty microseconds, as long as a small operator;
// one operator follows the other in a training step, so a waiter first looks again and again for about as long.
type signal struct {
	state atomic.Int32
	wake  chan struct{}
}

// The states of a signal.
const (
	idle   = iota // nobody waits, or the waiter is still looking
	sent          // and not yet seen
	parked        // the waiter receives from wake
)

// A waiter looks looksPerYield times and yields its processor to any other goroutine, yields times over: some fifty
// microseconds altogether.
const looksPerYield, yields = 100, 400

func newSignal() signal { return signal{wake: make(chan struct{}, 1)} }

// send wakes the waiter, or lets the next wait return at once. Each send is followed by one wait.
func (s *signal) send() {
	if s.state.Swap(sent) == parked {
		s.wake <- struct{}{}
	}
}

// wait returns when send has been called.
func (s *signal) wait() {
	for range yields {
		for range looksPerYield {
			if s.state.Load() == sent {
				s.state.Store(idle)
				return
			}
		}
		runtime.Gosched()
	}
	if s.state.CompareAndSwap(idle, parked) {
		<-s.wake
	}
	s.state.Store(idle)
}

// await returns when count is at least least. It waits for a thread that is at work and needs some microseconds, or more
// where there are more threads than processors: then the operating system may run another one.
func await(count *atomic.Int64, least int) {
	for looks := 1; count.Load() < int64(least); looks++ {
		switch {
		case looks%(looksPerYield*yields) == 0:
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		case looks%looksPerYield == 0:
			runtime.Gosched()
		}
	}
}
