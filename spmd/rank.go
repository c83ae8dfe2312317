package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/collective"
	"lockstep/spmd/train"
)

// place finds out where this process stands in its job.
func (p *program) place() (collective.Place, error) {
	place, err := collective.PlaceFrom(p.getenv)
	if err != nil {
		return place, &usageError{err.Error()}
	}
	return place, nil
}

// A membership is this process's part in its job.
type membership struct {
	world   *collective.World
	meeting *collective.Meeting
	timeout time.Duration
}

// enter makes this process a rank of its job.
func (p *program) enter(ctx context.Context, place collective.Place, o collective.Options) (m membership, err error) {
	m.timeout = o.Timeout
	m.meeting, err = collective.Meet(ctx, place, collective.MeetOptions{Getenv: p.getenv, Timeout: o.Timeout, Log: o.Log})
	if err != nil {
		return m, err
	}
	o.Place, o.Secret = m.meeting.Place, m.meeting.Secret
	if m.world, err = collective.Join(ctx, o); err != nil {
		return m, errors.Join(err, m.meeting.Close(leaveTime))
	}
	m.meeting.Formed()
	return m, nil
}

// leaveTime is how long a rank that hosts its job's rendezvous stays to tell the others that the job has failed.
const leaveTime = 3 * time.Second

// leave ends this process's part in the job. A rank that hosts the rendezvous stays until the others have left.
func (m *membership) leave() error {
	limit := m.timeout
	if m.world.Err() != nil {
		limit = leaveTime
	}
	return errors.Join(m.world.Close(), m.meeting.Close(limit))
}

// join makes this process a rank of a run, once its data is prepared. The ranks must agree on the program, the arithmetic and
// the configuration.
func (r *rank) join(ctx context.Context) (err error) {
	c := r.config
	algorithm, err := collective.ParseAlgorithm(c.Collective.Algorithm)
	if err != nil {
		return err
	}
	r.membership, err = r.enter(ctx, r.place, collective.Options{
		Backend: c.Collective.Backend, Algorithm: algorithm, AnyOrder: c.Run.Deterministic != "layout",
		Timeout: c.Collective.Timeout, Silence: c.Collective.HeartbeatTimeout, TimeBlocking: true, TLS: c.Collective.TLS,
		NewStream: r.device.NewStream, Log: r.log,
		Prepare: func(ctx context.Context) error {
			bar := newProgressBar(r.stdout, time.Now)
			defer bar.end()
			return train.PrepareData(ctx, c, r.load, bar.update)
		},
		Facts: map[string]string{"version": version, "kernel set": r.device.KernelSet(), "configuration": fmt.Sprintf("%.16x", sha256.Sum256(c.Resolved()))},
	})
	return err
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
