package collective

import (
	"fmt"
	"strings"
	"time"
)

// A RankLostError says which rank ended the job and why. It is decided once, at the root, and is the same on all ranks;
// find it with errors.As.
type RankLostError struct {
	// Rank is the culprit, not the rank that noticed.
	Rank int
	// Cause is what launch saw of the process ("killed by signal 9") or what the rank said when it aborted.
	Cause string
}

// Error returns a message such as "rank 3 was lost: killed by signal 9".
func (e *RankLostError) Error() string { return fmt.Sprintf("rank %d was lost: %s", e.Rank, e.Cause) }

// A RefusedError says why the job did not form: ranks that did not come, facts on which ranks disagree, a rank that is
// taken already.
type RefusedError struct {
	// Rank is the rank at fault.
	Rank int
	// Reason names the ranks, what is wrong, and the remedy.
	Reason string
}

// Error returns the reason.
func (e *RefusedError) Error() string { return "the job did not form: " + e.Reason }

// A CutOffError says that this rank's host has lost the rest of the job, and how.
type CutOffError struct{ Cause string }

// Error returns the cause.
func (e *CutOffError) Error() string { return e.Cause }

// A TimeoutError says that an operation made no progress for Options.Timeout.
type TimeoutError struct {
	// Ranks are the members that have not arrived at the operation.
	Ranks []int
	// Report describes the operation and what each late rank does.
	Report string
}

// Error returns the report.
func (e *TimeoutError) Error() string { return e.Report }

// lateReport is the text of a TimeoutError without the root's findings.
func lateReport(after time.Duration, ranks ...int) string {
	return fmt.Sprintf("no progress for %v: waiting for %s", after, rankList(ranks))
}

// rankList writes "rank 3", "ranks 1, 2 and 5" or, of many in a row, "ranks 0-7 and 9".
func rankList(ranks []int) string {
	var parts []string
	for i := 0; i < len(ranks); {
		end := i
		for end+1 < len(ranks) && ranks[end+1] == ranks[end]+1 {
			end++
		}
		if end-i < 3 { // a short row reads better as numbers
			end = i
			parts = append(parts, fmt.Sprint(ranks[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", ranks[i], ranks[end]))
		}
		i = end + 1
	}
	last := len(parts) - 1
	switch {
	case len(ranks) == 1:
		return "rank " + parts[0]
	case last < 1:
		return "ranks " + strings.Join(parts, "")
	}
	return "ranks " + strings.Join(parts[:last], ", ") + " and " + parts[last]
}

// byteSize writes a size as people say it: "96 B", "1.2 MB".
func byteSize(n int) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
