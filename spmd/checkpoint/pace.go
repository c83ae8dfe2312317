package checkpoint

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Background says how a save in the background makes way for the steps beside it.
type Background struct {
	// Share is the share of the time in which it works on the state's file, 0 for all of it.
	Share float64
	// Within is the time that writing that file may take at most for the sake of Share.
	Within time.Duration
}

// A pace slows the writing of a state file down: after each chunk it rests.
type pace struct {
	Background
	hurry *atomic.Bool // whether somebody waits for the save
	total int          // bytes to write
	began time.Time
	woke  time.Time // when the work on this chunk began
}

func (p *pace) start(total int) {
	giveWay()
	p.total, p.began = total, time.Now()
	p.woke = p.began
}

// rest comes after a chunk, when done bytes are written.
func (p *pace) rest(ctx context.Context, done int) {
	if pause := p.pause(time.Now(), done); pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	p.woke = time.Now()
}

// pause returns how long to rest from now on.
func (p *pace) pause(now time.Time, done int) time.Duration {
	if p.Share <= 0 || p.Share >= 1 || p.hurry.Load() {
		return 0
	}
	worked := now.Sub(p.woke)
	due := p.began.Add(time.Duration(float64(p.Within) * float64(done) / float64(p.total)))
	return max(0, min(time.Duration(float64(worked)*(1/p.Share-1)), due.Sub(now)))
}

// niceness is by how much the priority of a save in the background is below that of the steps.
const niceness = 12

// giveWay lowers the priority of the caller's goroutine. Its thread ends with it: an ordinary user cannot raise its priority again.
func giveWay() {
	runtime.LockOSThread()
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil { // 20 less the niceness
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-p+niceness, 19)) // which may always be lowered
	}
}
