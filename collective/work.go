package collective

import (
	"errors"
	"fmt"
	"math/bits"
	"unsafe"

	"lockstep/kernels/device"
)

// A work is one operation as it runs on the group's stream.
type work struct {
	group     *group
	kind      operationKind
	algorithm Algorithm
	sequence  uint64
	buf       device.Region
	src       device.Region // of an all-to-all, which writes buf and reads src
	writes    bool          // whether buf is written (it is read in any case)
	reduction Reduction
	root      int
	counts    []int // bytes of the parts, nil for equal ones; of an all-to-all-v what is received
	sent      []int // of an all-to-all-v
	transfers []Transfer
	single    [1]Transfer // transfers of Send and Receive
	total     int         // bytes of all parts together
	host      [][]byte    // what GatherBytes exchanges
	invalid   error       // why the arguments cannot be used
	recycle   bool        // whether its memory may be used again once it has ended well, and another one has begun
	ended     bool        // whether it has ended well
}

// Name returns a name such as "all-reduce 17 of group data (1.2 MB)".
func (w *work) Name() string {
	switch w.kind {
	case opBarrier, opGatherBytes:
		return fmt.Sprintf("%v %d of group %s", w.kind, w.sequence, w.group.name)
	case opTransfer:
		return w.transferName()
	}
	return fmt.Sprintf("%v %d of group %s (%s)", w.kind, w.sequence, w.group.name, byteSize(w.buf.Bytes))
}

// Accesses visits the buffers.
func (w *work) Accesses(visit func(r device.Region, write bool)) {
	if w.buf.Storage != nil {
		visit(w.buf, w.writes)
	}
	if w.src.Storage != nil {
		visit(w.src, false)
	}
	for _, t := range w.transfers {
		if t.Buf.Storage != nil {
			visit(t.Buf, t.Receive)
		}
	}
}

// Run does the operation. A failure breaks the group, and when Run returns nothing touches the buffer any more.
func (w *work) Run() error {
	g := w.group
	g.running.Lock()
	defer g.running.Unlock()
	g.enter(w)
	err := w.invalid
	if err == nil {
		err = g.broken()
	}
	if err == nil {
		err = w.checkMapped()
	}
	if err == nil {
		err = g.perform(w)
	}
	if err != nil {
		g.interrupt(err)
	}
	g.leave(w, err)
	return err
}

func (w *work) checkMapped() (err error) {
	w.Accesses(func(r device.Region, _ bool) {
		if r.Bytes > 0 && r.Mapped() == nil {
			err = errors.New("the buffer is not in memory that the host can address")
		}
	})
	return err
}

// perform does the operation in shared memory, in place, or else runs the algorithm over links that suits it.
func (g *group) perform(w *work) error {
	t := &g.teams.all
	if w.kind == opTransfer {
		return t.transfer(w)
	}
	if g.shared != nil {
		if done, err := g.shared.run(w); done || err != nil {
			return err
		}
	}
	algorithm, err := g.choose(w)
	if err != nil {
		return err
	}
	g.state.Lock() // under which position looks at the operation
	w.algorithm = algorithm
	g.state.Unlock()
	mem := w.buf.Mapped()
	switch w.kind {
	case opAllReduce:
		return g.allReduce(w, mem)
	case opReduceScatter:
		return g.reduceScatter(w, mem)
	case opAllGather:
		return g.allGather(w, mem)
	case opBroadcast:
		return g.broadcast(w, mem)
	case opReduce:
		return t.reduce(w, mem, w.root, w.algorithm)
	case opScatter:
		return t.scatter(w, mem, g.parts(w))
	case opGather:
		return t.gather(w, mem, g.parts(w))
	case opAllToAll, opAllToAllV:
		return t.allToAll(w, mem, w.src.Mapped())
	case opBarrier:
		return t.barrier(w)
	case opGatherBytes:
		return t.gatherBytes(w)
	}
	return fmt.Errorf("%v has no algorithm", w.kind)
}

// parts returns where the parts of the operation's buffer begin, and the end of the last.
func (g *group) parts(w *work) []int {
	g.offsets = appendParts(g.offsets[:0], w.counts, w.total, len(g.ranks))
	return g.offsets
}

// appendParts appends where the parts of a buffer of n bytes begin, and the end of the last, to an empty slice: p equal
// parts where counts is nil.
func appendParts(offsets, counts []int, n, p int) []int {
	at := 0
	for i := range p {
		offsets = append(offsets, at)
		if counts == nil {
			at += n / p
		} else {
			at += counts[i]
		}
	}
	return append(offsets, at)
}

// enter notes that an operation has begun. The one before it is not named any more.
func (g *group) enter(w *work) {
	g.state.Lock()
	defer g.state.Unlock()
	if last := g.entered; last != nil && last.recycle && last.ended {
		g.spare = append(g.spare, last)
	}
	g.entered = w
	g.inside.Store(true)
}

// leave notes that it has ended. One that failed is still to be named by its stream.
func (g *group) leave(w *work, err error) {
	w.ended = err == nil
	g.inside.Store(false)
}

// header returns the header of a message of this operation with size bytes of data.
func (w *work) header(step, size int) header {
	return header{
		kind: w.kind, dtype: w.reduction.DType, op: w.reduction.Op, algorithm: w.algorithm, step: uint32(step), root: int32(w.root),
		group: uint32(w.group.id), sequence: w.sequence, total: uint64(w.total), size: uint64(size),
	}
}

// scratch is memory of the group's own, for data that has been received and not yet used. It grows to what the operations
// need, and is kept: a step allocates nothing.
type scratch struct {
	words    []uint64 // so that it is aligned for any type
	dst, src [][]byte // the arguments of a Fold
}

// bytes returns n bytes, whose contents are lost with the next call.
func (s *scratch) bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	if words := (n + 7) / 8; len(s.words) < words {
		s.words = make([]uint64, 1<<bits.Len(uint(words-1)))
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s.words[0])), n)
}
