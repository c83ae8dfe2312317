package main

import (
	"strings"
	"testing"
)

// A ruling is a referee that has decided.
type ruling struct {
	rank  int
	cause string
	known bool
}

func (r ruling) Lost(int, string)                  {}
func (r ruling) FirstFailure() (int, string, bool) { return r.rank, r.cause, r.known }
func (r ruling) Failed() <-chan struct{}           { return nil }

// failedRanks returns ranks that have ended with the given statuses, in the order of their numbers.
func failedRanks(statuses ...int) []*rank {
	var all []*rank
	for number, status := range statuses {
		all = append(all, &rank{number: number, end: &ending{Status: status}, tail: &tail{}})
	}
	return all
}

func TestVerdict(t *testing.T) {
	all := failedRanks(1, 3, 0, 2)
	j := &job{ranks: all, failed: []*rank{all[3], all[0], all[1]}}
	for _, c := range []struct {
		name   string
		ruling ruling
		first  int
		status int
		report string
	}{
		{"order of ends", ruling{}, 3, 2, "launch: rank 3 failed first: exit status 2\n"},
		{"referee knows better", ruling{1, "loss is not finite", true}, 1, 3, "launch: rank 1 failed first: exit status 3: loss is not finite\n"},
		{"referee repeats the status", ruling{1, "exit status 3", true}, 1, 3, "launch: rank 1 failed first: exit status 3\n"},
		{"referee names a rank that ended well", ruling{2, "late", true}, 3, 2, "launch: rank 3 failed first: exit status 2\n"},
	} {
		j.referee = c.ruling
		v := j.verdict()
		if v.first.number != c.first || v.status() != c.status || len(v.rest) != 2 || v.rest[0].number > v.rest[1].number {
			t.Errorf("%s: first is %d with status %d, rest %v; want %d with %d", c.name, v.first.number, v.status(), v.rest, c.first, c.status)
		}
		if got := j.report(v); !strings.HasPrefix(got, c.report) || strings.Count(got, "failed as well: exit status") != 2 {
			t.Errorf("%s: got:\n%s\nwant the beginning:\n%s", c.name, got, c.report)
		}
	}
}

// TestMisconfiguredRanksThatDiffer checks that a rank with a message of its own is not silenced.
func TestMisconfiguredRanksThatDiffer(t *testing.T) {
	all := failedRanks(2, 2, 2)
	for _, r := range all {
		r.tail.add([]byte("config.toml:1: wrong"), true)
	}
	all[2].tail.add([]byte("no such file"), true)
	j := &job{ranks: all, failed: []*rank{all[2], all[1], all[0]}, referee: ruling{}}
	all[0].shown = true
	if got, want := j.report(j.verdict()), "launch: rank 2 failed as well: exit status 2: no such file\n"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestRankText(t *testing.T) {
	for want, numbers := range map[string][]int{
		"no rank": nil, "rank 3": {3}, "ranks 0-3": {0, 1, 2, 3}, "ranks 0,2-3,7": {0, 2, 3, 7},
	} {
		if got := rankText(numbers); got != want {
			t.Errorf("%v: got %q, want %q", numbers, got, want)
		}
	}
}
