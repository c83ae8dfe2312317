package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lockstep/collective"
)

// A remote is the team of another host: ranks that an agent there has started. It lives on a remote shell, of which it is the
// other end.
type remote struct {
	host   placement
	index  int    // among the hosts that have agents
	parent string // where the agent's relay connects to
	cmd    *exec.Cmd
	out    *outbox // to the agent
	root   *collective.Root
	c      *console
	output outputMode
	settle time.Duration

	ready   chan frame    // receives the agent's first word, that it is ready or why not
	started chan frame    // receives the second
	over    chan struct{} // closed when the agent is gone
	running sync.WaitGroup

	mu      sync.Mutex
	last    string        // what the remote shell said last on its standard error
	waiting []*rank       // to be started
	live    map[int]*rank // ranks that have started and not ended
	ended   chan<- exit
}

// startRemote starts an agent through the remote shell rsh and hands it its assignment. It must be called on a thread that
// lives as long as launch.
func startRemote(rsh []string, command string, a assignment, r *remote) error {
	// Without a terminal the remote shell can neither ask for a password, which with many hosts would be a riddle, nor get
	// the Ctrl-C that is meant for launch.
	args := append(slices.Clone(rsh[1:]), r.host.name, command)
	r.cmd = exec.Command(rsh[0], args...)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	in, err := r.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, errOut, err := r.outputs()
	if err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("host %s: starting the remote shell: %w; name another with --rsh", r.host.name, err)
	}
	r.ready, r.started, r.over = make(chan frame, 1), make(chan frame, 1), make(chan struct{})
	r.out = newOutbox(in)
	r.running.Go(func() { r.listenErrors(errOut) })
	go r.listen(out)
	r.out.send(frame{Kind: frameAssign, Assignment: &a})
	return nil
}

func (r *remote) outputs() (out, errOut io.Reader, err error) {
	if out, err = r.cmd.StdoutPipe(); err != nil {
		return nil, nil, err
	}
	errOut, err = r.cmd.StderrPipe()
	return out, errOut, err
}

// listenErrors passes on what the remote shell itself has to say.
func (r *remote) listenErrors(from io.Reader) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if text := strings.TrimSpace(lines.Text()); text != "" {
			r.mu.Lock()
			r.last = text
			r.mu.Unlock()
			r.c.say("%s: %s", r.host.name, text)
		}
	}
}

// listen carries out what the agent says until it is gone.
func (r *remote) listen(from io.Reader) {
	frames := newFrameReader(from, func(line string) { r.c.say("%s: %s", r.host.name, line) })
	var err error
	for err == nil {
		var f frame
		if f, err = frames.next(); err == nil {
			err = r.take(f)
		}
	}
	if !errors.Is(err, errDone) {
		_ = r.cmd.Process.Kill() // there is nothing more to be heard
	}
	r.out.abandon()
	r.running.Wait()
	waited := r.cmd.Wait()
	cause := r.cause(err, waited)
	r.mu.Lock()
	lost := slices.Sorted(maps.Keys(r.live))
	var ranks []*rank
	for _, number := range lost {
		ranks = append(ranks, r.live[number])
	}
	r.live = nil
	ended := r.ended
	r.mu.Unlock()
	if len(ranks) > 0 {
		r.root.LostHost(r.index, cause)
	}
	for _, one := range ranks {
		ended <- exit{one, func() ending { return ending{Lost: cause} }}
	}
	failed := frame{Kind: frameFailed, Text: cause}
	for _, waits := range []chan frame{r.ready, r.started} {
		select {
		case waits <- failed:
		default: // it has had its answer
		}
	}
	close(r.over)
}

// errDone is the end of an agent that has said all.
var errDone = errors.New("done")

// cause says how the agent was lost: what it said itself, or what the remote shell did.
func (r *remote) cause(err, waited error) string {
	var failure agentError
	if errors.As(err, &failure) {
		return failure.text
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	text := "its agent ended"
	var exit *exec.ExitError
	if errors.As(waited, &exit) && exit.Exited() { // otherwise launch itself has killed the remote shell
		text = fmt.Sprintf("%s ended with status %d", r.cmd.Args[0], exit.ExitCode())
	}
	if !errors.Is(err, io.EOF) {
		text += fmt.Sprintf(" (%v)", err)
	}
	if r.last != "" {
		text += ": " + r.last
	}
	return text
}

// An agentError is the failure that an agent reports.
type agentError struct{ text string }

func (e agentError) Error() string { return e.text }

// take acts on a frame of the agent.
func (r *remote) take(f frame) error {
	switch f.Kind {
	case frameReady:
		return answer(r.ready, f)
	case frameStarted:
		r.mu.Lock()
		r.live = map[int]*rank{}
		for _, one := range r.waiting {
			r.live[one.number] = one
		}
		r.waiting = nil
		r.mu.Unlock()
		return answer(r.started, f)
	case frameOutput:
		to := r.c.stdout
		if f.Stream != 1 {
			to = r.c.stderr
		}
		r.c.write(to, f.Data)
	case frameEnded:
		r.mu.Lock()
		one := r.live[f.Rank]
		delete(r.live, f.Rank)
		r.mu.Unlock()
		if one == nil || f.Ending == nil {
			return fmt.Errorf("the agent says that rank %d has ended, which it does not run", f.Rank)
		}
		one.tail.set(f.Tail)
		end := *f.Ending
		r.ended <- exit{one, func() ending { return end }}
	case frameFailed:
		return agentError{f.Text}
	case frameDone:
		return errDone
	default:
		return fmt.Errorf("the agent sent a %q frame", f.Kind)
	}
	return nil
}

// answer hands on a frame that an agent sends once.
func answer(to chan<- frame, f frame) error {
	select {
	case to <- f:
		return nil
	default:
		return fmt.Errorf("the agent sent a second %q frame", f.Kind)
	}
}

// start implements team: it tells the agent to start its ranks.
func (r *remote) start(ended chan<- exit) ([]*rank, error) {
	var ranks []*rank
	for _, number := range r.host.ranks {
		ranks = append(ranks, &rank{
			number: number, host: r.host.name, control: remoteRank{r, number}, tail: &tail{},
			shown: r.output == outputAll || r.output == outputRank0 && number == 0,
		})
	}
	r.mu.Lock()
	r.waiting, r.ended = ranks, ended
	r.mu.Unlock()
	r.out.send(frame{Kind: frameStart, Address: r.parent})
	if f := <-r.started; f.Kind == frameFailed {
		return nil, fmt.Errorf("host %s: %s", r.host.name, f.Text)
	}
	go r.heedLoss()
	return ranks, nil
}

// heedLoss gives the host up when the root has lost it: then the remote shell may hang for as long as TCP does.
func (r *remote) heedLoss() {
	select {
	case <-r.over:
		return
	case <-r.root.Failed():
	}
	if !r.root.HostLost(r.index) {
		return
	}
	select {
	case <-r.over:
	case <-time.After(r.settle): // perhaps its agent still has something to say
		_ = r.cmd.Process.Kill()
	}
}

// drain implements team.
func (r *remote) drain() { <-r.over }

// stop ends the agent, which ends its ranks, and returns when it is gone.
func (r *remote) stop() {
	r.out.abandon()
	_ = r.cmd.Process.Kill()
	<-r.over
}

// A remoteRank controls a rank through its host's agent.
type remoteRank struct {
	r      *remote
	number int
}

func (c remoteRank) ask()  { c.r.out.send(frame{Kind: frameAsk, Rank: c.number}) }
func (c remoteRank) kill() { c.r.out.send(frame{Kind: frameKill, Rank: c.number}) }

// abandon implements controller: with the remote shell, everything on the host is given up.
func (c remoteRank) abandon() { _ = c.r.cmd.Process.Kill() }

// shellQuote makes text one word for a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// agentCommand is what the remote shell runs.
func agentCommand(path string) (string, error) {
	if path == "" {
		own, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("finding launch's own binary for the other hosts: %w; name it with --agent-path", err)
		}
		path = own
	}
	return "exec " + shellQuote(path) + " " + agentFlag, nil
}

// startTimeout is how long other hosts have to answer.
const startTimeout = time.Minute
