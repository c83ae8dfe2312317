package collective

import (
	"context"

	"lockstep/kernels/device"
)

// A Group is an ordered set of ranks that communicate. All members call the same operations in the same order, each from
// one goroutine at a time. Operations on buffers are enqueued: they start when the event after is done and return an event
// at once; a failure sticks to the group's stream and comes out of the event, so that a group that has failed once stays
// failed. Groups of one rank work and move nothing.
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
	AllReduce(buf device.Region, r Reduction, after device.Event) device.Event
	// AllGather expects member i's part in the i-th of Size equal slices of buf and fills in the others'.
	AllGather(buf device.Region, after device.Event) device.Event
	// Broadcast copies the root member's buffer to the others.
	Broadcast(buf device.Region, root int, after device.Event) device.Event

	// Barrier returns when all members have called it, after the operations enqueued before it. If ctx ends first, the
	// group is broken, because the others cannot know that this member has given up.
	Barrier(ctx context.Context) error
	// GatherBytes returns what each member passed, in their order, to all members. It is for small host data, of at most
	// 16 MiB from each, and treats ctx as Barrier does.
	GatherBytes(ctx context.Context, mine []byte) ([][]byte, error)
}

// A Reduction says how elements are combined.
type Reduction struct {
	// DType is the type of the elements; buffers are cut at element borders only.
	DType device.DType
	// Fold combines n sources, in the order of a pairwise tree, into each of the destinations, which may be among the
	// sources. All are of one length, a multiple of the element's size, and aligned for it. TCP folds two sources into one
	// destination, shared memory all into all.
	Fold func(dst, src [][]byte)
}
