package pipeline

import (
	"cmp"
	"slices"
	"sort"
)

// buffers says which buffer each value that leaves or enters a chunk is in, and where one is used again.
type buffers struct {
	count int
	of    map[Value]int
	// after is, of a value that the rank itself makes, the exchange that must have ended before it is written, because it sends
	// what was in the buffer before; none where there is none.
	after map[Value]int
}

// A lifetime is how long a value needs its buffer.
type lifetime struct {
	value    Value
	from, to int // actions, with both
	receive  int // the exchange that receives it, none where this rank makes it
	send     int // the exchange that sends it, none where this rank needs it
}

// placeBuffers gives the values that this rank makes, sends or receives their buffers.
func (w *writer) placeBuffers() {
	lives := w.lifetimes()
	slices.SortFunc(lives, func(a, b lifetime) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.value.MicroBatch, b.value.MicroBatch), cmp.Compare(a.value.Chunk, b.value.Chunk))
	})
	b := &w.buffers
	b.of, b.after = map[Value]int{}, map[Value]int{}
	var last []lifetime // by buffer: what was in it
	for _, l := range lives {
		at := slices.IndexFunc(last, l.follows)
		if at < 0 {
			at = len(last)
			last = append(last, lifetime{send: none})
		}
		b.of[l.value] = at
		if l.receive == none {
			b.after[l.value] = last[at].send
		}
		last[at] = l
	}
	b.count = len(last)
}

// follows reports whether l may have the buffer of before. A send that is enqueued before a receive ends before it.
func (l lifetime) follows(before lifetime) bool {
	return before.to < l.from && (l.receive == none || before.send < l.receive)
}

// lifetimes lists those of all values.
func (w *writer) lifetimes() []lifetime {
	lives := map[Value]*lifetime{}
	of := func(v Value, at int) *lifetime {
		if lives[v] == nil {
			lives[v] = &lifetime{value: v, from: at, to: at, receive: none, send: none}
		}
		return lives[v]
	}
	for i, a := range w.actions {
		in, out := w.sim.values(a)
		if out != nil {
			l := of(*out, w.sim.first(w.rank, i))
			if e, ok := w.exchange[*out]; ok {
				l.send, l.to = e, max(w.sim.last(w.rank, i), w.sent(e)-1)
			}
		}
		for _, v := range in {
			if e, ok := w.exchange[v]; ok {
				of(v, w.position[e]).receive = e
			}
		}
		// Both the input and its counterpart, the gradient of the output, are needed to the end of the backward pass.
		for _, v := range []Value{{a.MicroBatch, a.Chunk, false}, {a.MicroBatch, a.Chunk + 1, true}} {
			if l := lives[v]; l != nil && l.send == none {
				l.to = max(l.to, w.sim.last(w.rank, i))
			}
		}
	}
	list := make([]lifetime, 0, len(lives))
	for _, l := range lives {
		list = append(list, *l)
	}
	return list
}

// sent returns the first action that may write to a buffer that an exchange sends: one that begins later, in the simulated time, so
// that the one which begins with the exchange need not wait for it.
func (w *writer) sent(exchange int) int {
	at, times := w.routes[exchange][0].at, w.sim.report.Times[w.rank]
	return sort.Search(len(times), func(i int) bool { return times[i].From > at })
}
