package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/collective"
)

// The test binary plays three parts: the tests, launch itself (where a test needs to kill it), and the ranks.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "as-launch":
			os.Args = append(os.Args[:1], os.Args[2:]...)
			main()
		case "as-rank":
			os.Exit(playRank(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// A player is a rank that carries out a script.
type player struct {
	place collective.Place
	terms chan os.Signal // SIGTERMs, once caught
	world *collective.World
}

// playRank carries out a rank's script: steps of the form RANK:VERB[:OPERAND], where RANK is a number or * for all. It
// returns the exit status.
func playRank(script []string) int {
	place, err := collective.PlaceFrom(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	p := &player{place: place, terms: make(chan os.Signal, 10)}
	for _, step := range script {
		who, rest, _ := strings.Cut(step, ":")
		if who != "*" && who != strconv.Itoa(place.Rank) {
			continue
		}
		verb, operand, _ := strings.Cut(rest, ":")
		if verb == "exit" {
			code, _ := strconv.Atoi(operand)
			return code
		}
		if !p.speak(verb, operand) && !p.act(verb, operand) && !p.join(verb, operand) {
			fmt.Fprintf(os.Stderr, "unknown step %q\n", step)
			return 99
		}
	}
	return 0
}

// speak carries out the verbs that write.
func (p *player) speak(verb, operand string) bool {
	switch verb {
	case "out":
		fmt.Println(operand)
	case "err":
		fmt.Fprintln(os.Stderr, operand)
	case "raw":
		fmt.Print(operand)
	case "lines":
		n, _ := strconv.Atoi(operand)
		for i := range n {
			fmt.Fprintf(os.Stdout, "rank %d line %d.\n", p.place.Rank, i)
			fmt.Fprintf(os.Stderr, "rank %d line %d.\n", p.place.Rank, i)
		}
	case "pid":
		fmt.Printf("pid %d\n", os.Getpid())
	case "place":
		secret, err := collective.ReadSecret(p.place.SecretFD)
		fmt.Printf("%+v secret %x %v\n", p.place, secret, err)
	case "env":
		fmt.Printf("%s=%q\n", operand, os.Getenv(operand))
	case "descriptors":
		for _, link := range descriptors() {
			fmt.Println(link)
		}
	default:
		return false
	}
	return true
}

// act carries out the verbs that have to do with signals, processes and waiting.
func (p *player) act(verb, operand string) bool {
	switch verb {
	case "meet": // wait until all ranks are here; operand is an empty directory
		_ = os.WriteFile(filepath.Join(operand, strconv.Itoa(p.place.Rank)), nil, 0o600)
		for there := 0; there < p.place.Size; time.Sleep(2 * time.Millisecond) {
			entries, _ := os.ReadDir(operand)
			there = len(entries)
		}
	case "kill":
		n, _ := strconv.Atoi(operand)
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Minute) // the signal ends it; it may take a moment to arrive
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
	case "catch":
		signal.Notify(p.terms, syscall.SIGTERM)
	case "finish": // as spmd does: on SIGTERM write a checkpoint, which takes a while, and end well
		<-p.terms
		time.Sleep(100 * time.Millisecond)
		fmt.Printf("rank %d finished after %d signal\n", p.place.Rank, 1+len(p.terms))
	case "block":
		time.Sleep(time.Minute)
	case "child": // a child that holds the rank's output open; in the rank's group unless it is a "daemon"
		cmd := exec.Command("sleep", "60")
		cmd.Stdout = os.Stdout
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: operand == "daemon"}
		if err := cmd.Start(); err != nil {
			return false
		}
		fmt.Printf("pid %d\n", cmd.Process.Pid)
	case "lifeline": // without the parent-death signal, wait for the lifeline's end and leave a file
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
		fmt.Println("watching")
		_, _ = io.Copy(io.Discard, os.NewFile(uintptr(p.place.LifelineFD), "lifeline"))
		_ = os.WriteFile(operand, nil, 0o600)
	default:
		return false
	}
	return true
}

// join carries out the verbs that make the rank a member of its job.
func (p *player) join(verb, operand string) bool {
	switch verb {
	case "join":
		secret, err := collective.ReadSecret(p.place.SecretFD)
		if err == nil {
			p.world, err = collective.Join(context.Background(), collective.Options{Place: p.place, Secret: secret})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return false
		}
	case "abort":
		p.world.Abort(errors.New(operand))
	case "lost": // wait for the news that the job has failed
		<-p.world.Done()
		fmt.Fprintln(os.Stderr, p.world.Err())
	default:
		return false
	}
	return true
}

// descriptors lists the pipes and sockets that are open beyond the standard streams: what one rank could disturb another by.
// (The Go runtime opens some files for itself.)
func descriptors() []string {
	var found []string
	for fd := 3; fd < 300; fd++ {
		link, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(fd)))
		if err == nil && (strings.HasPrefix(link, "pipe:") || strings.HasPrefix(link, "socket:")) {
			found = append(found, fmt.Sprintf("fd %d %s", fd, link))
		}
	}
	return found
}

// A buffer collects output, and lets a test wait for a piece of it.
type buffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // receives, at least once, after each write
}

func newBuffer() *buffer { return &buffer{more: make(chan struct{}, 1)} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await returns when the buffer holds text n times.
func (b *buffer) await(t *testing.T, text string, n int) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for strings.Count(b.String(), text) < n {
		select {
		case <-b.more:
		case <-limit:
			t.Fatalf("waited in vain for %q, %d times; got:\n%s", text, n, b)
		}
	}
}

// A launched is a run of launch in this process.
type launched struct {
	out, err *buffer
	signals  chan os.Signal
	status   chan int
}

// start runs launch with its arguments, with short waits before ranks are asked to end and killed.
func start(args ...string) *launched {
	return startWith(timing{settle: 300 * time.Millisecond, terminate: 300 * time.Millisecond, repeat: 100 * time.Millisecond}, args...)
}

func startWith(waits timing, args ...string) *launched {
	out := newBuffer()
	l := startOn(&stream{w: out}, waits, args...)
	l.out = out
	return l
}

// startOn runs launch with a given standard output.
func startOn(stdout *stream, waits timing, args ...string) *launched {
	l := &launched{err: newBuffer(), signals: make(chan os.Signal, 4), status: make(chan int, 1)}
	run := &launcher{
		environ: os.Environ(), stdout: stdout, stderr: &stream{w: l.err}, signals: l.signals, release: func() {}, timing: waits,
	}
	go func() { l.status <- run.run(args) }()
	return l
}

// ranks returns the arguments that start n ranks with a script.
func ranks(n int, options []string, script ...string) []string {
	args := append([]string{"-n", strconv.Itoa(n)}, options...)
	return append(append(args, os.Args[0], "as-rank"), script...)
}

// wait returns the exit status.
func (l *launched) wait(t *testing.T) int {
	t.Helper()
	select {
	case status := <-l.status:
		return status
	case <-time.After(20 * time.Second):
		t.Fatalf("launch does not end; it wrote:\n%s%s", l.out, l.err)
		return -1
	}
}

// gone says whether a process has ended; a zombie that its new parent has not collected has.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// awaitTrue polls for what only the kernel could announce.
func awaitTrue(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// pids returns the numbers in the lines "pid N" of a text.
func pids(text string) []int {
	var found []int
	for line := range strings.Lines(text) {
		if _, number, ok := strings.Cut(strings.TrimSpace(line), "pid "); ok {
			if pid, err := strconv.Atoi(number); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}
