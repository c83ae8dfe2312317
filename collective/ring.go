package collective

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

const (
	// ringBytes is a ring's capacity. Together with what it is filled from it fits a core's second-level cache, and it
	// holds enough that writer and reader seldom wait for each other.
	ringBytes = 64 << 10
	// ringSize is the memory that a ring takes.
	ringSize = 2*lineBytes + ringBytes
)

// A ring carries a stream of bytes from one member to another. Each of the two words is written by one of them.
type ring struct {
	head *atomic.Uint64 // bytes written, since the group was made
	tail *atomic.Uint64 // bytes read
	data []byte
}

// newRing returns the ring in mem, whose words are zero when the group is made.
func newRing(mem []byte) ring {
	return ring{
		head: (*atomic.Uint64)(unsafe.Pointer(&mem[0])), tail: (*atomic.Uint64)(unsafe.Pointer(&mem[lineBytes])),
		data: mem[2*lineBytes:],
	}
}

// write copies as much of p into the ring as there is room for, and returns how much.
func (r *ring) write(p []byte) int {
	head := r.head.Load()
	room := len(r.data) - int(head-r.tail.Load())
	p = p[:min(len(p), room)]
	at := int(head % uint64(len(r.data)))
	n := copy(r.data[at:], p)
	copy(r.data, p[n:])
	if len(p) > 0 {
		r.head.Store(head + uint64(len(p)))
	}
	return len(p)
}

// read copies what has come to p, and returns how much.
func (r *ring) read(p []byte) int {
	tail := r.tail.Load()
	come := int(r.head.Load() - tail)
	p = p[:min(len(p), come)]
	at := int(tail % uint64(len(r.data)))
	n := copy(p, r.data[at:])
	copy(p[n:], r.data)
	if len(p) > 0 {
		r.tail.Store(tail + uint64(len(p)))
	}
	return len(p)
}

// filled reports whether there is something to read.
func (r *ring) filled() bool { return r.head.Load() != r.tail.Load() }

// A ringLink is a link over two rings. The stream's goroutine copies: what does not fit stays queued, and whoever waits on
// any link of the group moves what is queued on all, so that members which send to each other do not wait for each other.
type ringLink struct {
	shared  *shared
	peer    int // position of the other member
	out, in ring
	queue   []outgoing // what is not yet written; the first may be in part
	head    int        // the first of queue
	headIn  [headerBytes]byte
}

func (l *ringLink) send(h header, data []byte) {
	o := outgoing{headed: headerBytes, data: data}
	h.encode(&o.header)
	l.enqueue(o)
}

func (l *ringLink) more(data []byte) { l.enqueue(outgoing{data: data}) }

func (l *ringLink) enqueue(o outgoing) {
	if len(l.queue) == 0 {
		l.shared.sending = append(l.shared.sending, l)
	}
	l.queue = append(l.queue, o)
	l.shared.push()
}

// push writes what fits on all links of the group. It reports whether anything did.
func (s *shared) push() (moved bool) {
	left := s.sending[:0]
	for _, l := range s.sending {
		moved = l.push() || moved
		if len(l.queue) > 0 {
			left = append(left, l)
		}
	}
	s.sending = left
	return moved
}

func (l *ringLink) push() (moved bool) {
	for l.head < len(l.queue) {
		o := &l.queue[l.head]
		n := l.out.write(o.header[headerBytes-o.headed:])
		o.headed -= n
		moved = moved || n > 0
		if o.headed == 0 {
			n = l.out.write(o.data)
			o.data = o.data[n:]
			moved = moved || n > 0
		}
		if o.headed > 0 || len(o.data) > 0 {
			break
		}
		*o = outgoing{}
		l.head++
	}
	if l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
	}
	if moved {
		l.shared.wake(l.peer)
	}
	return moved
}

func (l *ringLink) flush() error {
	for len(l.queue) > 0 {
		if err := l.await(l.shared.push); err != nil {
			return err
		}
	}
	return nil
}

func (l *ringLink) await(done func() bool) error {
	return l.shared.await(done, func() int { return l.peer })
}

func (l *ringLink) receive(want header) (int, error) {
	if err := l.read(l.headIn[:]); err != nil {
		return 0, err
	}
	rank := l.shared.group.ranks[l.peer]
	got, err := parseHeader(l.headIn[:])
	if err != nil {
		return 0, fmt.Errorf("receiving from rank %d: %w", rank, err)
	}
	if err := got.check(&want, rank, l.shared.group.name); err != nil {
		return 0, err
	}
	return int(got.size), nil
}

func (l *ringLink) read(p []byte) error {
	for len(p) > 0 {
		if n := l.in.read(p); n > 0 {
			p = p[n:]
			l.shared.wake(l.peer)
			continue
		}
		if err := l.await(func() bool { l.shared.push(); return l.in.filled() }); err != nil {
			return err
		}
	}
	return nil
}

// close does nothing: the rings belong to the group's memory.
func (l *ringLink) close() {}
