package collective

import (
	"encoding/binary"
	"fmt"
)

const (
	// maxGatherBytes is the most that a member may pass to GatherBytes.
	maxGatherBytes = 16 << 20
	// maxGatherTotal is the most that all members together may pass.
	maxGatherTotal = 1 << 30

	sizeBytes = 8
)

// Gather of small host data, whose sizes differ: an all-gather of the sizes, then one of the data; see allgather.go.
//
// Steps: 2 ceil(log2(p)). Bytes sent by each member: at most what all passed, and 8 for each member.
func (t *team) gatherBytes(w *work) error {
	sizes := make([]byte, sizeBytes*t.size)
	binary.BigEndian.PutUint64(sizes[sizeBytes*t.me:], uint64(len(w.host[t.me])))
	t.offsets = appendParts(t.offsets[:0], nil, len(sizes), t.size)
	if err := t.allGather(w, sizes, t.offsets, stepReduce); err != nil {
		return err
	}
	t.offsets = t.offsets[:1]
	for member := range t.size {
		n := binary.BigEndian.Uint64(sizes[sizeBytes*member:])
		at := t.offsets[member]
		if n > maxGatherBytes || at+int(n) > maxGatherTotal {
			return fmt.Errorf("rank %d passes %d bytes, after %d of other ranks; the limits are %d for one and %d for all",
				t.g.ranks[t.position(member)], n, at, maxGatherBytes, maxGatherTotal)
		}
		t.offsets = append(t.offsets, at+int(n))
	}
	data := make([]byte, t.offsets[t.size])
	copy(data[t.offsets[t.me]:], w.host[t.me])
	if err := t.allGather(w, data, t.offsets, stepGather); err != nil {
		return err
	}
	for member := range w.host {
		w.host[member] = data[t.offsets[member]:t.offsets[member+1]:t.offsets[member+1]]
	}
	return nil
}
