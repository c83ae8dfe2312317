package main

import (
	"context"
	"log/slog"
	"strings"
)

// A consoleLog is a slog.Handler that shows warnings and errors of the rendezvous, such as a stranger who was refused, as
// launch's own messages.
type consoleLog struct {
	console *console
	attrs   []slog.Attr
}

func (l consoleLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l consoleLog) Handle(_ context.Context, record slog.Record) error {
	var b strings.Builder
	b.WriteString(record.Message)
	write := func(a slog.Attr) bool {
		b.WriteString(", " + a.Key + " " + a.Value.String())
		return true
	}
	for _, a := range l.attrs {
		write(a)
	}
	record.Attrs(write)
	l.console.say("%s", b.String())
	return nil
}

func (l consoleLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return consoleLog{l.console, append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)}
}

// WithGroup ignores groups: a line for people has no use for them.
func (l consoleLog) WithGroup(string) slog.Handler { return l }
