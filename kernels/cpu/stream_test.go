package cpu

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstep/kernels/device"
)

// step is work that does what a test wants.
type step struct {
	name string
	run  func() error
}

func (w step) Name() string                             { return w.name }
func (w step) Accesses(func(r device.Region, wrt bool)) {}
func (w step) Run() error                               { return w.run() }
func launch(s device.Stream, name string, run func() error) {
	s.(device.HostStream).Launch(step{name, run})
}

func TestQueueRunsBesideTheHost(t *testing.T) {
	d, _ := open(t, "generic", 1)
	s := d.NewStream("side")
	hold := make(chan struct{})
	launch(s, "hold", func() error { <-hold; return nil })
	early := s.Record()
	launch(s, "fail", func() error { return errors.New("broken") })
	late := s.Record()
	close(hold) // had Launch run the work, the test would hang before this
	if err := early.Synchronize(); err != nil {
		t.Errorf("the event before the failure: %v", err)
	}
	if err := late.Synchronize(); err == nil || err.Error() != "fail: broken" {
		t.Errorf("the event after the failure: %v", err)
	}
	if err := early.Synchronize(); err != nil {
		t.Errorf("the event before the failure, asked again: %v", err)
	}
}

// TestLargeCopies checks the copies to and from the host's memory that all threads share.
func TestLargeCopies(t *testing.T) {
	d, err := New(Options{Threads: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := d.NewInlineStream("compute")
	for _, n := range []int{2*copyPart - 1, 2 * copyPart, 5*copyPart + 3} {
		storage, err := d.Alloc(n + 2)
		if err != nil {
			t.Fatal(err)
		}
		want, got := make([]byte, n), make([]byte, n)
		for i := range want {
			want[i] = byte(i ^ i>>8 ^ i>>16)
		}
		inside := device.Region{Storage: storage, Offset: 1, Bytes: n}
		d.Write(s, inside, want)
		if err := d.Read(s, got, inside); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes are not what was written (%v)", n, err)
		}
		if all := (device.Region{Storage: storage, Bytes: n + 2}).Mapped(); all[0] != 0 || all[n+1] != 0 {
			t.Errorf("a copy of %d bytes writes beyond them", n)
		}
	}
}

// TestWaited checks that a stream of the computation counts how long it waits for others.
func TestWaited(t *testing.T) {
	d, _ := open(t, "generic", 1)
	compute, side := d.NewInlineStream("compute"), d.NewStream("side")
	hold := make(chan struct{})
	launch(side, "hold", func() error { <-hold; return nil })
	began := time.Now()
	time.AfterFunc(time.Millisecond, func() { close(hold) })
	compute.Wait(side.Record())
	compute.Wait(device.Event{})
	if waited := compute.(device.TimedStream).Waited(); waited <= 0 || waited > time.Since(began) {
		t.Errorf("waited for %v of %v", waited, time.Since(began))
	}
}

// TestRunOnTheCallersGoroutine checks that Run keeps its turn, runs where it was called, and shares the stream's failure.
func TestRunOnTheCallersGoroutine(t *testing.T) {
	d, _ := open(t, "generic", 1)
	s := d.NewStream("side").(device.DirectStream)
	hold, order := make(chan struct{}), ""
	launch(s, "first", func() error { <-hold; order += "first "; return nil })
	go close(hold)
	if err := s.Run(step{"second", func() error { order += "second "; return nil }}); err != nil || order != "first second " {
		t.Errorf("the order was %s(%v)", order, err)
	}
	// Work that is enqueued while the stream is lent comes afterwards.
	if err := s.Run(step{"third", func() error {
		launch(s, "fourth", func() error { order += "fourth"; return nil })
		order += "third "
		return nil
	}}); err != nil {
		t.Error(err)
	}
	if err := s.Synchronize(); err != nil || order != "first second third fourth" {
		t.Errorf("the order was %s (%v)", order, err)
	}
	if err := s.Run(step{"fail", func() error { return errors.New("broken") }}); err == nil || err.Error() != "fail: broken" {
		t.Errorf("a failure: %v", err)
	}
	if err := s.Run(step{"later", func() error { t.Error("work ran on a failed stream"); return nil }}); err == nil {
		t.Error("the error did not stay")
	}
	if err := s.Record().Synchronize(); err == nil {
		t.Error("the error is not in the stream's events")
	}
	if n := testing.AllocsPerRun(10, func() { _ = s.Run(step{}) }); n > 1 { // the step itself, as a device.Work
		t.Errorf("Run allocates %v times", n)
	}
}

func TestFailuresTravelUnchanged(t *testing.T) {
	d, inline := open(t, "generic", 1)
	queue := d.NewStream("queue")
	launch(queue, "all-reduce", func() error { return errors.New("rank 3 is gone") })
	inline.Wait(queue.Record())
	other := d.NewStream("other")
	other.Wait(inline.Record())
	for _, s := range []device.Stream{queue, inline, other} {
		if err := s.Synchronize(); err == nil || err.Error() != "all-reduce: rank 3 is gone" {
			t.Errorf("%s: %v", s.Name(), err)
		}
	}
	launch(inline, "later", func() error { t.Error("work ran on a failed stream"); return nil })
	launch(queue, "later", func() error { t.Error("work ran on a failed stream"); return nil })
	if err := queue.Synchronize(); err == nil {
		t.Error("the error did not stay")
	}
}

// TestCloseWaitsForTheGoroutine closes a device whose stream is busy: the work that runs is finished, what is queued
// never starts, and who waits for it is told.
func TestCloseWaitsForTheGoroutine(t *testing.T) {
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := d.NewStream("busy")
	started, finished := make(chan struct{}), false
	launch(s, "slow", func() error {
		close(started)
		for !s.(*queueStream).isClosed() {
			runtime.Gosched()
		}
		finished = true
		return nil
	})
	<-started
	launch(s, "never", func() error { t.Error("work started after Close"); return nil })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if !finished {
		t.Error("Close returned before the running work did")
	}
	if err := s.Synchronize(); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("waiting for work that never ran: %v", err)
	}
}

func (s *queueStream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// foreign is a stream that runs no host code.
type foreign struct{ device.Stream }

func (*foreign) Name() string { return "foreign" }

func TestForeignStream(t *testing.T) {
	d, _ := open(t, "generic", 1)
	x := operands{t, d}.f(3)
	inner := d.NewStream("inner")
	d.Zero(&foreign{inner}, x)
	if err := inner.Synchronize(); err == nil || !strings.Contains(err.Error(), "foreign") {
		t.Errorf("the CPU's operator on another device's stream: %v", err)
	}
}

func TestStorageOfAClosedDevice(t *testing.T) {
	d, err := New(Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Alloc(100)
	if err != nil {
		t.Fatal(err)
	}
	if s.Address()%64 != 0 || s.Bytes() != 100 {
		t.Errorf("%d bytes at %#x", s.Bytes(), s.Address())
	}
	if err := s.Free(); err != nil {
		t.Errorf("Free: %v", err)
	}
	if _, err := d.Alloc(5 << 20); err != nil {
		t.Errorf("a large allocation: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{KernelSet: "abacus"}); err == nil || !strings.Contains(err.Error(), "generic") {
		t.Errorf("an unknown kernel set: %v", err)
	}
	d, _ := open(t, "generic", 1)
	if d.Name() != "cpu (generic, 1 thread)" || d.KernelSet() != "generic" {
		t.Errorf("the device is %q, its set %q", d.Name(), d.KernelSet())
	}
}
