package main

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Ranks write into pipes, so they cannot see by themselves that a person is looking on. These variables are set for a rank
// whose standard output or standard error launch passes on, unchanged and at once, to a terminal; their value is the
// terminal's width in columns (80 where the terminal does not say). A stream without its variable is read by lines: what
// stands before a carriage return may be lost, so progress bars belong only where the variable is set.
const (
	envStdoutColumns = "LOCKSTEP_STDOUT_COLUMNS"
	envStderrColumns = "LOCKSTEP_STDERR_COLUMNS"
)

// A stream is one of launch's own outputs.
type stream struct {
	w        io.Writer
	terminal bool
	columns  int
	broken   bool // a write has failed; guarded by the console's mutex
}

// newStream finds out what f is.
func newStream(f *os.File) *stream {
	s := &stream{w: f}
	fd := int(f.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return s
	}
	s.terminal, s.columns = true, 80
	if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		s.columns = int(size.Col)
	}
	return s
}

// terminalEnviron returns the variables that tell a rank about the terminal behind its streams.
func terminalEnviron(stdout, stderr *stream) []string {
	var env []string
	if stdout.terminal {
		env = append(env, envStdoutColumns+"="+strconv.Itoa(stdout.columns))
	}
	if stderr.terminal {
		env = append(env, envStderrColumns+"="+strconv.Itoa(stderr.columns))
	}
	return env
}
