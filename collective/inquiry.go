package collective

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// When an operation makes no progress, the rank that times out knows only whom it waits for, and that one may itself wait
// for another. So it asks the root, which asks all ranks where they stand, and blames those that do not answer or have not
// arrived at the operation.

// inquiryTime is how long ranks have to say where they stand. They answer from a goroutine that does nothing else.
const inquiryTime = time.Second

// An inquiry is the root's collection of answers about one stalled operation.
type inquiry struct {
	stall   operation
	after   string // how long it has made no progress
	answers map[int][]operation
	timer   *time.Timer
}

// inquire starts an inquiry, unless one is running or the job has failed. r.mu is held.
func (r *Root) inquire(stall operation, after string) {
	for _, m := range append(stall.Members, stall.Waiting) {
		if m < 0 || m >= len(r.members) {
			return // no group of this job; the reporting rank ends with its own error
		}
	}
	if r.inquiry != nil || r.failure != nil || r.suspect >= 0 {
		return
	}
	r.inquiry = &inquiry{stall: stall, after: after, answers: map[int][]operation{}}
	r.inquiry.timer = time.AfterFunc(inquiryTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.conclude()
	})
	r.tellAll(message{Kind: kindQuery})
}

// answered notes a rank's answer; the last one ends the inquiry. r.mu is held.
func (r *Root) answered(rank int, ops []operation) {
	q := r.inquiry
	if q == nil {
		return
	}
	q.answers[rank] = ops
	for _, m := range q.stall.Members {
		if _, ok := q.answers[m]; !ok && r.members[m].state == present {
			return
		}
	}
	q.timer.Stop()
	r.conclude()
}

// conclude blames the late ranks. r.mu is held.
func (r *Root) conclude() {
	q := r.inquiry
	var late []int
	var notes []string
	for _, m := range q.stall.Members {
		if note := q.late(m, r.members[m].state); note != "" {
			late = append(late, m)
			notes = append(notes, fmt.Sprintf("rank %d %s", m, note))
		}
	}
	if len(late) == 0 { // all are there and still nothing moves: what is left is the rank that is waited for
		late = []int{q.stall.Waiting}
		notes = []string{fmt.Sprintf("all members have arrived, but nothing comes from rank %d", q.stall.Waiting)}
	}
	r.decide(message{Kind: kindTimeout, Rank: late[0], Ranks: late, Cause: fmt.Sprintf("no progress for %s in %s: %s",
		q.after, q.stall.Name, strings.Join(notes, "; "))})
}

// late says why a member has not arrived at the stalled operation, "" if it has.
func (q *inquiry) late(rank int, state memberState) string {
	if state == gone {
		return "has already left the job"
	}
	ops, ok := q.answers[rank]
	if !ok {
		return "does not answer (stopped, or its process is stuck)"
	}
	i := slices.IndexFunc(ops, func(op operation) bool { return op.Group == q.stall.Group })
	switch {
	case i < 0:
		return "has not made the group"
	case ops[i].Sequence >= q.stall.Sequence:
		return ""
	case ops[i].Sequence == 0:
		return "has not arrived (it has called nothing yet)"
	case ops[i].Inside:
		return "has not arrived (it is in " + ops[i].Name + ")"
	}
	return "has not arrived (its last was " + ops[i].Name + ")"
}
