// Package pipeline runs a training step's micro batches in the order of a schedule.
//
// A schedule is data: for each rank a list of actions, made by a pure function or read from a file. Simulate proves that a table
// can run and says how many micro batches it keeps alive and how long ranks idle; programs adds what ranks send each other; the
// Executor runs one rank's list. Lanes is the second table: where each micro batch's gradients go and when the lanes are merged, so
// that the sum over a step has the same order of additions in every layout of ranks.
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
	// Overlapped says, of a forward pass, that it runs together with the backward pass that follows it in the list: layer by
	// layer in turn, so that what the one waits for is hidden behind the other.
	Overlapped bool
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

// NumChunks returns the number of chunks of all ranks.
func (s Schedule) NumChunks() int { return s.count(func(a Action) int { return a.Chunk }) }

// NumMicroBatches returns the number of micro batches.
func (s Schedule) NumMicroBatches() int { return s.count(func(a Action) int { return a.MicroBatch }) }

func (s Schedule) count(number func(Action) int) (n int) {
	for _, list := range s {
		for _, a := range list {
			n = max(n, number(a)+1)
		}
	}
	return n
}

// A Shape is what a schedule is made for.
type Shape struct {
	Ranks        int // of a pipeline
	Virtual      int // chunks of each rank
	MicroBatches int
}

// A Generator makes a schedule.
type Generator struct {
	// Virtual is the number of chunks of each rank; 0 leaves it to the user, who gives 2 or more.
	Virtual int
	// Least returns the fewest micro batches for a number of ranks.
	Least func(ranks int) int
	// Make makes the schedule of a Shape that fits.
	Make func(s Shape) Schedule
}

// Generators returns the schedules by their names in parallel.pipeline_schedule.
func Generators() map[string]Generator {
	any := func(int) int { return 1 }
	return map[string]Generator{
		"gpipe":            {1, any, gpipe},
		"1f1b":             {1, any, oneFOneB},
		"zb-h1":            {1, any, zeroBubbleH1},
		"interleaved-1f1b": {0, any, interleaved},
		"zb-v":             {2, any, zeroBubbleV},
		"dualpipe-v":       {2, func(ranks int) int { return 2 * ranks }, dualPipeV},
	}
}
