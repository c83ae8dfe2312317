package pipeline

import (
	"fmt"
	"math/bits"
)

// The gradients of a step's M micro batches are summed in G lanes: micro batch i goes to lane i*G/M, micro batches of one
// lane are added in order, and the lanes are merged by the aligned pairwise tree ((0+1)+(2+3))+((4+5)+(6+7)). A lane without
// micro batches is absent: its sibling takes its parent's place. Rank r of d owns the lanes [r*G/d, (r+1)*G/d), a subtree;
// the all-reduce over ranks goes on with the same tree. So the order of additions does not depend on d.

// A LaneStep says what to do with the weight gradients of one micro batch.
type LaneStep struct {
	// Buffer is where they go; Accumulate is false for the first micro batch of a lane, which overwrites.
	Buffer     int
	Accumulate bool
	// Merges are made afterwards, in order.
	Merges []Merge
}

// A Merge adds buffer From to buffer Into, after which From is free.
type Merge struct{ Into, From int }

// Lanes returns a step for each of the rank's micro batches, in order, and the number of buffers they need; the sum ends in
// buffer 0. microBatches is that of the whole step, a multiple of ranks; ranks divides lanes. Lanes equal to ranks give each
// rank one buffer and plain accumulation.
func Lanes(microBatches, lanes, rank, ranks int) (steps []LaneStep, buffers int, err error) {
	if microBatches%ranks != 0 || lanes%ranks != 0 {
		return nil, 0, fmt.Errorf("pipeline: %d ranks do not divide %d micro batches and %d gradient lanes", ranks, microBatches, lanes)
	}
	if per := lanes / ranks; per&(per-1) != 0 {
		return nil, 0, fmt.Errorf("pipeline: %d gradient lanes per rank are no power of two", per)
	}
	first, end := rank*microBatches/ranks, (rank+1)*microBatches/ranks
	lane := func(i int) int { return i * lanes / microBatches }
	var open []int // lanes begun and not merged into another, in order; the i-th is in buffer i
	for i := first; i < end; i++ {
		var s LaneStep
		begins := i == first || lane(i) != lane(i-1)
		if begins {
			open = append(open, lane(i))
			buffers = max(buffers, len(open))
		}
		s.Buffer, s.Accumulate = len(open)-1, !begins
		if i == end-1 || lane(i+1) != lane(i) {
			for len(open) > 1 {
				left, right := open[len(open)-2], open[len(open)-1]
				height := bits.Len(uint(left ^ right)) // of the smallest subtree that holds both
				if i < end-1 && lane(i+1)>>height == left>>height {
					break // more of that subtree is to come
				}
				s.Merges = append(s.Merges, Merge{Into: len(open) - 2, From: len(open) - 1})
				open = open[:len(open)-1]
			}
		}
		steps = append(steps, s)
	}
	return steps, buffers, nil
}
