package collective

import (
	"context"

	"lockstep/kernels/device"
)

// A Group is an ordered set of ranks that communicate. All members call the same operations in the same order, each from
// one goroutine at a time; Send, Receive and Exchange are called by the two members concerned only, in the same order.
// Operations on buffers are enqueued: they start when the event after is done and return an event at once; a failure sticks
// to the group's stream and comes out of the event, so that a group that has failed once stays failed. To block, wait for
// the event. Groups of one rank work; they copy at most.
//
// Several operations cut a buffer into one part for each member, in their order and without gaps. counts are the parts'
// sizes in bytes, the same on all members; nil stands for Size equal parts. Slices of counts and transfers are not copied:
// they must stay as they are until the operation's event is done.
type Group interface {
	// Name is what messages call the group, such as "data".
	Name() string
	// Rank is this process's position in the group, Size the number of members.
	Rank() int
	Size() int

	// Blocking returns this group for a caller that waits for each operation anyway: its operations are done when the call
	// returns, and run on the caller's goroutine where the device's streams allow it, which for small buffers saves more
	// time than the operation takes. Both views are one group, with one sequence of operations.
	Blocking() Group

	// AllReduce replaces the members' buffers, of equal size, by their reduction: the aligned pairwise tree
	// ((0+1)+(2+3))+((4+5)+(6+7)) over the members in order, element for element, whatever the size of the buffer. Where
	// Size is no power of two, the members beyond the largest power of two q below it are folded in first, q+i into i. All
	// members get the same bits. The buffer's size must be a multiple of the element's.
	//
	// With Options.AnyOrder the order may be another one, the same for every repetition.
	AllReduce(buf device.Region, r Reduction, after device.Event) device.Event
	// ReduceScatter leaves in member i's part of its buffer the reduction of all members' i-th parts, with the bits of
	// AllReduce. The other parts of the buffer are used up: their contents are undefined afterwards. Parts must be
	// multiples of the element's size.
	ReduceScatter(buf device.Region, counts []int, r Reduction, after device.Event) device.Event
	// AllGather expects member i's part of buf in its place and fills in the others'.
	AllGather(buf device.Region, counts []int, after device.Event) device.Event
	// Broadcast copies the root member's buffer to the others.
	Broadcast(buf device.Region, root int, after device.Event) device.Event
	// Reduce leaves the reduction of all buffers in the root member's, with the bits of AllReduce. The other members'
	// buffers are used up: their contents are undefined afterwards.
	Reduce(buf device.Region, root int, r Reduction, after device.Event) device.Event
	// Scatter copies part i of the root member's buffer to member i. The root's buffer holds all parts, and keeps them;
	// another member's buffer is its own part only.
	Scatter(buf device.Region, counts []int, root int, after device.Event) device.Event
	// Gather is Scatter in the other direction: it copies every member's part into its place in the root's buffer.
	Gather(buf device.Region, counts []int, root int, after device.Event) device.Event
	// AllToAll copies part i of member j's src to part j of member i's dst. All parts are equal. dst and src must not
	// overlap.
	AllToAll(dst, src device.Region, after device.Event) device.Event
	// AllToAllV is AllToAll with parts of different sizes: sent[i] bytes of src go to member i, received[i] bytes from
	// member i go to dst. received[i] here must be what sent says there.
	AllToAllV(dst, src device.Region, received, sent []int, after device.Event) device.Event

	// Send sends buf to a member, which calls Receive with a buffer of the same size. It may wait until the other receives.
	Send(buf device.Region, to int, after device.Event) device.Event
	// Receive fills buf with what a member sends.
	Receive(buf device.Region, from int, after device.Event) device.Event
	// Exchange does all transfers at once, so that members which send to each other do not wait for each other. What goes
	// from one member to another arrives in the order of the slice.
	Exchange(transfers []Transfer, after device.Event) device.Event

	// Barrier returns when all members have called it, after the operations enqueued before it. If ctx ends first, the
	// group is broken, because the others cannot know that this member has given up.
	Barrier(ctx context.Context) error
	// GatherBytes returns what each member passed, in their order, to all members. It is for small host data, of at most
	// 16 MiB from each, and treats ctx as Barrier does.
	GatherBytes(ctx context.Context, mine []byte) ([][]byte, error)
	// Split cuts the group into new ones, as MPI_Comm_split does: the members with the same colour make a group, ordered by
	// key and, where keys are equal, by their order here. A member with a negative colour is in none and gets nil. All
	// members call it, with the same name; it treats ctx as Barrier does.
	Split(ctx context.Context, name string, colour, key int) (Group, error)
}

// A Transfer is one part of an Exchange: Buf is sent to the member Peer or received from it.
type Transfer struct {
	Peer    int
	Buf     device.Region
	Receive bool
}

// A Reduction says how elements are combined.
type Reduction struct {
	// Op names what Fold does.
	Op ReduceOp
	// DType is the type of the elements; buffers are cut at element borders only. Sums of types narrower than float32 are
	// accumulated in float32 and rounded once, in groups of at most 64 members; in larger ones the sums of parts of the tree
	// are rounded too.
	DType device.DType
	// Fold combines n sources into each of the destinations, which may be among the sources: in the order of the aligned
	// pairwise tree, where n is no power of two as AllReduce says. All are of one length, a multiple of the element's size,
	// and aligned for it. A transport folds two sources into one destination, all members' into one, or all into all.
	Fold func(dst, src [][]byte)
}

// A ReduceOp is the operation of a Reduction.
type ReduceOp uint8

// The operations. For Max and Min a NaN in any source makes a NaN.
const (
	Sum ReduceOp = iota
	Max
	Min
)

// String returns "sum", "max" or "min".
func (o ReduceOp) String() string {
	switch o {
	case Sum:
		return "sum"
	case Max:
		return "max"
	case Min:
		return "min"
	}
	return "unknown reduction"
}
