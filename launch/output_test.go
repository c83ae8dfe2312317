package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOutputModes(t *testing.T) {
	t.Parallel()
	script := []string{"*:out:progress\rdone", "*:raw:no line end"}
	for _, c := range []struct {
		mode string
		want []string
	}{
		{"rank0", []string{"progress\rdone", "no line end"}},
		{"all", []string{"[0] done", "[0] no line end", "[1] done", "[1] no line end"}},
		{"none", nil},
	} {
		l := start(ranks(2, []string{"--output", c.mode}, script...)...)
		if got := l.wait(t); got != 0 {
			t.Errorf("--output %s: status %d:\n%s", c.mode, got, l.err)
		}
		got := strings.FieldsFunc(l.out.String(), func(c rune) bool { return c == '\n' })
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("--output %s: got %q, want %q", c.mode, got, c.want)
		}
	}
}

func TestLinesStayWhole(t *testing.T) {
	t.Parallel()
	const n, lines = 4, 300
	l := start(ranks(n, []string{"--output", "all"}, fmt.Sprintf("*:lines:%d", lines))...)
	if got := l.wait(t); got != 0 {
		t.Fatalf("status %d", got)
	}
	whole := regexp.MustCompile(`^\[(\d)\] rank (\d) line (\d+)\.$`)
	for name, text := range map[string]string{"output": l.out.String(), "error output": l.err.String()} {
		next := map[string]int{}
		for line := range strings.Lines(text) {
			m := whole.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m == nil || m[1] != m[2] || m[3] != fmt.Sprint(next[m[1]]) {
				t.Fatalf("%s: a line is broken or out of order: %q", name, line)
			}
			next[m[1]]++
		}
		for rank, got := range next {
			if got != lines {
				t.Errorf("%s: rank %s has %d of %d lines", name, rank, got, lines)
			}
		}
		if len(next) != n {
			t.Errorf("%s of %d ranks, want %d", name, len(next), n)
		}
	}
}

func TestRelay(t *testing.T) {
	long := strings.Repeat("x", maxLine+1000)
	for _, c := range []struct {
		name   string
		pieces []string
		prefix string
		want   string
		tail   []string
	}{
		{"lines", []string{"a\nb", "c\n"}, "", "a\nbc\n", []string{"a", "bc"}},
		{"no end", []string{"a\nb"}, "[1] ", "[1] a\n[1] b\n", []string{"a", "b"}},
		{"returns", []string{"10%\r20", "%\rok\r\n"}, "[1] ", "[1] ok\n", []string{"ok"}},
		{"long line", []string{long, "y\n"}, "", long + "y\n", []string{long[:tailWidth], "y"}},
		{"long line, prefix", []string{long, "y\n"}, "[1] ", "[1] " + long + "\n[1] y\n", []string{long[:tailWidth], "y"}},
		{"empty lines", []string{"\n\n"}, "[1] ", "[1] \n[1] \n", []string{"", ""}},
	} {
		var out bytes.Buffer
		to := &stream{w: &out}
		r := &relay{console: &console{}, to: to, prefix: c.prefix, tail: &tail{}}
		for _, piece := range c.pieces {
			r.take([]byte(piece))
		}
		r.finish()
		if out.String() != c.want {
			t.Errorf("%s: got %.80q, want %.80q", c.name, out.String(), c.want)
		}
		if got := r.tail.lines(); !slices.Equal(got, c.tail) {
			t.Errorf("%s: tail %.80q, want %.80q", c.name, got, c.tail)
		}
	}
}

func TestTail(t *testing.T) {
	var plain, crash tail
	for i := range 30 {
		plain.add(fmt.Appendf(nil, "line %d", i), false)
	}
	if got := plain.lines(); len(got) != tailLines || got[0] != "line 10" || plain.summary() != "line 29" {
		t.Errorf("got %q, summary %q", got, plain.summary())
	}
	crash.add([]byte("before"), false)
	crash.add([]byte("panic: out of range"), false)
	for i := range 300 {
		crash.add(fmt.Appendf(nil, "frame %d", i), false)
	}
	if got := crash.lines(); len(got) != tailLines || got[0] != "panic: out of range" || crash.summary() != got[0] {
		t.Errorf("a crash is not shown from its start: %q, summary %q", got, crash.summary())
	}
}

// TestTerminal gives launch a pseudo-terminal: rank 0 learns of it and of its width, and what it draws arrives unchanged,
// before any line end.
func TestTerminal(t *testing.T) {
	master, slave := openTerminal(t)
	t.Setenv(envStderrColumns, "44") // of an outer launch; it must not reach the ranks of this one
	script := []string{"*:catch", "*:meet:" + t.TempDir(), "*:env:LOCKSTEP_STDOUT_COLUMNS", "*:env:LOCKSTEP_STDERR_COLUMNS", "*:raw:\r40%", "*:finish"}
	l := startOn(newStream(slave), usualTiming(), ranks(2, nil, script...)...)
	seen := newBuffer()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		buf := make([]byte, 1000)
		for { // until the last slave is closed
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			_, _ = seen.Write(buf[:n])
		}
	}()
	seen.await(t, "LOCKSTEP_STDOUT_COLUMNS=\"77\"\r\nLOCKSTEP_STDERR_COLUMNS=\"\"\r\n\r40%", 1)
	l.signals <- os.Interrupt
	if got := l.wait(t); got != 0 {
		t.Errorf("status %d:\n%s", got, l.err)
	}
	slave.Close()
	<-copied
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this system lends no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 77})
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skipf("this system lends no pseudo-terminal: %v", err)
	}
	return master, slave
}

// TestMessageAfterProgress checks that launch's own message does not continue an unfinished line.
func TestMessageAfterProgress(t *testing.T) {
	var screen bytes.Buffer
	terminal := &stream{w: &screen, terminal: true}
	c := newConsole(terminal, terminal)
	c.write(c.stdout, []byte("\r40%"))
	c.say("interrupt\nagain")
	c.close()
	if got, want := screen.String(), "\r40%\nlaunch: interrupt\nlaunch: again\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
