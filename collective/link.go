package collective

import (
	"encoding/binary"
	"fmt"

	"lockstep/kernels/device"
)

// A link carries the messages of one group between this rank and one other member, in order, in both directions at once.
// The algorithms are written against it; how bytes travel is the transport's affair. A link belongs to the group's stream:
// its methods are called from running work only.
//
// All waiting ends: with an error that names the peer when the group breaks, the peer is lost, or nothing moves for
// Options.Timeout. Whatever waits also moves what is queued on the group's other links, so that no two members wait for
// each other's sending.
type link interface {
	// send starts a message: its header, then data, which must not change until flush returns. header.size may exceed
	// len(data); more sends the rest.
	send(h header, data []byte)
	// more continues the message that send has started.
	more(data []byte)
	// flush waits until all that was sent has left its memory, and returns the first error of sending.
	flush() error
	// receive waits for the next message and checks that it is the one wanted. It returns the size of the data that
	// follows, which is want.size unless that is anySize.
	receive(want header) (int, error)
	// read reads the message's next len(p) bytes.
	read(p []byte) error
	// close ends the connection. It is called when no work runs.
	close()
}

// An operationKind names a collective on the wire.
type operationKind uint8

const (
	opAllReduce operationKind = iota + 1
	opReduceScatter
	opAllGather
	opBroadcast
	opReduce
	opScatter
	opGather
	opAllToAll
	opAllToAllV
	opTransfer
	opBarrier
	opGatherBytes
	operationKinds // one past the last
)

var operationNames = [operationKinds]string{
	opAllReduce: "all-reduce", opReduceScatter: "reduce-scatter", opAllGather: "all-gather", opBroadcast: "broadcast",
	opReduce: "reduce", opScatter: "scatter", opGather: "gather", opAllToAll: "all-to-all", opAllToAllV: "all-to-all-v",
	opTransfer: "send/receive", opBarrier: "barrier", opGatherBytes: "gather of host data",
}

// String returns the collective's usual name.
func (k operationKind) String() string {
	if k == 0 || k >= operationKinds {
		return fmt.Sprintf("operation(%d)", uint8(k))
	}
	return operationNames[k]
}

// reduces reports whether the operation has a Reduction.
func (k operationKind) reduces() bool {
	return k == opAllReduce || k == opReduceScatter || k == opReduce
}

// rooted reports whether the operation has a root.
func (k operationKind) rooted() bool {
	return k == opBroadcast || k == opReduce || k == opScatter || k == opGather
}

// A header precedes each message's data and says which step of which operation it belongs to, so that ranks which do not
// call the same operations in the same order find out at once instead of exchanging nonsense.
type header struct {
	kind      operationKind
	dtype     device.DType // of a reduction, else 0
	op        ReduceOp     // of a reduction, else 0
	algorithm Algorithm
	step      uint32 // of the algorithm
	root      int32  // as a member's position, where there is one
	group     uint32 // the low half of the group's identifier
	sequence  uint64 // the operation's number in its group, from 1; of a transfer, its number between the two members
	total     uint64 // bytes of the operation's buffer, the same on all members, 0 where it need not be
	size      uint64 // bytes of data that follow
}

const (
	headerBytes = 4 + 1 + 1 + 1 + 1 + 4 + 4 + 4 + 8 + 8 + 8
	headerMagic = "LKSD"

	// anySize stands for a size that only the sender knows.
	anySize = ^uint64(0)
)

func (h *header) encode(to *[headerBytes]byte) {
	b := append(to[:0], headerMagic...)
	b = append(b, byte(h.kind), byte(h.dtype), byte(h.op), byte(h.algorithm))
	b = binary.BigEndian.AppendUint32(b, h.step)
	b = binary.BigEndian.AppendUint32(b, uint32(h.root))
	b = binary.BigEndian.AppendUint32(b, h.group)
	b = binary.BigEndian.AppendUint64(b, h.sequence)
	b = binary.BigEndian.AppendUint64(b, h.total)
	binary.BigEndian.AppendUint64(b, h.size)
}

func parseHeader(b []byte) (header, error) {
	if len(b) != headerBytes || string(b[:4]) != headerMagic {
		return header{}, fmt.Errorf("a message does not start with a header")
	}
	h := header{
		kind:      operationKind(b[4]),
		dtype:     device.DType(b[5]),
		op:        ReduceOp(b[6]),
		algorithm: Algorithm(b[7]),
		step:      binary.BigEndian.Uint32(b[8:]),
		root:      int32(binary.BigEndian.Uint32(b[12:])),
		group:     binary.BigEndian.Uint32(b[16:]),
		sequence:  binary.BigEndian.Uint64(b[20:]),
		total:     binary.BigEndian.Uint64(b[28:]),
		size:      binary.BigEndian.Uint64(b[36:]),
	}
	if h.kind == 0 || h.kind >= operationKinds {
		return header{}, fmt.Errorf("a message names an unknown operation (%d)", b[4])
	}
	return h, nil
}

// what packs what an operation is into a word, but for its size and number.
func (h *header) what() uint64 {
	return uint64(h.kind)<<48 | uint64(h.dtype)<<40 | uint64(h.op)<<32 | uint64(uint32(h.root))
}

// headerOf is what's inverse.
func headerOf(what uint64) header {
	return header{kind: operationKind(what >> 48), dtype: device.DType(what >> 40), op: ReduceOp(what >> 32), root: int32(uint32(what))}
}

// describe writes an operation as messages show it, without its group: "all-reduce 17 (1.2 MB, sum of float32)".
func (h *header) describe() string {
	s := fmt.Sprintf("%v %d", h.kind, h.sequence)
	switch {
	case h.kind.reduces() && h.kind.rooted():
		return fmt.Sprintf("%s (%s, %v of %v, to member %d)", s, byteSize(int(h.total)), h.op, h.dtype, h.root)
	case h.kind.reduces():
		return fmt.Sprintf("%s (%s, %v of %v)", s, byteSize(int(h.total)), h.op, h.dtype)
	case h.kind == opGather:
		return fmt.Sprintf("%s (%s to member %d)", s, byteSize(int(h.total)), h.root)
	case h.kind.rooted():
		return fmt.Sprintf("%s (%s from member %d)", s, byteSize(int(h.total)), h.root)
	case h.kind == opAllGather || h.kind == opAllToAll:
		return fmt.Sprintf("%s (%s)", s, byteSize(int(h.total)))
	}
	return s
}

// check returns an error that names both operations unless h, which came from the given rank, is the message wanted.
func (h *header) check(want *header, from int, groupName string) error {
	same := *h
	if want.size == anySize {
		same.size = anySize
	}
	if same == *want {
		return nil
	}
	got, mine := h.describe(), want.describe()
	if got == mine {
		got, mine = fmt.Sprintf("step %d of %s by %v with %d bytes", h.step, got, h.algorithm, h.size),
			fmt.Sprintf("step %d by %v with %d bytes", want.step, want.algorithm, want.size)
	}
	return fmt.Errorf("rank %d is in %s, this rank in %s; the members of group %s must call the same operations in the same order", from, got, mine, groupName)
}
