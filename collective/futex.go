package collective

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// futexWait sleeps while *word is value, for at most d. It may return earlier: the caller looks at its condition again.
//
// It is a system call that gives up the goroutine's processor, unlike a raw one, so that a rank that sleeps here holds up
// no garbage collection. The futex is not private: the word lies in memory that processes share.
func futexWait(word *atomic.Uint32, value uint32, d time.Duration) {
	timeout := unix.NsecToTimespec(d.Nanoseconds())
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(value),
		uintptr(unsafe.Pointer(&timeout)), 0, 0)
	runtime.KeepAlive(word)
}

// futexWake wakes whoever sleeps on the word.
func futexWake(word *atomic.Uint32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, 1<<30, 0, 0, 0)
	runtime.KeepAlive(word)
}

// Operations of futex(2), which x/sys does not name.
const (
	futexWaitOp = 0
	futexWakeOp = 1
)

// yield lets another process have this core.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// cores returns the set of cores that this process may run on.
func cores() unix.CPUSet {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		for i := range runtime.NumCPU() {
			set.Set(i)
		}
	}
	return set
}
