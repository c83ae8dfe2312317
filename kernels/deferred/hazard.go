package deferred

import (
	"fmt"
	"slices"
	"sort"

	"lockstep/kernels/device"
)

// A clock is a vector clock (C. Fidge, F. Mattern, 1988): for each stream, by its id, the last ticket that is ordered
// before a point. Missing components are 0.
type clock []uint64

func (c clock) at(id int) uint64 {
	if id >= len(c) {
		return 0
	}
	return c[id]
}

func (c *clock) set(id int, ticket uint64) {
	for len(*c) <= id {
		*c = append(*c, 0)
	}
	(*c)[id] = ticket
}

// join makes c the later of c and o in each component.
func (c *clock) join(o clock) {
	for id, ticket := range o {
		if c.at(id) < ticket {
			c.set(id, ticket)
		}
	}
}

func (c clock) clone() clock { return slices.Clone(c) }

// An access is what one piece of work did to a span. The zero access is none.
type access struct {
	stream *stream
	ticket uint64
	work   string
}

// A span is a range of bytes whose last writer, and whose readers since, are the same throughout. A storage has a list of
// them, in order and apart; bytes in none have not been touched.
type span struct {
	from, to int
	writer   access
	readers  []access
}

// claim notes w as the next work of s. It returns an error if w conflicts with work that s is not ordered after.
func (s *stream) claim(w device.Work) error {
	var err error
	me := access{stream: s, ticket: s.enqueued + 1, work: w.Name()}
	w.Accesses(func(r device.Region, write bool) {
		if err == nil && r.Storage != nil && r.Bytes > 0 {
			err = s.device.claim(me, r, write)
		}
	})
	return err
}

func (d *Device) claim(me access, r device.Region, write bool) error {
	from, to := r.Offset, r.Offset+r.Bytes
	spans := cut(cut(d.spans[r.Storage], from), to)
	first := sort.Search(len(spans), func(i int) bool { return spans[i].from >= from })
	end := first
	for ; end < len(spans) && spans[end].from < to; end++ {
		if other, wrote := d.conflict(me, &spans[end], write); other.stream != nil {
			d.spans[r.Storage] = spans
			return missingWait(me, write, other, wrote)
		}
	}
	switch {
	case write && end == first+1:
		spans[first] = span{from: from, to: to, writer: me, readers: spans[first].readers[:0]}
	case write:
		spans = slices.Replace(spans, first, end, span{from: from, to: to, writer: me})
	default:
		spans = d.read(me, spans, first, end, from, to)
	}
	d.spans[r.Storage] = spans
	return nil
}

// cut makes at a border between spans.
func cut(spans []span, at int) []span {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].to > at })
	if i == len(spans) || spans[i].from >= at {
		return spans
	}
	right := spans[i]
	right.from, right.readers = at, slices.Clone(right.readers)
	spans[i].to = at
	return slices.Insert(spans, i+1, right)
}

// conflict returns work on x that me is not ordered after, and whether it wrote.
func (d *Device) conflict(me access, x *span, write bool) (other access, wrote bool) {
	if !d.ordered(x.writer, me.stream) {
		return x.writer, true
	}
	for _, reader := range x.readers {
		if write && !d.ordered(reader, me.stream) {
			return reader, false
		}
	}
	return access{}, false
}

// ordered reports whether the next work of s comes after a: on the same stream, through events, or because the host has
// waited for a.
func (d *Device) ordered(a access, s *stream) bool {
	return a.stream == nil || a.stream == s || a.ticket <= max(s.clock.at(a.stream.id), d.host.at(a.stream.id))
}

// read adds me to the readers of spans[first:end], which lie in [from, to), and makes spans of the gaps. Readers that me
// is ordered after are dropped: who is ordered after me is ordered after them.
func (d *Device) read(me access, spans []span, first, end, from, to int) []span {
	var gaps []span
	at := from
	for i := first; i < end; i++ {
		x := &spans[i]
		x.readers = append(slices.DeleteFunc(x.readers, func(a access) bool { return d.ordered(a, me.stream) }), me)
		if at < x.from {
			gaps = append(gaps, span{from: at, to: x.from, readers: []access{me}})
		}
		at = x.to
	}
	if at < to {
		gaps = append(gaps, span{from: at, to: to, readers: []access{me}})
	}
	for _, gap := range gaps {
		i := sort.Search(len(spans), func(i int) bool { return spans[i].from >= gap.from })
		spans = slices.Insert(spans, i, gap)
	}
	return spans
}

func missingWait(me access, write bool, other access, wrote bool) error {
	verb := map[bool]string{true: "writes", false: "reads"}
	on, of := me.stream.Name(), other.stream.Name()
	return fmt.Errorf("%s on stream %s %s memory that %s on stream %s %s, and nothing orders the two: "+
		"before %s, stream %s must wait for an event recorded on stream %s after %s",
		me.work, on, verb[write], other.work, of, verb[wrote], me.work, on, of, other.work)
}
