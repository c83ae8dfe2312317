// Launch starts the ranks of a job, on this host or on many, and watches over them until all have ended:
//
//	launch -n 8 ./spmd config.toml
//	launch --hostfile nodes ./spmd config.toml
//
// A rank is one process of the program. It learns its place in the job from the environment (collective.Place), the job's
// secret from an inherited pipe, and meets the other ranks at the collective.Root that runs inside launch.
//
// What a job can rely on:
//
//   - No rank outlives launch. Ranks get SIGKILL from the kernel when launch dies (a parent-death signal), and they hold the
//     read end of a pipe, their lifeline, that ends when launch is gone.
//   - A signal reaches each rank once, from launch, since ranks are in process groups of their own. Ctrl-C, SIGTERM and
//     SIGHUP ask all ranks to finish, by SIGTERM; spmd then writes a checkpoint. A second signal, or the end of the grace
//     period, kills what is left. A reader of launch's output that goes away (launch | head) ends the job in the same
//     orderly way.
//   - When a rank fails the others are told at once, by the rendezvous. They have a moment to end by themselves, then they
//     are asked to, then killed. The report begins with the rank that failed first, and launch ends with its status.
//   - What a rank leaves behind in its process group is killed when the rank has ended.
//
// On other hosts all this is done by an agent, which is launch again, started through a remote shell: see agent.go. An agent
// that loses launch, because either has died or the network between them has, ends its ranks.
//
// Ranks read nothing: their standard input is empty. Their output is passed on in whole lines (see outputMode); only rank 0,
// when it alone is shown and on a terminal, has that terminal for itself and may draw on it (see envStdoutColumns).
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"

	"lockstep/collective"
)

// Exit statuses of launch itself; otherwise it is that of the rank that failed first.
const (
	statusFailed = 1 // the ranks could not be started
	statusUsage  = 2 // the command line is wrong
)

func main() {
	signals := make(chan os.Signal, 16)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
		if !signal.Ignored(sig) { // nohup, and shells that run launch in the background, want it to stay so
			signal.Notify(signals, sig)
		}
	}
	l := &launcher{
		environ: os.Environ(), stdout: newStream(os.Stdout), stderr: newStream(os.Stderr),
		signals: signals, release: func() { signal.Stop(signals) }, timing: usualTiming(),
	}
	os.Exit(l.run(os.Args[1:]))
}

// A launcher is one run of launch in its surroundings.
type launcher struct {
	environ        []string
	stdout, stderr *stream
	signals        <-chan os.Signal
	release        func() // gives signals their usual effect again
	timing         timing

	console *console
}

// run carries out a command line and returns the exit status.
func (l *launcher) run(args []string) int {
	if len(args) == 1 && args[0] == agentFlag {
		return l.runAgent(os.Stdin, os.Stdout)
	}
	l.console = newConsole(l.stdout, l.stderr)
	status, err := l.launch(args)
	if err != nil {
		status = l.explain(err)
	}
	l.console.close()
	return status
}

// launch is the story of a job: find or build the program, open the rendezvous, start the ranks, watch them, report.
func (l *launcher) launch(args []string) (status int, err error) {
	o, err := parseOptions(args, l.environ)
	if err != nil {
		return 0, usageError{fmt.Errorf("%w\nsee launch --help", err)}
	}
	if o.help || o.version {
		l.console.write(l.stdout, []byte(o.page()))
		return 0, nil
	}
	if err := o.placeRanks(); err != nil {
		return 0, usageError{err}
	}
	// The parent-death signal of a rank fires when the thread that started it ends, so the ranks, and go build, are started
	// from one that this goroutine keeps until they have ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	program, err := l.prepare(o.program)
	if err != nil {
		return 0, err
	}
	defer program.remove()
	return l.runJob(o, program)
}

// jobNames are what the processes of one job know it by.
type jobNames struct {
	name   string
	secret []byte
}

// runJob runs the program's ranks from start to end.
func (l *launcher) runJob(o options, p program) (status int, err error) {
	names := jobNames{rand.Text()[:8], make([]byte, collective.SecretSize)}
	rand.Read(names.secret) // never fails
	root, err := l.newRoot(o, names)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	c, err := l.startAgents(o, p, names, root)
	if err != nil {
		return 0, err
	}
	life, err := newLifeline()
	if err != nil {
		c.stop()
		return 0, fmt.Errorf("making the ranks' lifeline: %w", err)
	}
	defer life.close() // not earlier: its end is the signal to the ranks
	own, err := l.crew(o, p, names, root, life)
	if err != nil {
		c.stop()
		return 0, err
	}
	j := &job{referee: root, teams: []team{own}, console: l.console, output: o.output, grace: o.grace, timing: l.timing}
	for _, r := range c.remotes {
		j.teams = append(j.teams, r)
	}
	err = j.startAll(o.ranks)
	p.remove() // running processes keep a deleted binary, so nothing is left even if launch is killed
	if err != nil {
		c.stop()
		own.drain()
		return 0, err
	}
	j.supervise(l.signals)
	l.release()
	c.finish(l.timing.terminate)
	j.drain()
	v := j.verdict()
	l.console.report(j.report(v))
	return v.status(), nil
}

// newRoot opens the rendezvous.
func (l *launcher) newRoot(o options, names jobNames) (*collective.Root, error) {
	ro := collective.RootOptions{
		Size: o.ranks, Job: names.name, Secret: names.secret, Ports: o.ports, Supervised: true, Log: slog.New(consoleLog{console: l.console}),
	}
	for _, p := range others(o.placed) {
		ro.Hosts = append(ro.Hosts, collective.Host{Name: p.name, Ranks: p.ranks})
	}
	if len(ro.Hosts) > 0 {
		var err error
		if ro.Outside, err = interfaceAddress(o.network, ro.Hosts[0].Name); err != nil {
			return nil, usageError{err}
		}
	}
	return collective.NewRoot(ro)
}

// crew returns the team of this host; it may be empty.
func (l *launcher) crew(o options, p program, names jobNames, root *collective.Root, life lifeline) (*crew, error) {
	s := &starter{
		program: p.path, args: o.args, environ: append(slices.Clone(l.environ), o.vars...), secret: names.secret, lifeline: life.read,
		console: l.console, output: o.output,
		place: collective.Place{
			Size: o.ranks, Job: names.name, Rendezvous: root.Addr(), Ports: o.ports, SecretFD: secretFD, LifelineFD: lifelineFD,
		},
	}
	for _, p := range o.placed {
		if p.local {
			s.ranks = p.ranks
		}
	}
	if outside := root.Outside(); outside != "" {
		address, _, err := net.SplitHostPort(outside)
		if err != nil {
			return nil, err
		}
		s.place.Address = address
	}
	if o.bind == bindCore && len(s.ranks) > 0 {
		var err error
		if s.cores, err = shareCores(len(s.ranks)); err != nil {
			return nil, err
		}
		l.console.say("%s", bindingText(s.ranks, s.cores))
	}
	return &crew{starter: s}, nil
}

// A usageError is a mistake of the user's, found before anything was started.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// A stoppedError says that a signal came before the ranks were started.
type stoppedError struct{ signal os.Signal }

func (e stoppedError) Error() string {
	return fmt.Sprintf("stopped before the start of the ranks: %v", e.signal)
}

// explain shows an error and returns the exit status for it.
func (l *launcher) explain(err error) int {
	l.console.say("%v", err)
	var usage usageError
	var stopped stoppedError
	switch {
	case errors.As(err, &usage):
		return statusUsage
	case errors.As(err, &stopped):
		if sig, ok := stopped.signal.(syscall.Signal); ok {
			return 128 + int(sig)
		}
	}
	return statusFailed
}

// page returns what --help or --version print.
func (o options) page() string {
	if o.help {
		return usage
	}
	version := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	return fmt.Sprintf("launch %s %s\n", version, runtime.Version())
}

// placeRanks decides which rank runs on which host.
func (o *options) placeRanks() error {
	hosts := o.hosts
	if hosts == nil {
		hosts = []host{{name: "localhost", slots: o.ranks}}
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding the name of this host: %w", err)
	}
	o.placed, err = place(hosts, o.ranks, o.mapBy, func(name string) bool { return isThisHost(name, hostname) })
	o.ranks = 0
	for _, p := range o.placed {
		o.ranks += len(p.ranks)
	}
	return err
}
