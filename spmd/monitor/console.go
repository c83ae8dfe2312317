package monitor

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"
)

// ConsoleOptions say how a Console writes.
type ConsoleOptions struct {
	// Interval is the number of steps from one line to the next; 0 means 1. The first step of the process and the last
	// one have a line in any case.
	Interval int
	// Width is the number of columns of the terminal, 0 for output that is no terminal. A terminal of at least 40
	// columns has a progress bar below the lines.
	Width int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// A Console writes a run for people: a line per step in aligned columns, and on a terminal a progress bar that stays
// below them. It is also an io.Writer for the process's other messages, which it puts above the bar line by line; what
// reaches the terminal another way overwrites the bar. A Console is safe for concurrent use.
type Console struct {
	mu  sync.Mutex
	w   io.Writer
	o   ConsoleOptions
	out []byte // what goes out with the next write

	columns bool // the header has been written
	last    Step // the newest step
	logged  bool // last has a line

	first     Step // the first step of the process, from which on the speed is measured
	firstTime time.Time

	bar     string // the newest bar, of single-column characters
	shown   int    // columns of the bar on the terminal, 0 when it has none
	drawn   time.Time
	partial []byte // a message whose line has not ended
}

const (
	minBarWidth = 40
	// barPeriod keeps runs of many short steps from spending their time on the terminal.
	barPeriod = 100 * time.Millisecond
)

// NewConsole returns a console that writes to w.
func NewConsole(w io.Writer, o ConsoleOptions) *Console {
	if o.Interval == 0 {
		o.Interval = 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Console{w: w, o: o}
}

// Step implements Sink.
func (c *Console) Step(r Step) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.o.Now()
	isFirst := c.firstTime.IsZero()
	if isFirst {
		c.first, c.firstTime = r, now
	}
	c.last, c.logged = r, false
	c.setBar()
	if isFirst || r.Step%c.o.Interval == 0 || r.Step == r.Steps {
		c.logStep()
	} else if c.bar == "" || now.Sub(c.drawn) < barPeriod {
		return nil
	}
	return c.flush()
}

// Validation implements Sink.
func (c *Console) Validation(r Validation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header(r.Steps)
	c.printf("%*s  %9s  validation, perplexity %s\n", stepWidth(r.Steps), stepOf(r.Step, r.Steps), number(r.Loss), number(r.Perplexity()))
	return c.flush()
}

// Checkpoint implements Sink. The run's log says it when the checkpoint is written.
func (c *Console) Checkpoint(Checkpoint) error { return nil }

// Write writes the whole lines of p above the progress bar. A last line without an end waits for it.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := bytes.LastIndexByte(p, '\n') + 1
	if end > 0 {
		c.erase()
		c.out = append(append(c.out, c.partial...), p[:end]...)
		c.partial = c.partial[:0]
	}
	c.partial = append(c.partial, p[end:]...)
	if end == 0 {
		return len(p), nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes the last step, if it has no line yet, and takes the bar away.
func (c *Console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bar = ""
	c.erase()
	if len(c.partial) > 0 {
		c.out = append(append(c.out, c.partial...), '\n')
		c.partial = nil
	}
	if c.last.Step > 0 && !c.logged {
		c.logStep()
	}
	return c.flush()
}

// logStep adds the line of the newest step to the output.
func (c *Console) logStep() {
	r := c.last
	c.logged = true
	c.header(r.Steps)
	c.printf("%*s  %9s  %9s  %9.3e  %9.0f  %9s  %9s\n", stepWidth(r.Steps), stepOf(r.Step, r.Steps), number(r.Loss),
		number(r.GradNorm), r.LR, r.TokensPerSecond(), stepTime(r.Time), c.remaining())
}

// header adds the names of the columns to the output, the first time.
func (c *Console) header(steps int) {
	if !c.columns {
		c.columns = true
		c.printf("%*s  %9s  %9s  %9s  %9s  %9s  %9s\n", stepWidth(steps), "step", "loss", "grad norm", "lr", "tokens/s",
			"step time", "ETA")
	}
}

// printf adds lines to the output, in place of the bar.
func (c *Console) printf(format string, args ...any) {
	c.erase()
	c.out = fmt.Appendf(c.out, format, args...)
}

// erase adds to the output what takes the bar off the terminal. Blanks do it on every terminal, escape codes do not.
func (c *Console) erase() {
	if c.shown > 0 {
		c.out = append(append(append(c.out, '\r'), strings.Repeat(" ", c.shown)...), '\r')
		c.shown = 0
	}
}

// flush writes the output with the newest bar below it, in one write.
func (c *Console) flush() error {
	if c.bar != "" {
		c.erase()
		c.out = append(c.out, c.bar...)
		c.shown, c.drawn = len(c.bar), c.o.Now()
	}
	_, err := c.w.Write(c.out)
	c.out = c.out[:0]
	if err != nil {
		return fmt.Errorf("writing to the console: %w", err)
	}
	return nil
}

// setBar makes the bar of the newest step. It stays one column short of the terminal's width, where some wrap.
func (c *Console) setBar() {
	if c.o.Width < minBarWidth || c.last.Steps < 1 {
		return
	}
	done := min(float64(c.last.Step)/float64(c.last.Steps), 1)
	left := fmt.Sprintf("%3.0f%% [", math.Floor(100*done))
	right := fmt.Sprintf("] %*s  ETA %s", stepWidth(c.last.Steps), stepOf(c.last.Step, c.last.Steps), c.remaining())
	if c.bar = left[:4] + right[1:]; len(c.bar) >= c.o.Width {
		c.bar = c.bar[:c.o.Width-1]
	}
	if cells := c.o.Width - 1 - len(left) - len(right); cells >= 5 {
		full := int(done * float64(cells))
		c.bar = left + strings.Repeat("=", full) + strings.Repeat(" ", cells-full) + right
	}
}

// remaining returns how long the steps that are left will take, by the time that the steps of this process have taken so
// far with all that came between them, such as validations and checkpoints; for its first step by that step alone.
func (c *Console) remaining() string {
	each := c.last.Time
	if n := c.last.Step - c.first.Step; n > 0 {
		each = c.o.Now().Sub(c.firstTime) / time.Duration(n)
	}
	s := int64(math.Round(each.Seconds() * float64(max(c.last.Steps-c.last.Step, 0))))
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// stepOf writes a step as "370/1000".
func stepOf(step, steps int) string { return fmt.Sprintf("%d/%d", step, steps) }

// stepWidth returns the columns of the widest step.
func stepWidth(steps int) int { return max(len(stepOf(steps, steps)), len("step")) }

// number writes a loss or a norm in at most nine columns.
func number(x float64) string {
	if math.Abs(x) < 1000 {
		return fmt.Sprintf("%.4f", x)
	}
	return fmt.Sprintf("%.3e", x) // NaN and Inf as such
}

// stepTime writes the time of a step in at most nine columns.
func stepTime(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < 1000*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f min", d.Minutes())
}
