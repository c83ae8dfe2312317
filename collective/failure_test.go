package collective

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"lockstep/kernels/device"
)

// quickly fails the test if f takes longer than a failure may.
func quickly(t *testing.T, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %v until all ranks knew", d)
	}
}

// blockedAllReduce starts a large all-reduce on all ranks but one, and returns when they are in it.
func blockedAllReduce(t *testing.T, j *testJob, groups []Group, without int) []device.Event {
	t.Helper()
	events := make([]device.Event, j.size)
	for rank := range groups {
		if rank != without {
			events[rank] = groups[rank].AllReduce(memory(make([]byte, 8<<20)), sum32(), device.Event{})
		}
	}
	for rank := range groups {
		for rank != without && !isInside(groups[rank]) {
			time.Sleep(time.Millisecond)
		}
	}
	return events
}

// isInside reports whether an operation of the group runs.
func isInside(g Group) bool {
	return g.(*group).inside.Load()
}

func TestRankDiesDuringAllReduce(t *testing.T) {
	for _, launchSaw := range []bool{false, true} {
		j := newJob(t, 4, func(r *RootOptions, _ *Options) {
			if launchSaw {
				r.settle = time.Minute // that launch is slow is another test
			}
		})
		groups := j.groups("data")
		events := blockedAllReduce(t, j, groups, 2)
		want := causeSilent
		quickly(t, func() {
			j.worlds[2].die()
			if launchSaw {
				want = "killed by signal 9"
				j.root.Lost(2, want)
			}
			errs := j.each(func(rank int) error { return events[rank].Synchronize() })
			for rank, err := range errs {
				lost := new(RankLostError)
				switch {
				case rank == 2:
				case !errors.As(err, &lost) || lost.Rank != 2 || lost.Cause != want:
					t.Errorf("rank %d: %v", rank, err)
				case err.Error() != "all-reduce 1 of group data (8.4 MB): rank 2 was lost: "+want:
					t.Errorf("rank %d: %q", rank, err)
				}
			}
		})
		if rank, cause, ok := j.root.FirstFailure(); !ok || rank != 2 || cause != want {
			t.Errorf("FirstFailure = %d, %q, %v", rank, cause, ok)
		}
		j.root.Lost(1, "exit status 1") // a victim
		if rank, cause, _ := j.root.FirstFailure(); rank != 2 || cause != want {
			t.Errorf("after a victim's end, FirstFailure = %d, %q", rank, cause)
		}
	}
}

// TestRankDiesInTheMiddle kills a rank that has begun the all-reduce and has sent part of its data.
func TestRankDiesInTheMiddle(t *testing.T) {
	j := newJob(t, 4)
	groups := j.groups("data")
	release := make(chan struct{})
	slow := sum32()
	fold, folds := slow.Fold, 0
	slow.Fold = func(dst, src [][]byte) {
		if folds++; folds == 3 {
			<-release
		}
		fold(dst, src)
	}
	events := make([]device.Event, 4)
	for rank := range groups {
		r := sum32()
		if rank == 1 {
			r = slow
		}
		events[rank] = groups[rank].AllReduce(memory(make([]byte, 8<<20)), r, device.Event{})
	}
	quickly(t, func() {
		j.worlds[1].die()
		for _, rank := range []int{0, 2, 3} {
			lost := new(RankLostError)
			if err := events[rank].Synchronize(); !errors.As(err, &lost) || lost.Rank != 1 {
				t.Errorf("rank %d: %v", rank, err)
			}
		}
	})
	close(release)
	_ = events[1].Synchronize() // it may have had all that it needs
}

// TestVictimsAreNotBlamed lets a victim's abort and end reach the root before launch has seen the culprit's.
func TestVictimsAreNotBlamed(t *testing.T) {
	for name, victim := range map[string]func(j *testJob){
		"ends":   func(j *testJob) { j.root.Lost(0, "exit status 1") },
		"aborts": func(j *testJob) { j.worlds[0].Abort(errors.New("receiving failed")) },
	} {
		j := newJob(t, 3)
		j.worlds[1].die()
		for ok := false; !ok; _, _, ok = j.root.FirstFailure() {
			time.Sleep(time.Millisecond)
		}
		victim(j)
		j.root.Lost(1, "killed by signal 9")
		<-j.worlds[2].Done()
		if lost := new(RankLostError); !errors.As(j.worlds[2].Err(), &lost) || lost.Rank != 1 {
			t.Errorf("a victim %s: rank 2 learned %v", name, j.worlds[2].Err())
		}
		if rank, cause, _ := j.root.FirstFailure(); rank != 1 || cause != "killed by signal 9" {
			t.Errorf("a victim %s: FirstFailure = %d, %q", name, rank, cause)
		}
	}
}

// TestLaunchIsSlow lets launch say how a process died after the ranks were told.
func TestLaunchIsSlow(t *testing.T) {
	j := newJob(t, 2)
	j.worlds[1].die()
	<-j.worlds[0].Done()
	j.root.Lost(1, "killed by signal 11")
	if rank, cause, ok := j.root.FirstFailure(); !ok || rank != 1 || cause != "killed by signal 11" {
		t.Errorf("FirstFailure = %d, %q, %v", rank, cause, ok)
	}
}

func TestAbort(t *testing.T) {
	j := newJob(t, 4)
	groups := j.groups("data")
	events := blockedAllReduce(t, j, groups, 3)
	quickly(t, func() {
		j.worlds[3].Abort(errors.New("step 7: the loss is not finite"))
		for rank, w := range j.worlds {
			<-w.Done()
			lost := new(RankLostError)
			if !errors.As(w.Err(), &lost) || lost.Rank != 3 || lost.Cause != "step 7: the loss is not finite" {
				t.Errorf("rank %d: %v", rank, w.Err())
			}
			if rank != 3 && !errors.As(events[rank].Synchronize(), &lost) {
				t.Errorf("rank %d's all-reduce did not end with the cause", rank)
			}
		}
	})
	// A victim aborts with what stopped it, and every process ends: the cause stays.
	j.worlds[0].Abort(j.worlds[0].Err())
	j.each(func(rank int) error { return j.worlds[rank].Close() })
	j.root.Lost(0, "exit status 1")
	if rank, cause, ok := j.root.FirstFailure(); !ok || rank != 3 || cause != "step 7: the loss is not finite" {
		t.Errorf("FirstFailure = %d, %q, %v", rank, cause, ok)
	}
	if _, err := j.worlds[1].NewGroup("late", everyone(4)); err == nil {
		t.Error("a group was made after the job failed")
	}
}

func TestLaunchDies(t *testing.T) {
	j := newJob(t, 2)
	groups := j.groups("data")
	events := blockedAllReduce(t, j, groups, 1)
	quickly(t, func() {
		j.root.Close()
		if err := events[0].Synchronize(); err == nil || !strings.Contains(err.Error(), "so launch, or its agent on this host, is gone") {
			t.Errorf("got %v", err)
		}
	})
}

// TestRankNeverArrives checks the report about a rank that has not called the operation.
func TestRankNeverArrives(t *testing.T) {
	j := newJob(t, 4, within(300*time.Millisecond))
	groups := j.groups("data")
	j.all(func(rank int) error { return groups[rank].Barrier(context.Background()) })
	j.worlds[3].groups[0].maker = goroutineID() // this one, which waits for the others
	errs := j.each(func(rank int) error {
		if rank == 3 {
			return nil
		}
		return groups[rank].AllReduce(memory(make([]byte, 1<<20)), sum32(), device.Event{}).Synchronize()
	})
	for rank, err := range errs[:3] {
		late := new(TimeoutError)
		if !errors.As(err, &late) || len(late.Ranks) != 1 || late.Ranks[0] != 3 {
			t.Fatalf("rank %d: %v", rank, err)
		}
		want := "no progress for 300ms in all-reduce 2 of group data (1.0 MB): rank 3 has not arrived (its last was barrier 1 of group data)"
		for _, part := range []string{
			want + "\n", "\n    in all-reduce 2 (1.0 MB, sum of float32): ranks 0, 1 and 2; not: rank 3\n", "\n    rank 3 is at:\n        goroutine ", "TestRankNeverArrives",
		} {
			if !strings.Contains(late.Report, part) {
				t.Errorf("rank %d reports %q,\nwhich lacks %q", rank, late.Report, part)
			}
		}
	}
	if rank, _, ok := j.root.FirstFailure(); !ok || rank != 3 {
		t.Errorf("FirstFailure blames rank %d (%v)", rank, ok)
	}
}

// TestRankStopped checks that a process which does not even answer the root is found.
func TestRankStopped(t *testing.T) {
	j := newJob(t, 3, within(300*time.Millisecond))
	groups := j.groups("data")
	j.worlds[1].mu.Lock() // all of rank 1 that could answer waits for this
	events := make([]device.Event, 3)
	for _, rank := range []int{0, 2} {
		events[rank] = groups[rank].AllReduce(memory(make([]byte, 100)), sum32(), device.Event{})
	}
	for _, rank := range []int{0, 2} {
		late := new(TimeoutError)
		if err := events[rank].Synchronize(); !errors.As(err, &late) || late.Ranks[0] != 1 || !strings.Contains(err.Error(), "rank 1 does not answer") {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	j.worlds[1].mu.Unlock()
}

// TestStalledInDifferentOperations lets ranks wait for one another in operations of one number that are not the same, so that
// no message ever tells them.
func TestStalledInDifferentOperations(t *testing.T) {
	j := newJob(t, 4, within(300*time.Millisecond))
	groups := j.groups("data")
	errs := j.each(func(rank int) error {
		if rank == 2 { // waits for a broadcast from a rank that waits for its part of a reduction
			return groups[rank].Broadcast(memory(make([]byte, 64)), 1, device.Event{}).Synchronize()
		}
		return groups[rank].Broadcast(memory(make([]byte, 64)), 2, device.Event{}).Synchronize()
	})
	for rank, err := range errs {
		late := new(TimeoutError)
		if err == nil || errors.As(err, &late) && !strings.Contains(late.Report, "the members do not call the same operations: ranks 0, 1 and 3 in broadcast 1 (64 B from member 2); rank 2 in broadcast 1 (64 B from member 1)") {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	if rank, cause, ok := j.root.FirstFailure(); !ok || rank != 2 || !strings.Contains(cause, "do not call the same operations") {
		t.Errorf("FirstFailure = %d, %q, %v", rank, cause, ok)
	}
}

func TestGroupNeverMade(t *testing.T) {
	j := newJob(t, 2, within(300*time.Millisecond))
	g, err := j.worlds[1].NewGroup("data", everyone(2))
	if err == nil {
		err = g.Barrier(context.Background())
	}
	late := new(TimeoutError)
	if !errors.As(err, &late) || !strings.Contains(err.Error(), "rank 0 has not made the group") {
		t.Errorf("got %v", err)
	}
}

func TestDifferentOperations(t *testing.T) {
	for name, test := range map[string]struct {
		calls [2]func(g Group) device.Event
		wants []string
	}{
		"kind": {[2]func(g Group) device.Event{
			func(g Group) device.Event { return g.AllReduce(memory(make([]byte, 400)), sum32(), device.Event{}) },
			func(g Group) device.Event { return g.Broadcast(memory(make([]byte, 4)), 1, device.Event{}) },
		}, []string{"all-reduce 1 (400 B, sum of float32)", "broadcast 1 (4 B from member 1)", "group data", "rank"}},
		"size": {[2]func(g Group) device.Event{
			func(g Group) device.Event { return g.AllReduce(memory(make([]byte, 8)), sum32(), device.Event{}) },
			func(g Group) device.Event { return g.AllReduce(memory(make([]byte, 2<<20)), sum32(), device.Event{}) },
		}, []string{"8 B, sum of float32", "2.1 MB, sum of float32"}},
		"type": {[2]func(g Group) device.Event{
			func(g Group) device.Event { return g.AllReduce(memory(make([]byte, 8)), sum32(), device.Event{}) },
			func(g Group) device.Event { return g.AllReduce(memory(make([]byte, 8)), first64(), device.Event{}) },
		}, []string{"8 B, sum of float32", "8 B, sum of int64"}},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, 2)
			groups := j.groups("data")
			errs := j.each(func(rank int) error {
				err := test.calls[rank](groups[rank]).Synchronize()
				if err != nil {
					j.worlds[rank].Abort(err)
				}
				return err
			})
			found := false
			for _, err := range errs {
				if err == nil {
					continue
				}
				found = true
				for _, want := range test.wants {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q lacks %q", err, want)
					}
				}
			}
			if !found {
				t.Error("nobody noticed")
			}
		})
	}
}

func TestBadArguments(t *testing.T) {
	for name, call := range map[string]func(g Group) error{
		"odd bytes": func(g Group) error {
			return g.AllReduce(memory(make([]byte, 7)), sum32(), device.Event{}).Synchronize()
		},
		"no type":       func(g Group) error { return g.AllReduce(memory(nil), Reduction{}, device.Event{}).Synchronize() },
		"uneven slices": func(g Group) error { return g.AllGather(memory(make([]byte, 3)), nil, device.Event{}).Synchronize() },
		"root":          func(g Group) error { return g.Broadcast(memory(nil), 2, device.Event{}).Synchronize() },
		"not mapped": func(g Group) error {
			buf := device.Region{Storage: device.NewStorage(4096, nil, 8, nil), Bytes: 8}
			return g.Broadcast(buf, 0, device.Event{}).Synchronize()
		},
		"too much": func(g Group) error {
			_, err := g.GatherBytes(context.Background(), make([]byte, maxGatherBytes+1))
			return err
		},
	} {
		j := newJob(t, 2)
		if err := call(j.groups("data")[0]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestContextEndsBarrier(t *testing.T) {
	j := newJob(t, 2)
	groups := j.groups("data")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := groups[0].Barrier(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestCloseEndsOperations checks that Close neither hangs nor breaks what still runs.
func TestCloseEndsOperations(t *testing.T) {
	j := newJob(t, 2)
	groups := j.groups("data")
	events := blockedAllReduce(t, j, groups, 1)
	quickly(t, func() {
		if err := j.worlds[0].Close(); err != nil {
			t.Error(err)
		}
		if err := events[0].Synchronize(); err == nil {
			t.Error("the all-reduce succeeded")
		}
	})
}
