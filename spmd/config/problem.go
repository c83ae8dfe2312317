package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one mistake in a configuration.
type Problem struct {
	// File is the configuration's path, or CommandLine. Line counts from 1 and is 0 on the command line.
	File string
	Line int
	// Key is section.key, or a section, or empty where the text is no TOML.
	Key string
	// What is wrong, and what to do about it.
	What, Remedy string
}

// CommandLine is the File of problems in overrides.
const CommandLine = "command line"

// String returns the problem as file:line: section.key: what; remedy.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	for _, part := range []string{p.Key, p.What} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// Problems are all mistakes of a configuration, in the order of their places: the file from top to bottom, then the
// command line.
type Problems []Problem

// String returns one line for each problem.
func (ps Problems) String() string {
	var b strings.Builder
	for _, p := range ps {
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.File != b.File {
			if a.File == CommandLine {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.Line, b.Line)
	})
}

// nearest returns the candidate with the smallest edit distance to name, if it is close enough to be what was meant: at
// most a third of the letters differ, or one.
func nearest(name string, candidates []string) (string, bool) {
	best, bestDistance := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(name), c, bestDistance); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best, best != ""
}

// editDistance returns how many insertions, deletions, substitutions and swaps of neighbours turn a into b (optimal string
// alignment), or limit if that is less.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitute := last[j-1]
			if a[i-1] != b[j-1] {
				substitute++
			}
			row[j] = min(last[j]+1, row[j-1]+1, substitute)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit)
}

// list writes names as "a, b or c".
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// quoted returns the names as TOML strings.
func quoted(names []string) []string {
	q := make([]string, len(names))
	for i, name := range names {
		q[i] = quote(name)
	}
	return q
}
