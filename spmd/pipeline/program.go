package pipeline

import (
	"cmp"
	"slices"
)

// A Program is what one rank does in a step: its actions, in order, and between them what it exchanges with other ranks of the
// pipeline. Exchanges run beside the actions, on one stream of their own, in order.
//
// Where the transfers go follows from the simulated times. A transfer takes place when what it carries is there, but not before the
// receiver begins the action before the one that needs it: so it overlaps with that action, and no rank receives what it has no use
// for yet. Transfers of one rank at one time make one exchange, in which none waits for another. So all waiting, for an exchange's
// turn, for the other end, for a buffer to be free, is for something earlier in the simulated time, and there is no circle.
type Program struct {
	Instructions []Instruction
	// Exchanges are numbered in the order in which they begin.
	Exchanges [][]Transfer
	// Slots is the number of records, Buffers that of the buffers for what goes from chunk to chunk.
	Slots, Buffers int
}

// An Instruction runs an action, or begins an exchange.
type Instruction struct {
	Action
	// Exchange is the number of an exchange, none where an action runs.
	Exchange int
	// Slot is that of the action's record.
	Slot int
	// Await is the number of the last exchange that must have ended before the action runs, none where there is none.
	Await int
	// In, Out, OutGradient and InGradient are the buffers of the chunk's input and output and of their gradients, none where the
	// chunk has none, as the first one has no input, or the action does not touch them.
	In, Out, OutGradient, InGradient int
}

// A Transfer sends a buffer to another stage of the pipeline, or receives it.
type Transfer struct {
	Value
	Stage   int // the other end
	Receive bool
	Buffer  int
}

// A Value is what goes from chunk to chunk: the input of a chunk in a micro batch, or its gradient.
type Value struct {
	MicroBatch, Chunk int
	Gradient          bool
}

// A route is the way of a value.
type route struct {
	Value
	at           float64 // when it takes place
	from, to     int     // ranks
	made, needed int     // actions of the ranks
}

// programs returns what each rank runs.
func programs(sim *simulation) []Program {
	routes := sim.routes()
	list := make([]Program, len(sim.schedule))
	for r := range list {
		w := newWriter(sim, r, routes)
		list[r] = w.write()
	}
	return list
}

// routes lists what goes from rank to rank, in an order that all agree on.
func (sim *simulation) routes() (list []route) {
	made, needed := map[Value][2]int{}, map[Value][2]int{} // rank and action
	for r, actions := range sim.schedule {
		for i, a := range actions {
			in, out := sim.values(a)
			for _, v := range in {
				if _, ok := needed[v]; !ok { // by BackwardInput, and once more by BackwardWeight
					needed[v] = [2]int{r, i}
				}
			}
			if out != nil {
				made[*out] = [2]int{r, i}
			}
		}
	}
	for v, to := range needed {
		from := made[v]
		if from[0] == to[0] {
			continue
		}
		x := route{Value: v, from: from[0], to: to[0], made: from[1], needed: to[1]}
		x.at = sim.report.Times[x.from][x.made].To
		if i := sim.first(x.to, x.needed); i > 0 {
			x.at = max(x.at, sim.report.Times[x.to][i-1].From)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b route) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.MicroBatch, b.MicroBatch), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(a.from, b.from))
	})
	return list
}

// values returns what of other chunks an action reads first, and what it makes for them.
func (sim *simulation) values(a Action) (in []Value, out *Value) {
	input := Value{MicroBatch: a.MicroBatch, Chunk: a.Chunk}
	output := Value{MicroBatch: a.MicroBatch, Chunk: a.Chunk + 1}
	inner, outer := a.Chunk > 0, a.Chunk < sim.chunks-1
	switch a.Kind {
	case Forward:
		if inner {
			in = append(in, input)
		}
		if outer {
			out = &output
		}
	case Backward, BackwardInput:
		if outer {
			output.Gradient = true
			in = append(in, output)
		}
		if inner {
			input.Gradient = true
			out = &input
		}
	}
	return in, out
}

// first and last return the first and the last of the actions that run together with one.
func (sim *simulation) first(rank, i int) int {
	if i > 0 && sim.schedule[rank][i-1].Overlapped {
		return i - 1
	}
	return i
}

func (sim *simulation) last(rank, i int) int {
	if sim.schedule[rank][i].Overlapped {
		return i + 1
	}
	return i
}

// A writer writes one rank's program.
type writer struct {
	sim      *simulation
	rank     int
	actions  []Action
	routes   [][]route     // by exchange
	position []int         // by exchange: the action that it comes before
	exchange map[Value]int // of what goes to other ranks or comes from there
	buffers  buffers
}

func newWriter(sim *simulation, rank int, all []route) *writer {
	w := &writer{sim: sim, rank: rank, actions: sim.schedule[rank], exchange: map[Value]int{}}
	for _, x := range all {
		if x.from != rank && x.to != rank {
			continue
		}
		n := len(w.routes)
		if n == 0 || w.routes[n-1][0].at != x.at {
			w.routes, w.position = append(w.routes, nil), append(w.position, 0)
			n++
		}
		w.routes[n-1] = append(w.routes[n-1], x)
		w.exchange[x.Value] = n - 1
		// An exchange begins as early as it can: when what it sends is there, and before the action that hides what it receives.
		earliest := 0
		if x.from == rank {
			earliest = sim.last(rank, x.made) + 1
		} else if i := sim.first(rank, x.needed); i > 0 {
			earliest = sim.first(rank, i-1)
		}
		w.position[n-1] = max(w.position[n-1], earliest)
		if n > 1 {
			w.position[n-1] = max(w.position[n-1], w.position[n-2])
		}
	}
	return w
}

// write returns the program.
func (w *writer) write() Program {
	w.placeBuffers()
	p := Program{Buffers: w.buffers.count}
	slots, n := assignSlots(w.actions)
	p.Slots = n
	begun := 0
	begin := func(before int) {
		for ; begun < len(w.routes) && w.position[begun] <= before; begun++ {
			p.Instructions = append(p.Instructions, Instruction{Exchange: begun})
			p.Exchanges = append(p.Exchanges, w.transfers(begun))
		}
	}
	for i, a := range w.actions {
		if w.sim.first(w.rank, i) == i {
			begin(i)
		}
		p.Instructions = append(p.Instructions, w.instruction(i, a, slots[i]))
	}
	begin(len(w.actions))
	return p
}

// none is the number of what is not there.
const none = -1

// instruction returns that of an action.
func (w *writer) instruction(i int, a Action, slot int) Instruction {
	x := Instruction{Action: a, Exchange: none, Slot: slot, Await: none, In: none, Out: none, OutGradient: none, InGradient: none}
	in, out := w.sim.values(a)
	for _, v := range in {
		if e, ok := w.exchange[v]; ok {
			x.Await = max(x.Await, e)
		}
	}
	if out != nil {
		x.Await = max(x.Await, w.buffers.after[*out])
	}
	buffer := func(chunk int, gradient bool) int {
		if b, ok := w.buffers.of[Value{a.MicroBatch, chunk, gradient}]; ok {
			return b
		}
		return none
	}
	x.In = buffer(a.Chunk, false)
	switch a.Kind {
	case Forward:
		x.Out = buffer(a.Chunk+1, false)
	case Backward, BackwardInput:
		x.OutGradient, x.InGradient = buffer(a.Chunk+1, true), buffer(a.Chunk, true)
	case BackwardWeight:
		x.OutGradient = buffer(a.Chunk+1, true)
	}
	return x
}

// transfers returns those of an exchange.
func (w *writer) transfers(exchange int) (list []Transfer) {
	for _, x := range w.routes[exchange] {
		t := Transfer{Value: x.Value, Stage: x.to, Buffer: w.buffers.of[x.Value]}
		if x.to == w.rank {
			t.Stage, t.Receive = x.from, true
		}
		list = append(list, t)
	}
	return list
}

// assignSlots gives each action the slot of its record, reusing those of finished micro batches, and returns the number of
// slots. A table of forward passes alone finishes a micro batch with each.
func assignSlots(actions []Action) (slots []int, n int) {
	training := slices.ContainsFunc(actions, func(a Action) bool { return a.Kind != Forward })
	held := map[pass]int{}
	var free []int
	for _, a := range actions {
		p := pass{a.MicroBatch, a.Chunk}
		if a.Kind == Forward {
			if len(free) == 0 {
				free = append(free, n)
				n++
			}
			held[p], free = free[len(free)-1], free[:len(free)-1]
		}
		slots = append(slots, held[p])
		if a.Kind == Backward || a.Kind == BackwardWeight || !training {
			free = append(free, held[p])
		}
	}
	return slots, n
}
