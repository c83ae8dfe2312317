package pipeline

import "fmt"

// A Report says what a schedule costs. Times count a forward pass, the gradient of the input and that of the weights as one
// unit each.
type Report struct {
	// Peak is, for each rank, the most records alive at once: (micro batch, chunk) pairs between their forward pass and the
	// end of their backward pass.
	Peak []int
	// Time is the length of the step, Bubble the share of it that ranks idle.
	Time   int
	Bubble float64
	// Split is, for each rank, whether it runs BackwardInput and BackwardWeight apart.
	Split []bool
}

// pass identifies a pass of a micro batch through a chunk.
type pass struct{ microBatch, chunk int }

// simulation is the state of a run of the table.
type simulation struct {
	schedule             Schedule
	chunks, microBatches int
	next                 []int // by rank: the next action
	clock                []int // by rank: when it is free
	forward, input       map[pass]int
	weights              []int // by chunk: micro batches whose weight gradient is done
	live                 []int // by rank
	report               Report
}

// Simulate runs the table for a model of the given number of chunks and checks it: every micro batch passes every chunk
// forward and backward exactly once, no action waits for one that can never come, and each chunk's weight gradients come in
// the order of the micro batches, on which the promise of equal bits rests.
func Simulate(s Schedule, chunks, microBatches int) (Report, error) {
	sim := &simulation{schedule: s, chunks: chunks, microBatches: microBatches,
		next: make([]int, len(s)), clock: make([]int, len(s)), live: make([]int, len(s)),
		forward: map[pass]int{}, input: map[pass]int{}, weights: make([]int, chunks)}
	sim.report.Peak, sim.report.Split = make([]int, len(s)), make([]bool, len(s))
	for {
		progress, done := false, true
		for r := range s {
			for sim.next[r] < len(s[r]) {
				ran, err := sim.try(r, s[r][sim.next[r]])
				if err != nil {
					return Report{}, fmt.Errorf("pipeline: rank %d, action %d (%v): %w", r, sim.next[r], s[r][sim.next[r]], err)
				}
				if !ran {
					done = false
					break
				}
				progress = true
				sim.next[r]++
			}
		}
		if done {
			return sim.finish()
		}
		if !progress {
			return Report{}, sim.deadlock()
		}
	}
}

// try runs an action if what it depends on has run.
func (sim *simulation) try(rank int, a Action) (bool, error) {
	if a.Chunk < 0 || a.Chunk >= sim.chunks || a.MicroBatch < 0 || a.MicroBatch >= sim.microBatches {
		return false, fmt.Errorf("it is outside %d chunks and %d micro batches", sim.chunks, sim.microBatches)
	}
	p := pass{a.MicroBatch, a.Chunk}
	start, length := sim.clock[rank], 1
	after := func(done map[pass]int, q pass) bool {
		t, ok := done[q]
		start = max(start, t)
		return ok
	}
	switch a.Kind {
	case Forward:
		if _, twice := sim.forward[p]; twice {
			return false, fmt.Errorf("its forward pass has run before")
		}
		if p.chunk > 0 && !after(sim.forward, pass{p.microBatch, p.chunk - 1}) {
			return false, nil
		}
		sim.forward[p] = start + length
		sim.live[rank]++
		sim.report.Peak[rank] = max(sim.report.Peak[rank], sim.live[rank])
	case Backward, BackwardInput:
		if _, twice := sim.input[p]; twice {
			return false, fmt.Errorf("its backward pass has run before")
		}
		if !after(sim.forward, p) || p.chunk < sim.chunks-1 && !after(sim.input, pass{p.microBatch, p.chunk + 1}) {
			return false, nil
		}
		sim.input[p] = start + length
		if a.Kind == Backward {
			length = 2
			sim.input[p] = start + length
			return true, sim.weightDone(rank, p, start+length)
		}
		sim.report.Split[rank] = true
	case BackwardWeight:
		if !after(sim.input, p) {
			return false, nil
		}
		return true, sim.weightDone(rank, p, start+length)
	}
	sim.clock[rank] = start + length
	return true, nil
}

// weightDone records that a weight gradient is complete, which ends the life of the record.
func (sim *simulation) weightDone(rank int, p pass, at int) error {
	if want := sim.weights[p.chunk]; p.microBatch != want {
		return fmt.Errorf("the weight gradient of micro batch %d comes before that of %d", p.microBatch, want)
	}
	sim.weights[p.chunk]++
	sim.live[rank]--
	sim.clock[rank] = at
	return nil
}

func (sim *simulation) finish() (Report, error) {
	for c, n := range sim.weights {
		if n != sim.microBatches {
			return Report{}, fmt.Errorf("pipeline: chunk %d has %d of %d backward passes", c, n, sim.microBatches)
		}
	}
	for _, t := range sim.clock {
		sim.report.Time = max(sim.report.Time, t)
	}
	work := 3 * sim.chunks * sim.microBatches
	sim.report.Bubble = 1 - float64(work)/float64(len(sim.schedule)*sim.report.Time)
	return sim.report, nil
}

func (sim *simulation) deadlock() error {
	for r, list := range sim.schedule {
		if sim.next[r] < len(list) {
			return fmt.Errorf("pipeline: the schedule deadlocks: rank %d waits at action %d (%v) for a pass that never comes", r, sim.next[r], list[sim.next[r]])
		}
	}
	return nil
}
