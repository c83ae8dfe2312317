package pipeline

import (
	"fmt"
	"slices"
)

// Costs are the times that the passes of a micro batch through a chunk take, by chunk, in any unit. A whole backward pass takes Input
// and Weight.
type Costs struct{ Forward, Input, Weight []float64 }

// UnitCosts are those of the literature: each pass through each chunk takes one unit.
func UnitCosts(chunks int) Costs {
	one := slices.Repeat([]float64{1}, chunks)
	return Costs{one, one, one}
}

func (c *Costs) of(a Action) float64 {
	switch a.Kind {
	case Forward:
		return c.Forward[a.Chunk]
	case BackwardInput:
		return c.Input[a.Chunk]
	case BackwardWeight:
		return c.Weight[a.Chunk]
	}
	return c.Input[a.Chunk] + c.Weight[a.Chunk]
}

// A Report says what a schedule costs, where what ranks send each other takes no time.
type Report struct {
	// Peak is, for each rank, the most records alive at once: (micro batch, chunk) pairs between their forward pass and the
	// end of their backward pass.
	Peak []int
	// Time is the length of the step, Bubble the share of it that ranks idle, all together.
	Time, Bubble float64
	// Split is, for each rank, whether it runs BackwardInput and BackwardWeight apart.
	Split []bool
	// Times are, for each rank, when its actions run.
	Times [][]Interval
	// Home is, for each chunk, the rank that it is on.
	Home []int
	// Programs are what the ranks run.
	Programs []Program
}

// An Interval is from when to when an action runs.
type Interval struct{ From, To float64 }

// pass identifies a pass of a micro batch through a chunk.
type pass struct{ microBatch, chunk int }

// simulation is the state of a run of the table.
type simulation struct {
	schedule             Schedule
	chunks, microBatches int
	costs                Costs
	training             bool             // there are backward passes
	home                 []int            // by chunk: its rank
	next                 []int            // by rank: the next action
	clock                []float64        // by rank: when it is free
	forward, input       map[pass]float64 // when the passes are done
	firsts, weights      []int            // by chunk: micro batches whose forward pass, whose weight gradient is done
	live                 []int            // by rank
	report               Report
}

// Simulate runs the table for a model of the given number of chunks and checks it: every chunk is on one rank, every micro batch
// passes every chunk forward and backward exactly once, no action waits for one that can never come, and each chunk's weight
// gradients come in the order of the micro batches, on which the promise of equal bits rests; those of the output head come with
// the last chunk's forward passes. The Programs that come of it have been proved to end: see verify.
func Simulate(s Schedule, chunks, microBatches int, costs Costs) (Report, error) {
	return simulate(&simulation{schedule: s, chunks: chunks, microBatches: microBatches, costs: costs, training: true})
}

// SimulateForward makes a table of the forward passes alone, for chunks on the ranks of s, and runs it.
func SimulateForward(s Schedule, chunks, microBatches int, costs Costs) (Report, error) {
	training := &simulation{schedule: s, chunks: chunks, microBatches: microBatches}
	if err := training.settle(); err != nil {
		return Report{}, err
	}
	return simulate(&simulation{schedule: forwardOnly(training.home, len(s), microBatches), chunks: chunks, microBatches: microBatches, costs: costs})
}

func simulate(sim *simulation) (Report, error) {
	s := sim.schedule
	sim.next, sim.clock, sim.live = make([]int, len(s)), make([]float64, len(s)), make([]int, len(s))
	sim.forward, sim.input = map[pass]float64{}, map[pass]float64{}
	sim.firsts, sim.weights = make([]int, sim.chunks), make([]int, sim.chunks)
	sim.report = Report{Peak: make([]int, len(s)), Split: make([]bool, len(s)), Times: make([][]Interval, len(s))}
	if err := sim.settle(); err != nil {
		return Report{}, err
	}
	for {
		progress, done := false, true
		for r := range s {
			for sim.next[r] < len(s[r]) {
				ran, err := sim.step(r)
				if err != nil {
					return Report{}, fmt.Errorf("pipeline: rank %d, action %d (%v): %w", r, sim.next[r], s[r][sim.next[r]], err)
				}
				if !ran {
					done = false
					break
				}
				progress = true
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

// settle finds the rank of each chunk.
func (sim *simulation) settle() error {
	sim.home = slices.Repeat([]int{-1}, sim.chunks)
	for r, list := range sim.schedule {
		for i, a := range list {
			switch {
			case a.Chunk < 0 || a.Chunk >= sim.chunks || a.MicroBatch < 0 || a.MicroBatch >= sim.microBatches:
				return fmt.Errorf("pipeline: rank %d, action %d (%v): it is outside %d chunks and %d micro batches", r, i, a, sim.chunks, sim.microBatches)
			case sim.home[a.Chunk] >= 0 && sim.home[a.Chunk] != r:
				return fmt.Errorf("pipeline: rank %d, action %d (%v): chunk %d is on rank %d too", r, i, a, a.Chunk, sim.home[a.Chunk])
			case a.Overlapped && (a.Kind != Forward || i+1 == len(list) || list[i+1].Kind != Backward):
				return fmt.Errorf("pipeline: rank %d, action %d (%v): what runs together is a forward and then a backward pass", r, i, a)
			}
			sim.home[a.Chunk] = r
		}
	}
	if c := slices.Index(sim.home, -1); c >= 0 {
		return fmt.Errorf("pipeline: chunk %d is on no rank", c)
	}
	return nil
}

// step runs a rank's next action, or the two that run together, if what they depend on has run.
func (sim *simulation) step(rank int) (bool, error) {
	list, i := sim.schedule[rank], sim.next[rank]
	together := list[i : i+1]
	if list[i].Overlapped {
		together = list[i : i+2]
	}
	run := Interval{sim.clock[rank], sim.clock[rank]}
	length := 0.0
	for _, a := range together {
		ready, ok, err := sim.ready(a)
		if err != nil || !ok {
			return false, err
		}
		run.From = max(run.From, ready)
		length += sim.costs.of(a)
	}
	run.To = run.From + length
	for _, a := range together {
		if err := sim.run(rank, a, run.To); err != nil {
			return false, err
		}
		sim.next[rank]++
		sim.report.Times[rank] = append(sim.report.Times[rank], run)
	}
	sim.clock[rank] = run.To
	return true, nil
}

// ready returns when what the action depends on is done, and whether it is.
func (sim *simulation) ready(a Action) (at float64, ok bool, err error) {
	p := pass{a.MicroBatch, a.Chunk}
	after := func(done map[pass]float64, q pass) bool {
		t, ok := done[q]
		at = max(at, t)
		return ok
	}
	switch a.Kind {
	case Forward:
		if _, twice := sim.forward[p]; twice {
			return 0, false, fmt.Errorf("its forward pass has run before")
		}
		return at, p.chunk == 0 || after(sim.forward, pass{p.microBatch, p.chunk - 1}), err
	case BackwardWeight:
		return at, after(sim.input, p), err
	}
	if _, twice := sim.input[p]; twice {
		return 0, false, fmt.Errorf("its backward pass has run before")
	}
	return at, after(sim.forward, p) && (p.chunk == sim.chunks-1 || after(sim.input, pass{p.microBatch, p.chunk + 1})), err
}

// run notes that an action is done.
func (sim *simulation) run(rank int, a Action, at float64) error {
	p := pass{a.MicroBatch, a.Chunk}
	switch a.Kind {
	case Forward:
		if sim.firsts[a.Chunk] != a.MicroBatch && a.Chunk == sim.chunks-1 {
			return fmt.Errorf("the gradient of the output head for micro batch %d comes before that for %d", a.MicroBatch, sim.firsts[a.Chunk])
		}
		sim.firsts[a.Chunk]++
		sim.forward[p] = at
		sim.live[rank]++
		sim.report.Peak[rank] = max(sim.report.Peak[rank], sim.live[rank])
		return nil
	case BackwardInput:
		sim.report.Split[rank] = true
		sim.input[p] = at
		return nil
	case Backward:
		sim.input[p] = at
	}
	if want := sim.weights[a.Chunk]; a.MicroBatch != want {
		return fmt.Errorf("the weight gradient of micro batch %d comes before that of %d", a.MicroBatch, want)
	}
	sim.weights[a.Chunk]++
	sim.live[rank]--
	return nil
}

func (sim *simulation) finish() (r Report, err error) {
	for c, n := range sim.firsts {
		if n != sim.microBatches || sim.training && sim.weights[c] != n {
			return r, fmt.Errorf("pipeline: chunk %d has %d forward and %d backward passes of %d", c, n, sim.weights[c], sim.microBatches)
		}
	}
	r = sim.report
	r.Home = sim.home
	work := 0.0
	for rank, list := range sim.schedule {
		r.Time = max(r.Time, sim.clock[rank])
		for _, a := range list {
			work += sim.costs.of(a)
		}
	}
	r.Bubble = max(0, 1-work/(float64(len(sim.schedule))*r.Time))
	r.Programs = programs(sim)
	return r, verify(r.Programs, sim)
}

func (sim *simulation) deadlock() error {
	for r, list := range sim.schedule {
		if sim.next[r] < len(list) {
			return fmt.Errorf("pipeline: the schedule deadlocks: rank %d waits at action %d (%v) for a pass that never comes", r, sim.next[r], list[sim.next[r]])
		}
	}
	return nil
}
