package pipeline

import (
	"fmt"
	"slices"
)

// verify runs programs with transfers that take place only when both ends are in their exchange, and each rank's exchanges one
// after the other: the rules of HCCL, under which what a rank sends is not kept for the receiver. It proves that they end, and that
// whatever reads a buffer has waited for what fills it, and whatever fills it for what reads it.
func verify(programs []Program, sim *simulation) error {
	v := &verification{sim: sim}
	for rank := range programs {
		v.ranks = append(v.ranks, rankState{Program: &programs[rank], awaited: none, buffers: make([]content, programs[rank].Buffers)})
	}
	for {
		progress, done := false, true
		for rank := range v.ranks {
			r := &v.ranks[rank]
			for r.at < len(r.Instructions) {
				ran, err := v.instruct(r)
				if err != nil {
					return fmt.Errorf("pipeline: rank %d, instruction %d (%+v): %w", rank, r.at, r.Instructions[r.at], err)
				}
				if !ran {
					break
				}
				r.at++
				progress = true
			}
			progress = v.exchange(rank) || progress
			done = done && r.at == len(r.Instructions) && r.ended == len(r.Exchanges)
		}
		if done {
			return nil
		}
		if !progress {
			return v.deadlock()
		}
	}
}

type verification struct {
	sim   *simulation
	ranks []rankState
}

// rankState is how far a rank's program has come.
type rankState struct {
	*Program
	at           int // the next instruction
	begun, ended int // exchanges
	transferred  []bool
	awaited      int // the last exchange that the actions have waited for
	buffers      []content
}

// content is what is in a buffer, and what has put it there.
type content struct {
	value    Value
	there    bool
	exchange int // none where an action has
}

// instruct runs the next instruction of a rank, if it need not wait.
func (v *verification) instruct(r *rankState) (bool, error) {
	x := r.Instructions[r.at]
	if x.Exchange != none {
		if x.Exchange != r.begun {
			return false, fmt.Errorf("exchange %d begins out of turn", x.Exchange)
		}
		r.begun++
		return true, nil
	}
	if x.Await >= r.ended {
		return false, nil
	}
	r.awaited = max(r.awaited, x.Await)
	in, out := v.sim.values(x.Action)
	if x.Kind == BackwardWeight || x.Kind == Backward || x.Kind == BackwardInput {
		in = nil
		if x.Chunk > 0 {
			in = append(in, Value{x.MicroBatch, x.Chunk, false})
		}
		if x.Chunk < v.sim.chunks-1 {
			in = append(in, Value{x.MicroBatch, x.Chunk + 1, true})
		}
	}
	for _, value := range in {
		at := x.In
		if value.Gradient {
			at = x.OutGradient
		}
		if at == none || !r.buffers[at].there || r.buffers[at].value != value || r.buffers[at].exchange > r.awaited {
			return false, fmt.Errorf("it reads %+v, which is not in buffer %d", value, at)
		}
	}
	if out == nil {
		return true, nil
	}
	at := x.Out
	if out.Gradient {
		at = x.InGradient
	}
	for e := r.awaited + 1; e < r.begun; e++ {
		if at == none || slices.ContainsFunc(r.Exchanges[e], func(t Transfer) bool { return t.Buffer == at }) {
			return false, fmt.Errorf("it writes %+v to buffer %d, which exchange %d uses", *out, at, e)
		}
	}
	r.buffers[at] = content{*out, true, none}
	return true, nil
}

// exchange makes the transfers of a rank's exchange that the other ends are ready for, and reports whether there were any.
func (v *verification) exchange(rank int) (progress bool) {
	r := &v.ranks[rank]
	for i, t := range r.current() {
		other := &v.ranks[t.Stage]
		peer := slices.IndexFunc(other.current(), func(o Transfer) bool {
			return o.Stage == rank && o.Value == t.Value && o.Receive != t.Receive
		})
		if peer < 0 || r.transferred[i] {
			continue
		}
		progress, r.transferred[i], other.transferred[peer] = true, true, true
		if o := other.current()[peer]; t.Receive {
			r.receive(t.Buffer, other.buffers[o.Buffer])
		} else {
			other.receive(o.Buffer, r.buffers[t.Buffer])
		}
	}
	if len(r.transferred) > 0 && !slices.Contains(r.transferred, false) {
		r.ended++
		progress, r.transferred = true, nil
	}
	return progress
}

// receive fills a buffer.
func (r *rankState) receive(buffer int, from content) {
	r.buffers[buffer] = content{from.value, from.there, r.ended}
}

// current returns the exchange that the rank is in, none where it is in none.
func (r *rankState) current() []Transfer {
	if r.ended == r.begun {
		return nil
	}
	list := r.Exchanges[r.ended]
	if r.transferred == nil {
		r.transferred = make([]bool, len(list))
	}
	return list
}

func (v *verification) deadlock() error {
	for rank, r := range v.ranks {
		if r.ended < r.begun {
			return fmt.Errorf("pipeline: the schedule deadlocks: rank %d waits in exchange %d (%+v)", rank, r.ended, r.Exchanges[r.ended])
		}
	}
	return fmt.Errorf("pipeline: the schedule deadlocks: no exchange is under way")
}
