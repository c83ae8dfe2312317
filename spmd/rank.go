package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lockstep/collective"
)

// otherLaunchers are environment variables by which other launchers tell the number of ranks.
var otherLaunchers = []struct{ size, name string }{
	{"OMPI_COMM_WORLD_SIZE", "mpirun"}, {"PMI_SIZE", "mpiexec"}, {"SLURM_STEP_NUM_TASKS", "srun"}, {"WORLD_SIZE", "torchrun"},
}

// place finds out where this process stands in its job. Under another launcher than ours each rank would take itself for a
// whole job and write over the others' files, so that is refused.
func (p *program) place() (collective.Place, error) {
	place, err := collective.PlaceFrom(p.getenv)
	if err != nil {
		return place, &usageError{err.Error()}
	}
	if place.Rendezvous != "" {
		return place, nil
	}
	for _, l := range otherLaunchers {
		if n := p.getenv(l.size); n != "" && n != "1" {
			return place, &usageError{fmt.Sprintf("%s started %s ranks (%s), which is not supported yet; start them with launch -n %s", l.name, n, l.size, n)}
		}
	}
	return place, nil
}

// watchLifeline ends this process as soon as launch is gone: the pipe whose other end launch holds then reads its end. It is
// the second line of defence; where the kernel delivers it, a signal comes first.
func watchLifeline(fd int) {
	if fd == 0 {
		return
	}
	pipe := os.NewFile(uintptr(fd), "lifeline")
	go func() {
		_, _ = pipe.Read(make([]byte, 1)) // returns only when the other end closes
		fmt.Fprintln(os.Stderr, "spmd: launch is gone")
		os.Exit(exitFailed)
	}()
}

// columns returns the width of the terminal that standard output ends at, 0 where it is none. Under launch standard output is
// a pipe, and launch says what is behind it.
func (p *program) columns(place collective.Place) int {
	if place.Rendezvous != "" {
		n, err := strconv.Atoi(p.getenv("LOCKSTEP_STDOUT_COLUMNS"))
		if err != nil {
			return 0
		}
		return n
	}
	f, ok := p.stdout.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// consoleHandler writes log records for people: the message and its values, without time and source.
type consoleHandler struct {
	w      io.Writer
	values string // of With
}

func newConsoleHandler(w io.Writer) slog.Handler { return consoleHandler{w: w} }

// Enabled implements slog.Handler.
func (h consoleHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle implements slog.Handler.
func (h consoleHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if r.Level >= slog.LevelWarn {
		b.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	b.WriteString(r.Message)
	b.WriteString(h.values)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " (%s: %v)", a.Key, a.Value)
		return true
	})
	b.WriteByte('\n')
	_, err := io.WriteString(h.w, b.String())
	return err
}

// WithAttrs implements slog.Handler.
func (h consoleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.values += fmt.Sprintf(" (%s: %v)", a.Key, a.Value)
	}
	return h
}

// WithGroup implements slog.Handler. Names of groups are left out.
func (h consoleHandler) WithGroup(string) slog.Handler { return h }
