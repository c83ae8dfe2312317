package collective

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/kernels/device"
)

var testSecret = bytes.Repeat([]byte{7}, SecretSize)

// syncBuffer collects a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits until the log contains all of the texts.
func (b *syncBuffer) eventually(t *testing.T, texts ...string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		missing := ""
		for _, text := range texts {
			if !strings.Contains(b.String(), text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log has no %q:\n%s", missing, b.String())
		}
	}
}

// A testJob is a root and some ranks in this process.
type testJob struct {
	t      testing.TB
	root   *Root
	log    *syncBuffer
	logger *slog.Logger
	size   int
	worlds []*World
}

type jobOption func(*RootOptions, *Options)

// newRoot starts a root for size ranks.
func newRoot(t testing.TB, size int, options ...jobOption) *testJob {
	t.Helper()
	j := &testJob{t: t, size: size, log: &syncBuffer{}, worlds: make([]*World, size)}
	j.logger = slog.New(slog.NewTextHandler(j.log, nil))
	o := RootOptions{Size: size, Job: "test", Secret: testSecret, Log: j.logger, Timeout: 20 * time.Second, Supervised: true}
	for _, set := range options {
		set(&o, &Options{})
	}
	root, err := NewRoot(o)
	if err != nil {
		t.Fatal(err)
	}
	j.root = root
	t.Cleanup(func() { root.Close() })
	return j
}

// options returns what rank joins with.
func (j *testJob) options(rank int, options ...jobOption) Options {
	o := Options{
		Place:  Place{Rank: rank, Size: j.size, LocalRank: rank, LocalSize: j.size, Job: "test", Rendezvous: j.root.Addr()},
		Secret: testSecret, Log: j.logger, Timeout: 20 * time.Second, Backend: BackendTCP,
		Facts: map[string]string{"version": "1", "kernel set": "generic"},
		NewStream: func(name string) device.Stream {
			s := newTestStream(name)
			j.t.Cleanup(s.close)
			return s
		},
	}
	for _, set := range options {
		set(&RootOptions{}, &o)
	}
	return o
}

// each runs f for all ranks at once and returns their errors.
func (j *testJob) each(f func(rank int) error) []error {
	errs := make([]error, j.size)
	var running sync.WaitGroup
	for rank := range j.size {
		running.Go(func() { errs[rank] = f(rank) })
	}
	running.Wait()
	return errs
}

// all is each for work that must not fail.
func (j *testJob) all(f func(rank int) error) {
	j.t.Helper()
	for rank, err := range j.each(f) {
		if err != nil {
			j.t.Fatalf("rank %d: %v", rank, err)
		}
	}
}

// newJob starts a job whose ranks have joined.
func newJob(t testing.TB, size int, options ...jobOption) *testJob {
	t.Helper()
	j := newRoot(t, size, options...)
	j.all(func(rank int) error {
		w, err := Join(context.Background(), j.options(rank, options...))
		j.worlds[rank] = w
		return err
	})
	t.Cleanup(func() {
		j.each(func(rank int) error { return j.worlds[rank].Close() })
	})
	return j
}

// groups makes one group of all ranks on each.
func (j *testJob) groups(name string) []Group {
	j.t.Helper()
	groups := make([]Group, j.size)
	j.all(func(rank int) error {
		g, err := j.worlds[rank].NewGroup(name, everyone(j.size))
		groups[rank] = g
		return err
	})
	return groups
}

func everyone(n int) []int {
	ranks := make([]int, n)
	for i := range ranks {
		ranks[i] = i
	}
	return ranks
}

// die ends a rank as SIGKILL would: the kernel closes its sockets and nobody says anything.
func (w *World) die() {
	w.control.Close()
	w.door.listeners[0].Close()
	if w.local.door != nil {
		w.local.door.listeners[0].Close()
	}
	for _, g := range w.groups {
		if g.shared == nil {
			go g.close() // as soon as its operation lets go of the connections
		}
	}
}

func within(o time.Duration) jobOption {
	return func(r *RootOptions, w *Options) { r.Timeout, w.Timeout = o, o }
}

func TestAlone(t *testing.T) {
	w, err := Join(context.Background(), Options{Place: Place{Size: 1, LocalSize: 1}, NewStream: func(name string) device.Stream {
		s := newTestStream(name)
		t.Cleanup(s.close)
		return s
	}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := w.NewGroup("data", []int{0})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.Alloc(8, 8, heap{})
	if err != nil {
		t.Fatal(err)
	}
	buf := device.Region{Storage: s, Bytes: 8}
	copy(buf.Mapped(), "contents")
	for _, e := range []device.Event{g.AllReduce(buf, sum32(), device.Event{}), g.AllGather(buf, nil, device.Event{}), g.Broadcast(buf, 0, device.Event{})} {
		if err := e.Synchronize(); err != nil {
			t.Error(err)
		}
	}
	if string(buf.Mapped()) != "contents" {
		t.Errorf("the buffer is now %q", buf.Mapped())
	}
	if err := g.Barrier(context.Background()); err != nil {
		t.Error(err)
	}
	if parts, err := g.GatherBytes(context.Background(), []byte("me")); err != nil || len(parts) != 1 || string(parts[0]) != "me" {
		t.Errorf("GatherBytes: %q, %v", parts, err)
	}
	w.Abort(errors.New("enough"))
	<-w.Done()
	if lost := new(RankLostError); !errors.As(w.Err(), &lost) || lost.Cause != "enough" {
		t.Errorf("after Abort: %v", w.Err())
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestGoodbye(t *testing.T) {
	j := newJob(t, 3)
	groups := j.groups("data")
	j.all(func(rank int) error { return groups[rank].Barrier(context.Background()) })
	j.all(func(rank int) error { return j.worlds[rank].Close() })
	if rank, cause, ok := j.root.FirstFailure(); ok {
		t.Errorf("after all said goodbye the root blames rank %d: %s", rank, cause)
	}
	for rank, w := range j.worlds {
		if w.Err() != nil {
			t.Errorf("rank %d: %v", rank, w.Err())
		}
	}
	j.root.Close()
	nothingRuns(t)
}

// nothingRuns checks that no goroutine of a world, a group or a root is left.
func nothingRuns(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		all := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(all, "tcpLink") && !strings.Contains(all, "acceptor") && !strings.Contains(all, "collective.bridge") && !strings.Contains(all, "World)") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are left:\n%s", all)
		}
	}
}

func TestGroupsOfSome(t *testing.T) {
	j := newJob(t, 4)
	// Groups of two kinds at once, in an order of members that is not that of ranks.
	sets := [][]int{{2, 0}, {3, 1}, {0, 1}, {2, 3}}
	j.all(func(rank int) error {
		for i, ranks := range sets {
			if !contains(ranks, rank) {
				continue
			}
			g, err := j.worlds[rank].NewGroup(fmt.Sprintf("group%d", i), ranks)
			if err != nil {
				return err
			}
			parts, err := g.GatherBytes(context.Background(), []byte{byte(rank)})
			if err != nil {
				return err
			}
			for k := range ranks {
				if len(parts[k]) != 1 || int(parts[k][0]) != ranks[k] {
					return fmt.Errorf("group %v gathered %v", ranks, parts)
				}
			}
		}
		return nil
	})
	for _, bad := range [][]int{{}, {1, 2}, {0, 4}, {0, 0}} {
		if _, err := j.worlds[0].NewGroup("bad", bad); err == nil {
			t.Errorf("a group of %v was made by rank 0", bad)
		}
	}
}

func contains(ranks []int, rank int) bool {
	for _, r := range ranks {
		if r == rank {
			return true
		}
	}
	return false
}

func TestReadSecretAndPlace(t *testing.T) {
	p := Place{Rank: 2, Size: 4, LocalRank: 1, LocalSize: 2, Job: "j", Epoch: 3, Rendezvous: "127.0.0.1:1", SecretFD: 3, LifelineFD: 4}
	env := map[string]string{}
	for _, e := range p.Environ() {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	got, err := PlaceFrom(func(name string) string { return env[name] })
	if err != nil || got != p {
		t.Errorf("PlaceFrom(Environ) = %+v, %v; want %+v", got, err, p)
	}
	env["LOCKSTEP_RANK"] = "4"
	if _, err := PlaceFrom(func(name string) string { return env[name] }); err == nil {
		t.Error("rank 4 of 4 was accepted")
	}
	if _, err := ReadSecret(pipeWith(t, testSecret[:31])); err == nil {
		t.Error("a secret of 31 bytes was accepted")
	}
	if secret, err := ReadSecret(pipeWith(t, testSecret)); err != nil || !bytes.Equal(secret, testSecret) {
		t.Errorf("ReadSecret: %v, %v", secret, err)
	}
}
