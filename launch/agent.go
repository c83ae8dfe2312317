package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"lockstep/collective"
)

// agentFlag makes launch the agent of another launch, on its own host. It is for launch itself, and not in the usage.
const agentFlag = "--agent"

// An agent is launch on another host than the user's. The user's launch starts it through a remote shell and tells it, on its
// standard input, what to do; the secret comes the same way, so that it is in no argument and no environment. It runs the
// ranks of its host as launch itself does, and a collective.Relay that speaks for them. When it loses launch, in whatever
// way, it ends them: none outlives the job.
type agent struct {
	launcher *launcher
	out      *outbox
	commands chan frame // from launch; closed when launch is gone
	a        assignment
	relay    *collective.Relay
	crew     *crew
}

// runAgent is launch's life as an agent. It returns the exit status.
func (l *launcher) runAgent(in io.Reader, out io.Writer) int {
	a := &agent{launcher: l, out: newOutbox(out), commands: make(chan frame)}
	go a.listen(in)
	runtime.LockOSThread() // for the ranks' parent-death signal, see launch
	defer runtime.UnlockOSThread()
	err := a.serve()
	if l.console != nil {
		l.console.close()
	}
	last := frame{Kind: frameDone}
	if err != nil {
		last = frame{Kind: frameFailed, Text: err.Error()}
	}
	a.out.send(last)
	a.out.flush()
	if err != nil {
		return statusFailed
	}
	return 0
}

// listen passes on what launch says.
func (a *agent) listen(in io.Reader) {
	defer close(a.commands)
	frames := newFrameReader(in, nil)
	for {
		f, err := frames.next()
		if err != nil {
			return
		}
		a.commands <- f
	}
}

// errLaunchGone is why an agent ends that does not hear from launch any more.
var errLaunchGone = errors.New("this host is cut off from launch: launch is gone, or the remote shell that it reached this host by")

// serve carries out an assignment: check, connect, start, watch.
func (a *agent) serve() error {
	first, ok := <-a.commands
	if !ok || first.Kind != frameAssign || first.Assignment == nil {
		return errors.New("an agent is started by launch, not by hand")
	}
	a.a = *first.Assignment
	if err := os.Chdir(a.a.Dir); err != nil {
		return fmt.Errorf("the working directory is not there: %w; ranks run in the same directory on all hosts", err)
	}
	relay, err := a.newRelay()
	if err != nil {
		return err
	}
	a.relay = relay
	defer relay.Close()
	a.out.send(frame{Kind: frameReady, Address: relay.Outside(), Sums: checksums(a.a.Files)})
	start, ok := <-a.commands
	if !ok {
		return errLaunchGone
	}
	return a.runRanks(start.Address)
}

func (a *agent) newRelay() (*collective.Relay, error) {
	console := newConsole(&stream{w: outputWriter{a.out, 1}}, &stream{w: outputWriter{a.out, 2}})
	a.launcher.console = console
	address, err := interfaceAddress(a.a.Interface, a.a.Root)
	if err != nil {
		return nil, err
	}
	o := collective.RelayOptions{
		Size: a.a.Size, Host: a.a.Host, Hosts: a.a.Hosts, Ranks: a.a.Ranks, Job: a.a.Job, Secret: a.a.Secret, Ports: a.a.Ports,
		Log: slog.New(consoleLog{console: console}).With("host", a.a.Name),
	}
	if a.a.Relays {
		o.Outside = address
	}
	return collective.NewRelay(o)
}

// runRanks runs the ranks of this host from start to end. parent is where the relay connects to.
func (a *agent) runRanks(parent string) error {
	ctx, cancel := context.WithTimeout(context.Background(), a.a.StartTimeout)
	defer cancel()
	if err := a.relay.Connect(ctx, parent); err != nil {
		return err
	}
	life, err := newLifeline()
	if err != nil {
		return fmt.Errorf("making the ranks' lifeline: %w", err)
	}
	defer life.close()
	address, err := interfaceAddress(a.a.Interface, a.a.Root)
	if err != nil {
		return err
	}
	s := &starter{
		program: a.a.Program, args: a.a.Args, environ: append(a.launcher.environ, a.a.Environ...), ranks: a.a.Ranks, secret: a.a.Secret,
		lifeline: life.read, console: a.launcher.console, output: a.a.Output,
		place: collective.Place{
			Size: a.a.Size, Job: a.a.Job, Rendezvous: a.relay.Addr(), Address: address, Ports: a.a.Ports,
			SecretFD: secretFD, LifelineFD: lifelineFD,
		},
	}
	if a.a.Bind == bindCore {
		if s.cores, err = shareCores(len(s.ranks)); err != nil {
			return err
		}
		a.launcher.console.say("%s: %s", a.a.Name, bindingText(s.ranks, s.cores))
	}
	a.crew = &crew{starter: s}
	ended := make(chan exit, len(s.ranks))
	started, err := a.crew.start(ended)
	if err != nil {
		for _, r := range started {
			r.kill()
		}
		for range started {
			(<-ended).collect()
		}
		return err
	}
	a.out.send(frame{Kind: frameStarted})
	return a.watch(started, ended)
}

// watch does what launch says until all ranks have ended, and ends them when launch is gone.
func (a *agent) watch(ranks []*rank, ended <-chan exit) (err error) {
	byNumber := map[int]*rank{}
	for _, r := range ranks {
		byNumber[r.number] = r
	}
	lose := func(why error) {
		if err != nil {
			return
		}
		err = why
		a.relay.CutOff(why)
		// Perhaps nobody reads what the ranks say now; then it must not hold up their end.
		time.AfterFunc(a.launcher.timing.settle, a.out.abandon)
	}
	commands, lost := (<-chan frame)(a.commands), a.relay.Done()
	signals := a.launcher.signals
	limit := time.NewTimer(0)
	limit.Stop()
	for left := len(ranks); left > 0; {
		select {
		case e := <-ended:
			end := e.collect()
			e.rank.end = &end
			left--
			a.out.send(frame{Kind: frameEnded, Rank: e.rank.number, Ending: &end, Tail: e.rank.tail.text()})
		case f, ok := <-commands:
			if !ok {
				commands = nil
				lose(errLaunchGone)
			} else if r := byNumber[f.Rank]; r != nil {
				obey(r, f.Kind)
			}
		case sig := <-signals:
			lose(fmt.Errorf("the agent on %s got a signal: %v", a.a.Name, sig))
		case <-lost: // by lose, or because the relay has lost its connection
			lost = nil
			lose(a.relay.Err())
			limit.Reset(a.launcher.timing.settle)
		case <-limit.C:
			for _, r := range ranks {
				r.kill()
			}
		}
	}
	a.crew.drain()
	return err
}

// obey carries out one command.
func obey(r *rank, kind frameKind) {
	switch kind {
	case frameAsk:
		r.ask()
	case frameKill:
		r.kill()
	}
}
