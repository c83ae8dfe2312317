package cpu

import (
	"fmt"
	"math"
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// KeepAssignments leaves out the assignments that are too many for their expert.
func (d *Device) KeepAssignments(s device.Stream, kept, experts, weights kernels.Tensor, o kernels.KeepOptions) {
	c := call{name: "KeepAssignments", run: runKeepAssignments}
	c.operands(1, kept, experts, weights)
	c.f[0] = float64(o.Capacity)
	c.flag[0] = o.ByPosition
	d.launch(s, kernels.CheckKeepAssignments(kept, experts, weights, o), c)
}

func runKeepAssignments(d *Device, c *call) error {
	kept, experts := i32(c.args[0]), i32(c.args[1])
	last := none
	for i, e := range experts {
		if e < none {
			return fmt.Errorf("experts[%d] is %d, below %d", i, e, none)
		}
		last = max(last, int(e))
	}
	copy(kept, experts)
	d.parallel(c, last+1, limitExperts)
	return nil
}

// limitExperts leaves out what is too much for the experts [from, to). It looks at each assignment once for each of them, which
// is little next to what one expert computes.
func limitExperts(_ *Device, c *call, w *worker, from, to int) {
	kept, experts, weights, capacity := i32(c.args[0]), i32(c.args[1]), f32(c.args[2]), int(c.f[0])
	for e := int32(from); e < int32(to); e++ {
		least, equal := float32(0), capacity // the smallest weight that is kept, and how many of those
		byPosition := c.flag[0]
		if !byPosition {
			least, equal = smallestKept(w.scratch[:0], experts, weights, e, capacity)
		}
		for i, expert := range experts {
			switch {
			case expert != e:
			case !byPosition && weights[i] > least:
			case (byPosition || weights[i] == least) && equal > 0:
				equal--
			default:
				kept[i] = none
			}
		}
	}
}

// smallestKept returns the smallest of the n largest weights of an expert's assignments, and how many of the n are equal to it. list
// is memory for the weights of one expert.
func smallestKept(list []float32, experts []int32, weights []float32, e int32, n int) (least float32, equal int) {
	for i, expert := range experts {
		if expert == e {
			list = append(list, weights[i])
		}
	}
	if len(list) <= n {
		return float32(math.Inf(-1)), 0
	}
	slices.Sort(list)
	list = list[len(list)-n:]
	for _, v := range list {
		if v == list[0] {
			equal++
		}
	}
	return list[0], equal
}
