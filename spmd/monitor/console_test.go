package monitor

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files of this package anew")

// checkGolden compares got with testdata/name.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant, in %s,\n%s", got, path, want)
	}
}

// A clock stands still until it is told to go on.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newClock() *clock { return &clock{time.Unix(1_700_000_000, 0)} }

// step returns a made-up record of a run that learns.
func step(i, steps int) Step {
	return Step{
		Step: i, Steps: steps, Loss: 5.6 * math.Exp(-float64(i)/100), GradNorm: 12 / float64(i), LR: 3e-4 * float64(i) / float64(steps),
		Tokens: 8192, Time: 250 * time.Millisecond,
	}
}

// visible marks the characters that move the cursor, so that golden files show them; \r also ends the line there.
func visible(s string) string { return strings.ReplaceAll(s, "\r", "<CR>\n") }

func TestConsoleLines(t *testing.T) {
	var out bytes.Buffer
	clock := newClock()
	c := NewConsole(&out, ConsoleOptions{Interval: 10, Now: clock.Now})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Validation(Validation{Step: 0, Steps: 1035, Loss: 5.5961}))
	for i := 1; i <= 1035; i++ {
		clock.now = clock.now.Add(300 * time.Millisecond) // 50 ms are spent between steps
		r := step(i, 1035)
		switch i {
		case 500:
			r.Loss, r.GradNorm = math.NaN(), math.Inf(1)
		case 510:
			r.GradNorm, r.Time = 123456.789, 12*time.Second
		case 520:
			r.Loss, r.Time = 98765, 3*time.Hour
		}
		if i > 40 && i < 480 || i > 540 && i < 1000 {
			continue
		}
		must(c.Step(r))
		if i == 500 {
			must(c.Validation(Validation{Step: i, Steps: 1035, Loss: 3.1416}))
		}
	}
	must(c.Close())
	checkGolden(t, "lines.txt", out.String())
}

// The same run on a terminal: whatever is written between, each line begins at column 0 and the bar is below.
func TestConsoleBar(t *testing.T) {
	var out bytes.Buffer
	clock := newClock()
	c := NewConsole(&out, ConsoleOptions{Interval: 4, Width: 60, Now: clock.Now})
	for i := 1; i <= 11; i++ {
		clock.now = clock.now.Add(60 * time.Millisecond) // so that not every step draws the bar
		if err := c.Step(step(i, 12)); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 5:
			fmt.Fprintf(c, "a message\nand ")
		case 6:
			fmt.Fprintf(c, "another one\n")
		case 9:
			fmt.Fprintf(c, "not ended")
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "bar.txt", visible(out.String()))

	// What a terminal shows at the end: no trace of the bar, each line as it would be without one.
	for i, line := range strings.Split(screen(t, out.String(), 60), "\n") {
		if strings.Contains(line, "%") || strings.Contains(line, "[") {
			t.Errorf("line %d has parts of the bar: %q", i, line)
		}
	}
}

// screen returns what a terminal shows of text: a carriage return goes back to the line's first column, where what
// follows overwrites what is there. A bar that reaches the terminal's width fails the test.
func screen(t *testing.T, text string, width int) string {
	t.Helper()
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		var row []byte
		for part := range strings.SplitSeq(line, "\r") {
			if strings.Contains(part, "%") && len(part) >= width {
				t.Errorf("the bar %q has %d columns of %d", part, len(part), width)
			}
			row = append([]byte(part), row[min(len(part), len(row)):]...)
		}
		lines = append(lines, strings.TrimRight(string(row), " "))
	}
	return strings.Join(lines, "\n")
}

func TestConsoleBarFits(t *testing.T) {
	for width := range 130 {
		for _, steps := range []int{1, 1000, 123_456_789} {
			var out bytes.Buffer
			clock := newClock()
			c := NewConsole(&out, ConsoleOptions{Width: width, Now: clock.Now})
			for _, i := range []int{1, steps/2 + 1, steps, steps + 1} {
				if err := c.Step(step(i, steps)); err != nil {
					t.Fatal(err)
				}
			}
			screen(t, out.String(), width)
			if hasBar := strings.Contains(out.String(), "%"); hasBar != (width >= minBarWidth) {
				t.Errorf("width %d: a bar is drawn: %v", width, hasBar)
			}
		}
	}
}

// A run that ends between two lines, as at a signal, shows how far it came.
func TestConsoleCloseWritesTheLastStep(t *testing.T) {
	var out bytes.Buffer
	c := NewConsole(&out, ConsoleOptions{Interval: 100, Now: newClock().Now})
	for i := 201; i <= 207; i++ {
		if err := c.Step(step(i, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[1], "201/1000") || !strings.Contains(lines[2], "207/1000") {
		t.Errorf("output\n%s", out.String())
	}
}

// failing is a writer and a sink that fails.
type failing struct{}

var errFull = errors.New("no space left")

func (failing) Write([]byte) (int, error)   { return 0, errFull }
func (failing) Step(Step) error             { return errFull }
func (failing) Validation(Validation) error { return errFull }
func (failing) Checkpoint(Checkpoint) error { return errFull }
func (failing) Close() error                { return errFull }

func TestConsoleErrors(t *testing.T) {
	c := NewConsole(failing{}, ConsoleOptions{})
	_, err := fmt.Fprintln(c, "x")
	for _, err := range []error{c.Step(step(1, 2)), c.Validation(Validation{}), err} {
		if !errors.Is(err, errFull) {
			t.Errorf("error %v", err)
		}
	}
}
