package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// timing holds the waits of the supervision that are no options.
type timing struct {
	// settle is how long, after a rank has failed, the others may take to notice and to end with a message of their own.
	settle time.Duration
	// terminate is how long they then have after SIGTERM. They cannot go on without the rank that failed.
	terminate time.Duration
	// repeat is how soon after a signal another one counts as the same. One Ctrl-C may come more than once: the terminal
	// sends it to the whole foreground process group, and tools such as timeout or a shell pass it on as well.
	repeat time.Duration
}

func usualTiming() timing {
	return timing{settle: 2 * time.Second, terminate: 3 * time.Second, repeat: 500 * time.Millisecond}
}

// A phase is how far a job is on its way to its end. It only grows.
type phase int

const (
	running  phase = iota
	settling       // a rank has failed, the others may end by themselves
	asked          // all have got SIGTERM
	killed         // all have got SIGKILL
)

// A referee knows from the control connections which rank failed first; collective.Root is one.
type referee interface {
	Lost(rank int, cause string)
	FirstFailure() (rank int, cause string, ok bool)
	// Failed is closed when it has decided.
	Failed() <-chan struct{}
}

// A team is the ranks of one host.
type team interface {
	// start starts all ranks of the team or none. Each that has started comes out of ended when it has ended.
	start(ended chan<- exit) ([]*rank, error)
	// drain returns when all that the team's ranks wrote has been read and shown. They must have ended.
	drain()
}

// An exit says that a rank has ended, and lets it be collected: collect is called once, by who supervises.
type exit struct {
	rank    *rank
	collect func() ending
}

// A job is a set of ranks on their way to the end.
type job struct {
	ranks   []*rank // by number
	teams   []team
	referee referee
	console *console
	output  outputMode
	grace   time.Duration
	timing  timing

	ended    chan exit // of ranks that are to be collected
	phase    phase
	deadline *time.Timer // of the phase
	failed   []*rank     // in the order in which they ended
	stop     os.Signal   // from the user, nil for none
	stopped  time.Time   // when it came
}

// startAll starts the n ranks of all teams, or none. Those on other hosts start at the same time.
func (j *job) startAll(n int) error {
	j.ended = make(chan exit, n)
	var mu sync.Mutex
	var errs []error
	begin := func(t team) {
		ranks, err := t.start(j.ended)
		mu.Lock()
		defer mu.Unlock()
		j.ranks, errs = append(j.ranks, ranks...), append(errs, err)
	}
	var away sync.WaitGroup
	for _, t := range j.teams[1:] {
		away.Go(func() { begin(t) })
	}
	begin(j.teams[0]) // on this thread, see starter.start
	away.Wait()
	slices.SortFunc(j.ranks, func(a, b *rank) int { return a.number - b.number })
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	j.killAll()
	for range j.ranks {
		e := <-j.ended
		end := e.collect()
		e.rank.end = &end
	}
	return err
}

// supervise returns when all ranks have ended. Each wait on the way has an end: a rank that fails and a signal from the
// user both lead, by steps, to SIGKILL.
func (j *job) supervise(signals <-chan os.Signal) {
	j.deadline = time.NewTimer(0)
	j.deadline.Stop()
	defer j.deadline.Stop()
	failed := j.referee.Failed()
	for left := len(j.ranks); left > 0; {
		select {
		case e := <-j.ended:
			end := e.collect()
			e.rank.end = &end
			j.judge(e.rank)
			left--
		case <-failed:
			failed = nil
			j.settle()
		case sig := <-signals:
			j.interrupt(sig)
		case <-j.deadline.C:
			j.escalate()
		}
	}
}

// judge records how a rank has ended. The referee hears of a failure at once, so that the other ranks need not wait for a
// timeout to learn of it.
func (j *job) judge(r *rank) {
	if r.status() == 0 {
		return
	}
	j.failed = append(j.failed, r)
	j.referee.Lost(r.number, r.describe())
	j.settle()
}

// settle begins the end of a job in which a rank has failed.
func (j *job) settle() {
	if j.phase == running {
		j.phase = settling
		j.deadline.Reset(j.timing.settle)
	}
}

// interrupt acts on a signal to launch: the first asks all ranks to finish, the second kills them.
func (j *job) interrupt(sig os.Signal) {
	if j.stop != nil {
		// A SIGPIPE is no one's wish: it says again that nobody reads launch's output.
		if sig != syscall.SIGPIPE && time.Since(j.stopped) >= j.timing.repeat {
			j.console.say("%v again: killing %s", sig, j.leftText())
			j.killAll()
		}
		return
	}
	j.stop, j.stopped = sig, time.Now()
	if j.phase >= asked {
		return
	}
	wait := j.grace
	if j.phase == settling {
		wait = j.timing.terminate
	}
	j.askAll(wait)
	j.console.say("%v: asked %s to finish; what still runs in %v, or at a second signal, is killed", sig, j.leftText(), wait)
}

// escalate goes on to the next phase when the time of one has run out.
func (j *job) escalate() {
	switch j.phase {
	case settling:
		j.askAll(j.timing.terminate)
		first, _, known := j.referee.FirstFailure()
		if !known {
			first = j.failed[0].number
		}
		j.console.say("rank %d has failed: asked %s to end", first, j.leftText())
	case asked:
		j.console.say("%s did not end when asked: killing", j.leftText())
		j.killAll()
	case killed:
		for _, r := range j.ranks {
			if r.end == nil {
				r.control.abandon()
			}
		}
	}
}

// askAll sends SIGTERM to all ranks that have not got it; what has not ended when wait is over is killed.
func (j *job) askAll(wait time.Duration) {
	j.phase = asked
	for _, r := range j.ranks {
		r.ask()
	}
	j.deadline.Reset(wait)
}

// killAll sends SIGKILL, which can be neither ignored nor put off by being suspended.
func (j *job) killAll() {
	j.phase = killed
	for _, r := range j.ranks {
		r.kill()
	}
	if j.deadline != nil {
		j.deadline.Reset(j.timing.terminate)
	}
}

// drain returns when all that the ranks wrote has been read and shown. Ranks must have ended.
func (j *job) drain() {
	for _, t := range j.teams {
		t.drain()
	}
}

// leftText names the ranks that have not ended: "rank 3", "ranks 0-2,5".
func (j *job) leftText() string {
	var numbers []int
	for _, r := range j.ranks {
		if r.end == nil {
			numbers = append(numbers, r.number)
		}
	}
	return rankText(numbers)
}

// rankText names ranks, given in order.
func rankText(numbers []int) string {
	if len(numbers) == 0 {
		return "no rank"
	}
	var spans []string
	for i := 0; i < len(numbers); {
		end := i
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		if span := fmt.Sprint(numbers[i]); end == i {
			spans = append(spans, span)
		} else {
			spans = append(spans, fmt.Sprintf("%s-%d", span, numbers[end]))
		}
		i = end + 1
	}
	word := "ranks "
	if len(numbers) == 1 {
		word = "rank "
	}
	return word + strings.Join(spans, ",")
}
