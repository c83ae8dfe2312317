package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// A verdict is how a job has ended.
type verdict struct {
	first *rank  // the rank that failed first, nil if none did
	cause string // what the control connections know about it, may be empty
	rest  []*rank
}

// verdict decides which rank is to blame. The order in which processes end is a weak hint, since a victim may end before
// the culprit, so the referee is believed where it names a rank that did fail.
func (j *job) verdict() verdict {
	if len(j.failed) == 0 {
		return verdict{}
	}
	v := verdict{first: j.failed[0]}
	number, cause, known := j.referee.FirstFailure()
	if i := slices.IndexFunc(j.failed, func(r *rank) bool { return known && r.number == number }); i >= 0 {
		v.first, v.cause = j.failed[i], cause
	}
	if j.misconfigured() {
		v.first, v.cause = j.ranks[0], ""
	}
	for _, r := range j.failed {
		if r != v.first {
			v.rest = append(v.rest, r)
		}
	}
	slices.SortFunc(v.rest, func(a, b *rank) int { return a.number - b.number })
	return v
}

// misconfigured says that all ranks have ended with status 2: the configuration is wrong, and each has found that out for
// itself. (A Go program that crashes has this status too; that is another matter.)
func (j *job) misconfigured() bool {
	return len(j.failed) == len(j.ranks) && !slices.ContainsFunc(j.failed, func(r *rank) bool {
		return r.status() != statusUsage || r.tail.crashed()
	})
}

// status returns launch's exit status.
func (v verdict) status() int {
	if v.first == nil {
		return 0
	}
	return v.first.status()
}

// report returns the lines that explain how the job failed, the culprit's first; empty if there is nothing to say that has
// not been shown.
func (j *job) report(v verdict) string {
	switch {
	case v.first == nil:
		return ""
	case j.misconfigured():
		return j.reportMisconfigured(v)
	}
	var b strings.Builder
	if j.stop != nil && v.first.byLaunch() {
		// The user has stopped the job; that a program has no handler for SIGTERM needs no long explanation.
		fmt.Fprintf(&b, "launch: stopped by a signal (%v); %v did not finish by itself: %s\n",
			j.stop, v.first, v.first.describe())
	} else {
		j.reportFirst(&b, v)
	}
	for _, r := range v.rest {
		if r.byLaunch() {
			continue
		}
		fmt.Fprintf(&b, "launch: %v failed as well: %s", r, r.describe())
		if line := r.tail.summary(); line != "" {
			b.WriteString(": " + line)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// reportFirst writes about the rank that failed first.
func (j *job) reportFirst(b *strings.Builder, v verdict) {
	r := v.first
	fmt.Fprintf(b, "launch: %v failed first: %s", r, r.describe())
	switch {
	case v.cause != "" && v.cause != r.describe():
		b.WriteString(": " + v.cause)
	case r.end.Lost != "":
		b.WriteString(": " + r.end.Lost)
	}
	b.WriteByte('\n')
	if r.end.Signal == syscall.SIGKILL && !r.byLaunch() {
		b.WriteString("launch: if nobody killed it, the kernel did, for want of memory: see dmesg\n")
	}
	// Rank 0's output has just been on the screen when it was the only one shown; among others' it has to be found again.
	if !r.shown || j.output == outputAll {
		writeTail(b, r)
	}
}

// reportMisconfigured shows one message in place of one for each rank: rank 0's, unless it is on the screen already, and
// those that say something else.
func (j *job) reportMisconfigured(v verdict) string {
	var b strings.Builder
	if !v.first.shown {
		fmt.Fprintf(&b, "launch: %v failed: %s\n", v.first, v.first.describe())
		writeTail(&b, v.first)
	}
	said := v.first.tail.lines()
	for _, r := range v.rest {
		if lines := r.tail.lines(); !r.shown && len(lines) > 0 && !slices.Equal(lines, said) {
			fmt.Fprintf(&b, "launch: %v failed as well: %s: %s\n", r, r.describe(), r.tail.summary())
		}
	}
	return b.String()
}

func writeTail(b *strings.Builder, r *rank) {
	lines := r.tail.lines()
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "launch: what %v wrote last:\n", r)
	for _, line := range lines {
		fmt.Fprintf(b, "  %s\n", line)
	}
}
