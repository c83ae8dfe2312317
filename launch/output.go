package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxLine is how much of a line without an end is kept back before it is passed on in pieces.
	maxLine = 64 << 10
	// tailLines of at most tailWidth bytes each are what the report shows of a rank that failed.
	tailLines = 20
	tailWidth = 2000
	// maxLeftInPipe is more than a pipe can hold on a usual system (fs.pipe-max-size).
	maxLeftInPipe = 1 << 20
	// drainWait is how long a pipe must be silent, once its rank has ended, to count as empty. Only a descendant that left
	// the rank's process group and still holds the pipe makes this wait happen.
	drainWait = 100 * time.Millisecond
)

// A console is what the user sees: the output of ranks and launch's own messages. It keeps lines whole: each write holds
// complete lines, or comes from the one rank that has the terminal for itself.
type console struct {
	stdout, stderr *stream

	mu      sync.Mutex
	midLine bool // the terminal's cursor stands behind an unfinished line, such as a progress bar

	notices chan string
	done    chan struct{} // closed when all notices are written
}

// newConsole returns a console. It must be closed.
func newConsole(stdout, stderr *stream) *console {
	c := &console{stdout: stdout, stderr: stderr, notices: make(chan string, 64), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for text := range c.notices {
			c.write(c.stderr, []byte(text))
		}
	}()
	return c
}

// say shows a message of launch itself, each line marked as such. It never waits for a slow reader, so that it can be
// called where ranks are supervised; what finds no room among 64 unread messages is dropped.
func (c *console) say(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\nlaunch: ")
	select {
	case c.notices <- "launch: " + text + "\n":
	default:
	}
}

// report shows text, if any, after all messages before it.
func (c *console) report(text string) { c.notices <- text }

// close returns when all messages are written. No other method may be called afterwards.
func (c *console) close() {
	close(c.notices)
	<-c.done
}

// write writes text in one piece. When the reader of a stream has gone, what else is meant for it is dropped: the job ends
// in an orderly way (the failed write comes as SIGPIPE), and the ranks must not be held up meanwhile.
func (c *console) write(to *stream, text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(text) == 0 || to.broken {
		return
	}
	if c.midLine && to.terminal && bytes.HasPrefix(text, []byte("launch: ")) {
		text = append([]byte("\n"), text...)
	}
	if to.terminal {
		c.midLine = text[len(text)-1] != '\n'
	}
	if _, err := to.w.Write(text); err != nil {
		to.broken = true
	}
}

// A relay passes on what a rank writes to one of its streams.
type relay struct {
	console *console
	to      *stream // nil: not shown
	live    bool    // to is a terminal that belongs to this rank: pass all on as it comes
	prefix  string
	errors  bool // the stream is standard error
	tail    *tail

	pending []byte // the line that has no end yet
}

// run copies from the pipe until all that the rank wrote has been read. interrupt ends it when the pipe has no end.
func (r *relay) run(from *os.File) {
	buf := make([]byte, 32<<10)
	interrupted, left := false, maxLeftInPipe
	for {
		n, err := from.Read(buf)
		r.take(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) && !interrupted {
			interrupted = true
		} else if err != nil {
			break
		}
		if interrupted {
			if left -= n; left < 0 || from.SetReadDeadline(time.Now().Add(drainWait)) != nil {
				break
			}
		}
	}
	r.finish()
}

// finish handles a last line without an end.
func (r *relay) finish() {
	if len(r.pending) > 0 {
		r.show(r.line(nil, r.pending, true))
	}
}

// interrupt tells the relay that reads from the pipe that nothing more will be written by its rank.
func interrupt(from *os.File) error { return from.SetReadDeadline(time.Now()) }

// take handles one piece of output. All lines that it completes are written at once.
func (r *relay) take(piece []byte) {
	if r.live && len(piece) > 0 {
		r.console.write(r.to, piece)
	}
	var batch []byte
	for len(piece) > 0 {
		end := bytes.IndexByte(piece, '\n')
		if end < 0 {
			r.pending = append(r.pending, piece...)
			break
		}
		r.pending = append(r.pending, piece[:end]...)
		batch = r.line(batch, r.pending, true)
		r.pending, piece = r.pending[:0], piece[end+1:]
	}
	if len(r.pending) >= maxLine {
		batch = r.line(batch, r.pending, false)
		r.pending = r.pending[:0]
	}
	r.show(batch)
}

func (r *relay) show(lines []byte) {
	if r.to != nil && !r.live {
		r.console.write(r.to, lines)
	}
}

// line appends to batch one line as it is shown, and notes it in the tail. A piece of a longer line (not ended) gets a line
// end only where a prefix makes it a line of its own.
func (r *relay) line(batch, text []byte, ended bool) []byte {
	visible := afterReturn(text)
	r.tail.add(visible, r.errors)
	if r.to == nil || r.live {
		return batch
	}
	if r.prefix == "" {
		batch = append(batch, text...)
	} else {
		batch = append(append(batch, r.prefix...), visible...)
	}
	if ended || r.prefix != "" {
		batch = append(batch, '\n')
	}
	return batch
}

// afterReturn returns what a terminal would show of a line: the part behind the last carriage return that moved the cursor
// back.
func afterReturn(line []byte) []byte {
	line = bytes.TrimRight(line, "\r")
	return line[bytes.LastIndexByte(line, '\r')+1:]
}

// A tail keeps the lines of a rank's output that explain its end: the last ones or, if Go's runtime reported a crash, the
// first ones of that report, which may be hundreds of lines long and names its cause at the top.
type tail struct {
	mu      sync.Mutex
	last    []string
	crash   []string
	message string // the last line that says something, of standard error if there is one
	isError bool   // message is from standard error
}

// crashStart matches the first line of a report of Go's runtime.
var crashStart = regexp.MustCompile(`^(panic|fatal error|SIG[A-Z]+): `)

func (t *tail) add(line []byte, isError bool) {
	text := string(line[:min(len(line), tailWidth)])
	t.mu.Lock()
	defer t.mu.Unlock()
	// A line that is indented goes on with what another began to say.
	if said := strings.TrimSpace(text); said != "" && text[0] != ' ' && text[0] != '\t' && (isError || !t.isError) {
		t.message, t.isError = said, isError
	}
	switch {
	case crashStart.MatchString(text):
		t.crash = []string{text}
		return
	case t.crash != nil:
		if len(t.crash) < tailLines {
			t.crash = append(t.crash, text)
		}
		return
	case len(t.last) == tailLines:
		t.last = slices.Delete(t.last, 0, 1)
	}
	t.last = append(t.last, text)
}

// lines returns what is worth showing.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.crash) > 0 {
		return slices.Clone(t.crash)
	}
	return slices.Clone(t.last)
}

// A tailText is a tail as it travels from an agent.
type tailText struct {
	Last, Crash []string
	Message     string
}

// text returns what the tail holds; set replaces it.
func (t *tail) text() *tailText {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &tailText{slices.Clone(t.last), slices.Clone(t.crash), t.message}
}

func (t *tail) set(text *tailText) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text != nil {
		t.last, t.crash, t.message = text.Last, text.Crash, text.Message
	}
}

// summary returns the one line that says most: the first of a crash, else the last error message, else the last line.
func (t *tail) summary() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.crash) > 0 {
		return t.crash[0]
	}
	return t.message
}

// crashed says that Go's runtime reported a crash.
func (t *tail) crashed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.crash) > 0
}
