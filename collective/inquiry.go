package collective

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// When an operation makes no progress, the rank that times out knows only whom it waits for, and that one may itself wait
// for another. So it asks the root, which asks the group's members where they stand, and blames those that do not answer, have
// not arrived at the operation, or are in another one.

// inquiryTime is how long ranks have to say where they stand. They answer from a goroutine that does nothing else.
const inquiryTime = time.Second

// maxStacks is how many late ranks' stacks a report shows; the others are usually at the same place.
const maxStacks = 4

// An inquiry is the root's collection of answers about one stalled operation.
type inquiry struct {
	stall   operation
	after   string // how long it has made no progress
	answers map[int][]operation
	missing int // members that have not answered yet
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
	for _, m := range stall.Members {
		if r.members[m].state == present {
			r.inquiry.missing++
		}
	}
	r.inquiry.timer = time.AfterFunc(inquiryTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.conclude()
	})
	r.tellAll(message{Kind: kindQuery, Stall: &stall})
}

// answered notes a rank's answer; the last one ends the inquiry. r.mu is held.
func (r *Root) answered(rank int, ops []operation) {
	q := r.inquiry
	if q == nil || !slices.Contains(q.stall.Members, rank) {
		return
	}
	if _, again := q.answers[rank]; again {
		return
	}
	q.answers[rank] = ops
	if q.missing--; q.missing == 0 && q.timer.Stop() {
		r.conclude()
	}
}

// conclude blames the late ranks, or those that are in another operation. r.mu is held.
func (r *Root) conclude() {
	q := r.inquiry
	blamed, notes := q.different()
	if len(blamed) == 0 {
		for _, m := range q.stall.Members {
			if note := q.late(m, r.members[m].state); note != "" {
				blamed, notes = append(blamed, m), append(notes, fmt.Sprintf("rank %d %s", m, note))
			}
		}
	}
	if len(blamed) == 0 { // all are there and still nothing moves: what is left is the rank that is waited for
		blamed = []int{q.stall.Waiting}
		notes = []string{fmt.Sprintf("all members have arrived, but nothing comes from rank %d", q.stall.Waiting)}
	}
	r.decide(message{Kind: kindTimeout, Rank: blamed[0], Ranks: blamed, Cause: q.report(blamed, notes)})
}

// report writes the screen that a timeout shows: what stands still and why in the first line, then who has arrived and where
// the late ranks are.
func (q *inquiry) report(blamed []int, notes []string) string {
	if rest := len(notes) - 2*maxStacks; rest > 1 {
		notes = append(notes[:2*maxStacks:2*maxStacks], fmt.Sprintf("and so are %d more", rest))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no progress for %s in %s: %s", q.after, q.stall.Name, strings.Join(notes, "; "))
	var arrived []int
	for _, m := range q.stall.Members {
		if !slices.Contains(blamed, m) {
			arrived = append(arrived, m)
		}
	}
	if len(arrived) > 0 && q.stall.What != "" {
		fmt.Fprintf(&b, "\n    in %s: %s; not: %s", q.stall.What, rankList(arrived), rankList(blamed))
	}
	shown := 0
	for _, m := range blamed {
		if op := q.of(m); op != nil && op.Stack != "" && shown < maxStacks {
			shown++
			fmt.Fprintf(&b, "\n    rank %d is at:\n%s", m, op.Stack)
		}
	}
	return b.String()
}

// of returns a member's answer, nil if it has not answered or not made the group.
func (q *inquiry) of(rank int) *operation {
	for i := range q.answers[rank] {
		if op := &q.answers[rank][i]; op.Group == q.stall.Group {
			return op
		}
	}
	return nil
}

// different returns the members that are in another operation of the same number than the one that stalled, or in the same
// with other sizes. Where most are, the others are to blame.
func (q *inquiry) different() (blamed []int, notes []string) {
	in := map[string][]int{}
	for _, m := range q.stall.Members {
		if op := q.of(m); op != nil && op.Sequence == q.stall.Sequence && op.What != "" {
			in[op.What] = append(in[op.What], m)
		}
	}
	if len(in) < 2 {
		return nil, nil
	}
	most := q.stall.What
	for _, what := range slices.Sorted(maps.Keys(in)) {
		if len(in[what]) > len(in[most]) {
			most = what
		}
	}
	notes = []string{fmt.Sprintf("the members do not call the same operations: %s in %s", rankList(in[most]), most)}
	for _, what := range slices.Sorted(maps.Keys(in)) {
		if what != most {
			blamed = append(blamed, in[what]...)
			notes = append(notes, fmt.Sprintf("%s in %s", rankList(in[what]), what))
		}
	}
	return blamed, notes
}

// late says why a member has not arrived at the stalled operation, "" if it has.
func (q *inquiry) late(rank int, state memberState) string {
	if state == gone {
		return "has already left the job"
	}
	if _, ok := q.answers[rank]; !ok {
		return "does not answer (stopped, or its process is stuck)"
	}
	switch op := q.of(rank); {
	case op == nil:
		return "has not made the group"
	case op.Sequence >= q.stall.Sequence:
		return ""
	case op.Sequence == 0:
		return "has not arrived (it has called nothing yet)"
	case op.Inside:
		return "has not arrived (it is in " + op.Name + ")"
	default:
		return "has not arrived (its last was " + op.Name + ")"
	}
}

// standing is a rank's answer to an inquiry about a stalled operation: where it stands in that group. One that is late adds
// where the goroutine is that made the group, and so would call the operation.
func (w *World) standing(stall operation) []operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.groups {
		if g.id != stall.Group {
			continue
		}
		op, _ := g.position()
		if op.Sequence < stall.Sequence {
			op.Stack = stackOf(g.maker)
		}
		return []operation{op}
	}
	return nil
}

const (
	maxFrames   = 12
	maxAllStack = 4 << 20
)

// goroutineID returns the number by which Go's runtime calls this goroutine in stacks: the only handle that there is.
func goroutineID() string {
	var b [64]byte
	text := string(b[:runtime.Stack(b[:], false)])
	text, _, _ = strings.Cut(strings.TrimPrefix(text, "goroutine "), " ")
	return text
}

// stackOf returns the innermost calls of a goroutine, indented, "" if it is not found.
func stackOf(id string) string {
	all := make([]byte, 64<<10)
	n := runtime.Stack(all, true)
	for n == len(all) && n < maxAllStack {
		all = make([]byte, 4*len(all))
		n = runtime.Stack(all, true)
	}
	for one := range strings.SplitSeq(string(all[:n]), "\n\n") {
		if !strings.HasPrefix(one, "goroutine "+id+" ") {
			continue
		}
		lines := strings.Split(strings.TrimRight(one, "\n"), "\n")
		if len(lines) > 1+2*maxFrames {
			lines = append(lines[:1+2*maxFrames], "...")
		}
		return "        " + strings.Join(lines, "\n        ")
	}
	return ""
}
