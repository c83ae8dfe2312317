package collective

import (
	"fmt"
	"maps"
	"net"
	"slices"
)

// join notes a rank's address and facts; the last one to join completes the job. r.mu is held.
func (r *Root) join(rank int, m message) error {
	if m.Size != len(r.members) {
		r.decide(message{Kind: kindRefused, Rank: rank, Cause: fmt.Sprintf("rank %d was started for a job of %d ranks, the root for %d", rank, m.Size, len(r.members))})
		return nil
	}
	if _, _, err := net.SplitHostPort(m.Address); err != nil || len(m.Facts) > maxFacts {
		return fmt.Errorf("it joined with address %q and %d facts", m.Address, len(m.Facts))
	}
	self := &r.members[rank]
	self.state, self.address, self.local, self.facts = present, m.Address, m.Local, m.Facts
	r.silence = max(r.silence, m.Silence)
	if r.joined++; r.joined < len(r.members) {
		if r.joined == 1 && r.failure == nil {
			r.timer.Reset(r.o.Timeout)
		}
		return nil
	}
	r.timer.Stop()
	if f := r.disagreement(); f != nil {
		r.decide(*f)
		return nil
	}
	return r.form()
}

// form tells all ranks that the job has formed, and where the others listen. From now on silence is a failure. r.mu is held.
func (r *Root) form() error {
	addresses, locals := make([]string, len(r.members)), make([]string, len(r.members))
	for i := range r.members {
		addresses[i], locals[i] = r.members[i].address, r.members[i].local
	}
	if !slices.ContainsFunc(locals, func(s string) bool { return s != "" }) {
		locals = nil
	}
	table, err := newAddressTable(addresses)
	if err != nil {
		return err
	}
	for c, purpose := range r.below {
		c.listenFor(r.silence)
		// The ranks under launch see its end by other means, and it may be suspended for as long as its user likes.
		beats := purpose == purposeRelay || !r.o.Supervised
		r.tell(c, message{Kind: kindTable, Table: table, Locals: locals, Silence: r.silence, Beats: beats})
		if beats {
			c.beat(r.silence)
		}
	}
	return nil
}

// disagreement compares every rank's facts with rank 0's. r.mu is held.
func (r *Root) disagreement() *message {
	first := r.members[0].facts
	for rank := range r.members {
		facts := r.members[rank].facts
		names := slices.Sorted(maps.Keys(first))
		for name := range facts {
			if _, ok := first[name]; !ok {
				names = append(names, name)
			}
		}
		for _, name := range names {
			want, ok := first[name]
			got, has := facts[name]
			if ok && has && want == got {
				continue
			}
			return &message{Kind: kindRefused, Rank: rank, Cause: fmt.Sprintf("the ranks disagree on the %s: rank %d has %s, rank 0 has %s; all ranks must be the same",
				name, rank, quoteFact(got, has), quoteFact(want, ok))}
		}
	}
	return nil
}

func quoteFact(value string, ok bool) string {
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%q", value)
}

// joinTimeout is called when the ranks have had their time to join, and again as long as all that is missing is prepared.
func (r *Root) joinTimeout() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.joined == len(r.members) || r.failure != nil || r.closed {
		return
	}
	missing, preparing := r.missing()
	switch {
	case len(missing) > 0:
		r.decide(message{Kind: kindRefused, Rank: missing[0], Cause: fmt.Sprintf("%s did not join within %v", rankList(missing), r.o.Timeout)})
	case preparing:
		r.timer.Reset(r.o.Timeout)
		r.tellAll(message{Kind: kindWait})
	}
	// Else a rank came and went, whose loss is being decided.
}
