// Package pipeline runs a training step's micro batches in the order of a schedule.
//
// A schedule is data: for each rank a list of actions, made by a pure function. Simulate proves that a table can run and
// says how many micro batches it keeps alive and how long ranks idle; the Executor runs one rank's list. Lanes is the
// second table: where each micro batch's gradients go and when the lanes are merged, so that the sum over a step has the
// same order of additions in every layout of ranks.
package pipeline

import (
	"fmt"
	"slices"
)

// A Kind is what an action does.
type Kind uint8

// The kinds. Backward is BackwardInput and BackwardWeight layer by layer, which needs less memory.
const (
	Forward Kind = iota
	Backward
	BackwardInput
	BackwardWeight
)

// String returns the letter that schedule tables use.
func (k Kind) String() string { return [...]string{"F", "B", "I", "W"}[k] }

// An Action is one pass of one micro batch through one chunk of layers. Chunks are numbered along the model, over all
// ranks; micro batches from 0 within a rank's share of the step.
type Action struct {
	Kind       Kind
	MicroBatch int
	Chunk      int
}

// String returns a cell such as "0F3": chunk 0, forward, micro batch 3.
func (a Action) String() string { return fmt.Sprintf("%d%v%d", a.Chunk, a.Kind, a.MicroBatch) }

// A Schedule lists each rank's actions in order.
type Schedule [][]Action

// Chunks returns the chunks that a rank runs, ascending.
func (s Schedule) Chunks(rank int) (chunks []int) {
	for _, a := range s[rank] {
		if i, found := slices.BinarySearch(chunks, a.Chunk); !found {
			chunks = slices.Insert(chunks, i, a.Chunk)
		}
	}
	return chunks
}

// OneFOneB returns the 1F1B schedule (PipeDream-flush: Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training",
// 2021) of one chunk per rank: rank r runs ranks-1-r forward passes ahead, then one forward and one backward in turn. On one
// rank that is a forward and a backward pass for each micro batch.
func OneFOneB(ranks, microBatches int) Schedule {
	s := make(Schedule, ranks)
	for r := range s {
		ahead := min(ranks-1-r, microBatches)
		for m := range ahead {
			s[r] = append(s[r], Action{Forward, m, r})
		}
		for m := range microBatches {
			if m+ahead < microBatches {
				s[r] = append(s[r], Action{Forward, m + ahead, r})
			}
			s[r] = append(s[r], Action{Backward, m, r})
		}
	}
	return s
}
