package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// A rank is one process of the job, on this host or another.
type rank struct {
	number  int
	host    string // the name of another host; empty on this one
	control controller
	tail    *tail
	shown   bool // its output was shown while it ran

	asked bool           // to end, by SIGTERM
	sent  syscall.Signal // the last signal from launch, 0 for none
	end   *ending        // nil while it runs
}

// A controller acts on the process of a rank, wherever that is. Acting on one that has ended does nothing.
type controller interface {
	// ask sends SIGTERM, kill SIGKILL to it and all that it has started.
	ask()
	kill()
	// abandon gives up a process that nothing is heard of although it was killed.
	abandon()
}

// An ending is how a rank has ended.
type ending struct {
	Status int            // exit status of one that no signal killed
	Signal syscall.Signal // that killed it, 0 for none
	Lost   string         // for a rank whose host was lost: how
}

// ask tells a rank to end, once.
func (r *rank) ask() {
	if r.asked || r.end != nil {
		return
	}
	r.asked, r.sent = true, syscall.SIGTERM
	r.control.ask()
}

// kill ends a rank and its children at once.
func (r *rank) kill() {
	if r.end == nil {
		r.sent = syscall.SIGKILL
		r.control.kill()
	}
}

// status is the rank's exit status as a shell would report it.
func (r *rank) status() int {
	switch {
	case r.end.Lost != "":
		return statusFailed
	case r.end.Signal != 0:
		return 128 + int(r.end.Signal)
	}
	return r.end.Status
}

// byLaunch says that the rank was killed by a signal of launch, so that it is not to blame.
func (r *rank) byLaunch() bool { return r.end.Signal != 0 && r.end.Signal == r.sent }

// describe says how the rank ended.
func (r *rank) describe() string {
	switch {
	case r.end.Lost != "":
		return "lost with its host"
	case r.end.Signal == 0:
		return fmt.Sprintf("exit status %d", r.end.Status)
	}
	text := fmt.Sprintf("killed by signal %d (%s)", int(r.end.Signal), unix.SignalName(r.end.Signal))
	if r.byLaunch() {
		text += ", sent by launch"
	}
	return text
}

// String names the rank, with its host unless that is this one.
func (r *rank) String() string {
	if r.host == "" {
		return fmt.Sprintf("rank %d", r.number)
	}
	return fmt.Sprintf("rank %d on %s", r.number, r.host)
}
