package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"lockstep/collective"
)

// The descriptors at which a rank finds its secret and its lifeline: those that follow the three standard ones.
const (
	secretFD   = 3
	lifelineFD = 4
)

// A process is a rank of this host, a direct child of launch or of its agent.
type process struct {
	number int
	cmd    *exec.Cmd
	pipes  []*os.File     // our ends of its standard output and standard error
	relays sync.WaitGroup // the goroutines that read them
	tail   *tail
	shown  bool // its output was shown while it ran
	ended  bool
}

// A starter has what is common to the ranks of a job on this host.
type starter struct {
	program  string
	args     []string
	environ  []string
	place    collective.Place // what it says of all of them
	ranks    []int            // their numbers, in the order of their local ranks
	cores    [][]int          // what each is bound to; nil for no binding
	secret   []byte
	lifeline *os.File // the end that ranks read
	console  *console
	output   outputMode
}

// start starts the rank with a local rank. It must be called on an operating system thread that lives as long as launch (see
// supervise).
func (s *starter) start(local int) (*process, error) {
	number := s.ranks[local]
	r := &process{number: number, tail: &tail{}}
	r.cmd = exec.Command(s.program, s.args...)
	r.cmd.Env = s.rankEnviron(local)
	// A process group of its own keeps the terminal's Ctrl-C away from the rank, so that it gets one signal, from launch,
	// and lets launch kill all that the rank has started. Pdeathsig ends the rank when launch dies in whatever way.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	var theirs []*os.File // the rank's ends of the pipes: launch drops them once the rank has them
	defer func() { closeAll(theirs) }()
	secret, err := secretPipe(s.secret)
	if err != nil {
		return nil, fmt.Errorf("starting rank %d: passing the secret: %w", number, err)
	}
	theirs = append(theirs, secret)
	r.cmd.ExtraFiles = []*os.File{secret, s.lifeline}
	for _, to := range []*io.Writer{&r.cmd.Stdout, &r.cmd.Stderr} {
		ours, their, err := os.Pipe()
		if err != nil {
			closeAll(r.pipes)
			return nil, fmt.Errorf("starting rank %d: making a pipe for its output: %w; lower -n or raise ulimit -n", number, err)
		}
		*to = their
		r.pipes, theirs = append(r.pipes, ours), append(theirs, their)
	}
	if err := s.startBound(r.cmd, local); err != nil {
		closeAll(r.pipes)
		return nil, fmt.Errorf("starting rank %d: %w", number, err)
	}
	s.relay(r)
	return r, nil
}

// rankEnviron returns the environment of a rank: launch's own, its place, and the terminal that it may draw on.
func (s *starter) rankEnviron(local int) []string {
	place := s.place
	place.Rank, place.LocalRank, place.LocalSize = s.ranks[local], local, len(s.ranks)
	if s.cores != nil {
		place.Cores = len(s.cores[local])
	}
	env := slices.DeleteFunc(slices.Clone(s.environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == envStdoutColumns || name == envStderrColumns
	})
	env = append(env, place.Environ()...) // of two entries with one name, os/exec takes the later
	if s.output == outputRank0 && place.Rank == 0 {
		env = append(env, terminalEnviron(s.console.stdout, s.console.stderr)...)
	}
	return env
}

// relay starts the goroutines that read the rank's output.
func (s *starter) relay(r *process) {
	r.shown = s.output == outputAll || s.output == outputRank0 && r.number == 0
	for i, to := range []*stream{s.console.stdout, s.console.stderr} {
		one := &relay{console: s.console, errors: to == s.console.stderr, tail: r.tail}
		if r.shown {
			one.to = to
		}
		if s.output == outputAll {
			one.prefix = fmt.Sprintf("[%d] ", r.number)
		} else {
			one.live = r.shown && to.terminal
		}
		from := r.pipes[i]
		r.relays.Go(func() {
			defer from.Close()
			one.run(from)
		})
	}
}

// awaitExit returns when the rank has ended. It leaves the rank a zombie: until reap is called, its process number and its
// group's belong to it, so that no signal can hit a stranger.
func (r *process) awaitExit() {
	for {
		err := unix.Waitid(unix.P_PID, r.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// reap collects a rank that has ended, ends what it has started and left behind, and says how it ended.
func (r *process) reap() ending {
	r.killGroup()
	_ = r.cmd.Wait() // its error says no more than the state
	r.ended = true
	for _, pipe := range r.pipes {
		_ = interrupt(pipe) // fails only if the relay has found the end already
	}
	if wait, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
		return ending{Signal: wait.Signal()}
	}
	return ending{Status: r.cmd.ProcessState.ExitCode()}
}

// ask tells a rank to end.
func (r *process) ask() {
	if r.ended {
		return
	}
	// Errors mean that it has ended. A rank that is suspended has to go on in order to end.
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGCONT)
}

// kill ends a rank and its children at once.
func (r *process) kill() {
	if !r.ended {
		r.killGroup()
	}
}

// abandon implements controller. What has got SIGKILL needs no more.
func (r *process) abandon() {}

func (r *process) killGroup() {
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // fails only if nobody is left in the group
}

// secretPipe returns the read end of a pipe that holds the secret and then ends.
func secretPipe(secret []byte) (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = write.Write(secret) // an empty pipe takes 32 bytes without a reader
	if err = errors.Join(err, write.Close()); err != nil {
		read.Close()
		return nil, err
	}
	return read, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
