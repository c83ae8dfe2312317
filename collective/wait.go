package collective

import (
	"fmt"
	"math/bits"
	"time"
)

// How members wait for one another in shared memory. The word that a wait looks at changes within a fraction of a
// microsecond when all members run; so where each can have a core of its own, a wait first spins. Then it offers its core
// to others some times, which is all that is needed where members share cores. Then it sleeps on a word of its own, its
// bell, which whoever changes anything rings if it sees that the member sleeps. The group's failure and a member's leaving
// ring it as well, so that every wait ends.
const (
	// spinPauses is how often a wait looks with a pause of the processor in between: about a microsecond. More would cost
	// that much whenever the kernel has put two members on one core, though there are enough.
	spinPauses = 40
	// yields is how often it looks after it has offered its core. It costs nothing measurable and saves most sleeps where
	// members outnumber cores.
	yields = 200
)

// await returns when done is true. late names the member that is waited for, by position.
func (s *shared) await(done func() bool, late func() int) error {
	for range s.spins {
		if done() {
			return nil
		}
		pause()
	}
	for range yields {
		if done() {
			return nil
		}
		yield()
	}
	s.publish()
	deadline := time.Now().Add(s.group.world.o.Timeout)
	for {
		bell := s.me.bell.Load()
		s.me.asleep.Store(1)
		s.control.sleepers.Add(1)
		over, err := s.over(done, late)
		if !over {
			if left := time.Until(deadline); left > 0 {
				futexWait(&s.me.bell, bell, left)
			} else {
				over, err = true, s.group.stalled(s.group.ranks[late()])
			}
		}
		s.me.asleep.Store(0)
		s.control.sleepers.Add(^uint64(0))
		if over {
			return err
		}
	}
}

// over says whether a wait is, and whether in failure.
func (s *shared) over(done func() bool, late func() int) (bool, error) {
	if done() {
		return true, nil
	}
	if err := s.group.broken(); err != nil {
		return true, err
	}
	if err := s.mismatch(); err != nil {
		s.wakeAll() // those in the other operation may not have seen it
		return true, err
	}
	if member := late(); s.members[member].gone.Load() == 1 && !done() {
		return true, s.departed(s.group.ranks[member])
	}
	return false, nil
}

// departed finds the cause of a member's leaving: the job's failure, where there is one.
func (s *shared) departed(rank int) error {
	if cause := s.group.world.causeWithin(graceTime); cause != nil {
		return cause
	}
	return fmt.Errorf("waiting for rank %d: it has left group %s", rank, s.group.name)
}

// notReady returns a member that has not mapped the group's memory.
func (s *shared) notReady() int {
	return s.first(func(member int) bool { return s.members[member].ready.Load() == 0 })
}

// notArrived returns a member that has not arrived at this one's operation.
func (s *shared) notArrived() int {
	return s.first(func(member int) bool { return s.slot(member).stamp.Load() != s.stamp })
}

// first returns the first other member of which f is true, if there is none the first other.
func (s *shared) first(f func(member int) bool) int {
	for member := range s.members {
		if member != s.group.me && f(member) {
			return member
		}
	}
	if s.group.me == 0 {
		return 1
	}
	return 0
}

// wake wakes a member that sleeps, to look again at what it waits for.
func (s *shared) wake(member int) {
	if m := s.members[member]; m.asleep.Load() == 1 {
		m.bell.Add(1)
		futexWake(&m.bell)
	}
}

// wakeAll wakes all members that sleep.
func (s *shared) wakeAll() {
	if s.control.sleepers.Load() == 0 {
		return
	}
	for member := range s.members {
		s.wake(member)
	}
}

// interrupt ends this member's wait; the group's cause has been set before.
func (s *shared) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.me.bell.Add(1)
		futexWake(&s.me.bell)
	}
}

// A coreSet is a set of cores, as members tell it to one another.
type coreSet [16]uint64

func availableCores() (c coreSet) {
	set := cores()
	for i := range len(c) * 64 {
		if set.IsSet(i) {
			c[i/64] |= 1 << (i % 64)
		}
	}
	return c
}

// spinBudget returns how often a wait spins: not at all where the ranks outnumber the cores, because the rank that is
// waited for may need this one's. Where members are bound to cores of their own, only they count; else all of the host's.
func (s *shared) spinBudget() int {
	var union coreSet
	ranks := len(s.group.world.local.ranks)
	for _, m := range s.members {
		if m.cores != s.me.cores {
			ranks = len(s.members)
		}
		for i, word := range m.cores {
			union[i] |= word
		}
	}
	n := 0
	for _, word := range union {
		n += bits.OnesCount64(word)
	}
	if n < ranks && !s.group.world.o.coreEach {
		return 0
	}
	return spinPauses
}
