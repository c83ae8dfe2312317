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
// Options.Timeout.
type link interface {
	// send starts a message: its header, then data, which must not change until flush returns. The message before must
	// have been flushed. header.size may exceed len(data); more sends the rest.
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
	// interrupt makes all waiting in this link end; the group's cause has been set before.
	interrupt()
	// close ends the connection. It is called when no work runs.
	close()
}

// An operationKind names a collective on the wire.
type operationKind uint8

const (
	opAllReduce operationKind = iota + 1
	opAllGather
	opBroadcast
	opBarrier
	opGather
	operationKinds // one past the last
)

// String returns the collective's usual name.
func (k operationKind) String() string {
	names := [...]string{opAllReduce: "all-reduce", opAllGather: "all-gather", opBroadcast: "broadcast", opBarrier: "barrier", opGather: "gather"}
	if int(k) >= len(names) || names[k] == "" {
		return fmt.Sprintf("operation(%d)", uint8(k))
	}
	return names[k]
}

// A header precedes each message's data and says which step of which operation it belongs to, so that ranks which do not
// call the same operations in the same order find out at once instead of exchanging nonsense.
type header struct {
	kind     operationKind
	dtype    device.DType // of a reduction, else 0
	step     uint16       // of the algorithm
	root     int32        // of a broadcast, as a member's position
	group    uint32       // the low half of the group's identifier
	sequence uint64       // the operation's number in its group, from 1
	total    uint64       // bytes of the operation's buffer, the same on all members
	size     uint64       // bytes of data that follow
}

const (
	headerBytes = 4 + 1 + 1 + 2 + 4 + 4 + 8 + 8 + 8
	headerMagic = "LKSD"

	// anySize stands for a size that only the sender knows.
	anySize = ^uint64(0)
)

func (h *header) encode(to *[headerBytes]byte) {
	b := append(to[:0], headerMagic...)
	b = append(b, byte(h.kind), byte(h.dtype))
	b = binary.BigEndian.AppendUint16(b, h.step)
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
		kind:     operationKind(b[4]),
		dtype:    device.DType(b[5]),
		step:     binary.BigEndian.Uint16(b[6:]),
		root:     int32(binary.BigEndian.Uint32(b[8:])),
		group:    binary.BigEndian.Uint32(b[12:]),
		sequence: binary.BigEndian.Uint64(b[16:]),
		total:    binary.BigEndian.Uint64(b[24:]),
		size:     binary.BigEndian.Uint64(b[32:]),
	}
	if h.kind == 0 || h.kind >= operationKinds {
		return header{}, fmt.Errorf("a message names an unknown operation (%d)", b[4])
	}
	return h, nil
}

// describe writes an operation as messages show it, without its group: "all-reduce 17 (1.2 MB)".
func (h *header) describe() string {
	s := fmt.Sprintf("%v %d", h.kind, h.sequence)
	switch h.kind {
	case opAllReduce:
		return fmt.Sprintf("%s (%s of %v)", s, byteSize(int(h.total)), h.dtype)
	case opAllGather:
		return fmt.Sprintf("%s (%s)", s, byteSize(int(h.total)))
	case opBroadcast:
		return fmt.Sprintf("%s (%s from member %d)", s, byteSize(int(h.total)), h.root)
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
		got, mine = fmt.Sprintf("step %d of %s with %d bytes", h.step, got, h.size), fmt.Sprintf("step %d with %d bytes", want.step, want.size)
	}
	return fmt.Errorf("rank %d is in %s, this rank in %s; the members of group %s must call the same operations in the same order", from, got, mine, groupName)
}
