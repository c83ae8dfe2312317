package collective

import (
	"fmt"
	"time"
)

// settleTime is how long the root waits, after a control connection ended without a word, for launch to say how the
// process died. It delays the news, for a better cause; it does not change who is to blame.
const settleTime = 80 * time.Millisecond

// Lost tells the root that the process of a rank has ended in failure, and how: "killed by signal 9", "exit status 3".
// It may be called for ranks that never joined and for ranks that ended because another did; only the first failure of the
// job counts.
func (r *Root) Lost(rank int, cause string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.failure; f != nil {
		if f.Rank == rank && f.Cause == causeSilent { // launch was slow to see it; FirstFailure can still say how it died
			f.Cause = cause
		}
		return
	}
	// Where a connection has already ended without a word, that rank came first; launch only lends its cause a text.
	if r.suspect < 0 || r.suspect == rank {
		r.decide(message{Kind: kindLost, Rank: rank, Cause: cause})
	}
}

// FirstFailure returns the rank that ended the job and why. ok is false while no rank has failed.
func (r *Root) FirstFailure() (rank int, cause string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil {
		if r.suspect >= 0 {
			return r.suspect, r.suspicion, true
		}
		return 0, "", false
	}
	return r.failure.Rank, r.failure.Cause, true
}

// causeSilent is all that the root itself can see of a process that was killed.
const causeSilent = "its connection to launch ended without a goodbye"

// LostHost tells the root that the relay of a host, and so what is known of its ranks, is lost.
func (r *Root) LostHost(host int, cause string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hostEnded(host, cause)
}

// HostLost says whether the root has lost the relay of a host.
func (r *Root) HostLost(host int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hosts[host] == gone
}

// hostEnded handles the end of the connection of a host's relay, which may have been below another relay. r.mu is held.
func (r *Root) hostEnded(host int, cause string) {
	r.hosts[host] = gone
	h := r.o.Hosts[host]
	for _, rank := range h.Ranks {
		if r.members[rank].state != gone {
			r.decide(message{Kind: kindLost, Rank: rank, Cause: fmt.Sprintf("host %s (%s) was lost: %s", h.Name, rankList(h.Ranks), cause)})
			return
		}
	}
}

// ended handles the end of a rank's connection. r.mu is held.
func (r *Root) ended(rank int, cause string) {
	known := r.members[rank].state == gone || r.failure != nil || r.closed || r.suspect >= 0
	r.members[rank].state = gone
	if known {
		return
	}
	r.suspect, r.suspicion = rank, cause
	found := func() { r.decide(message{Kind: kindLost, Rank: rank, Cause: cause}) }
	if !r.o.Supervised {
		found()
		return
	}
	r.settling = time.AfterFunc(r.o.settle, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		found()
	})
}
