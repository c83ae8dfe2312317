package e2e

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what should come within milliseconds, on a busy machine.
const patience = 30 * time.Second

// A job is a started program: launch with its ranks, or spmd alone.
type job struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err *buffer       // standard output and standard error
	ended    chan struct{} // closed when it has ended and all output is here
}

// start starts a program in dir. Whatever is left of it when the test ends is killed.
func start(t *testing.T, dir, program string, args ...string) *job {
	t.Helper()
	j := &job{t: t, cmd: exec.Command(program, args...), out: newBuffer(), err: newBuffer(), ended: make(chan struct{})}
	// Nothing of the surroundings: not that the tests themselves may run under a launcher.
	j.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + dir}
	j.cmd.Dir, j.cmd.Stdout, j.cmd.Stderr = dir, j.out, j.err
	j.cmd.WaitDelay = patience
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = j.cmd.Wait() // the state says how it ended
		close(j.ended)
	}()
	t.Cleanup(func() {
		j.signal(syscall.SIGKILL)
		<-j.ended
	})
	return j
}

// wait returns the exit status, as a shell would report it.
func (j *job) wait() int {
	j.t.Helper()
	select {
	case <-j.ended:
	case <-time.After(patience):
		j.t.Fatalf("%s does not end; it wrote:\n%s", j.cmd, j)
	}
	if status := j.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	}
	return j.cmd.ProcessState.ExitCode()
}

// expect waits for the end and fails the test if the exit status is another one.
func (j *job) expect(status int) *job {
	j.t.Helper()
	if got := j.wait(); got != status {
		j.t.Fatalf("%s ended with status %d, want %d; it wrote:\n%s", j.cmd, got, status, j)
	}
	return j
}

// says fails the test for each text that the job's output, which is complete, does not hold.
func (j *job) says(texts ...string) {
	j.t.Helper()
	all := j.String()
	for _, text := range texts {
		if !strings.Contains(all, text) {
			j.t.Errorf("%s does not say %q; it wrote:\n%s", j.cmd, text, all)
		}
	}
}

// String returns all output so far.
func (j *job) String() string { return j.out.String() + j.err.String() }

// signal sends a signal to the program itself, not to its ranks.
func (j *job) signal(s syscall.Signal) {
	j.t.Helper()
	if err := j.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		j.t.Errorf("sending %v to %s: %v", s, j.cmd, err)
	}
}

// stepLine matches the console's line of a training step: step/steps, loss, gradient norm, learning rate.
var stepLine = regexp.MustCompile(`(?m)^ *(\d+)/\d+ +[\d.]+ +[\d.]+ +[\d.]+e[-+]\d+ .*$`)

// awaitStep returns when the job has made a step; its row is then in metrics.jsonl. It returns false if the job ended first.
func (j *job) awaitStep(step int) bool {
	j.t.Helper()
	return j.await(j.out, func(text string) bool {
		lines := stepLine.FindAllStringSubmatch(text, -1)
		if len(lines) == 0 {
			return false
		}
		last, err := strconv.Atoi(lines[len(lines)-1][1])
		return err == nil && last >= step
	})
}

// await returns when one of the job's outputs fulfils a condition. It returns false if the job ended first.
func (j *job) await(b *buffer, is func(text string) bool) bool {
	j.t.Helper()
	limit := time.After(patience)
	for {
		if is(b.String()) {
			return true
		}
		select {
		case <-b.more:
		case <-j.ended:
			return is(b.String())
		case <-limit:
			j.t.Fatalf("%s did not write what was expected; it wrote:\n%s", j.cmd, j)
		}
	}
}

// A buffer collects what a program writes. One goroutine may wait for more.
type buffer struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // holds a token after a write
}

func newBuffer() *buffer { return &buffer{more: make(chan struct{}, 1)} }

// Write implements io.Writer.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	select {
	case b.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}
