package collective

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstep/kernels/device"
)

// overFiles lets ranks share memory as processes do. The race detector does not see that memory.
func overFiles(_ *RootOptions, o *Options) { o.Backend = BackendShm }

// overHeap lets them share Go memory, for one job.
func overHeap() jobOption {
	heap := newHeapSharing()
	return func(_ *RootOptions, o *Options) {
		o.Backend, o.sharing = BackendShm, heapRank{heap, o.Place.Rank}
	}
}

// alloc takes n bytes of symmetric memory on each rank.
func (j *testJob) alloc(n int) []device.Region {
	j.t.Helper()
	regions := make([]device.Region, j.size)
	j.all(func(rank int) error {
		s, err := j.worlds[rank].Alloc(n, heap{})
		regions[rank] = device.Region{Storage: s, Bytes: n}
		return err
	})
	return regions
}

// A placement is where the ranks' buffers are.
type placement func(rank, n int) device.Region

// TestSharedOperations checks every operation that is done in place, and those that are not, against a reference, for
// buffers in symmetric memory (at different offsets), outside, and both at once.
func TestSharedOperations(t *testing.T) {
	lengths := []int{0, 8, 1000, 16384, 16392, 70_000, stealBytes + 88}
	for _, p := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 16} {
		for name, transport := range map[string]jobOption{"files": overFiles, "heap": overHeap()} {
			t.Run(fmt.Sprintf("p=%d/%s", p, name), func(t *testing.T) {
				j := newJob(t, p, transport)
				groups := j.groups("data")
				room := stealBytes + 4096
				memories := j.alloc(room)
				symmetric := func(rank, n int) device.Region { return memories[rank].Slice(64*rank, 64*rank+n) }
				private := func(_, n int) device.Region { return memory(make([]byte, n)) }
				mixed := func(rank, n int) device.Region {
					if rank%2 == 0 {
						return symmetric(rank, n)
					}
					return private(rank, n)
				}
				random := rand.New(rand.NewPCG(1, uint64(p)))
				for where, place := range map[string]placement{"symmetric": symmetric, "private": private, "mixed": mixed} {
					for _, n := range lengths {
						if n > 100_000 && (p != 3 && p != 4 || where != "symmetric" || testing.Short()) {
							continue
						}
						checkReduced(t, j, groups, place, where, n, random)
						checkGathered(t, j, groups, place, where, n/p*p, random)
						checkBroadcast(t, j, groups, place, where, n, random)
					}
				}
			})
		}
	}
}

func checkReduced(t *testing.T, j *testJob, groups []Group, place placement, where string, n int, random *rand.Rand) {
	t.Helper()
	for _, r := range []Reduction{sum32(), first64()} {
		vectors := make([][]byte, j.size)
		for rank := range vectors {
			vectors[rank] = randomVector(random, n)
		}
		want := treeFold(vectors, r)
		j.all(func(rank int) error {
			buf := place(rank, n)
			copy(buf.Mapped(), vectors[rank])
			if err := groups[rank].AllReduce(buf, r, device.Event{}).Synchronize(); err != nil {
				return err
			}
			if !bytes.Equal(buf.Mapped(), want) {
				return fmt.Errorf("all-reduce of %d bytes of %v in %s memory differs from the pairwise tree", n, r.DType, where)
			}
			return nil
		})
	}
}

func checkGathered(t *testing.T, j *testJob, groups []Group, place placement, where string, n int, random *rand.Rand) {
	t.Helper()
	want := randomVector(random, n+4)[:n]
	slice := n / j.size
	j.all(func(rank int) error {
		buf := place(rank, n)
		clear(buf.Mapped())
		copy(buf.Mapped()[rank*slice:(rank+1)*slice], want[rank*slice:])
		if err := groups[rank].AllGather(buf, nil, device.Event{}).Synchronize(); err != nil {
			return err
		}
		if !bytes.Equal(buf.Mapped(), want) {
			return fmt.Errorf("all-gather of %d bytes in %s memory differs", n, where)
		}
		return nil
	})
}

func checkBroadcast(t *testing.T, j *testJob, groups []Group, place placement, where string, n int, random *rand.Rand) {
	t.Helper()
	want := randomVector(random, n+4)[:n]
	root := random.IntN(j.size)
	j.all(func(rank int) error {
		buf := place(rank, n)
		clear(buf.Mapped())
		if rank == root {
			copy(buf.Mapped(), want)
		}
		if err := groups[rank].Broadcast(buf, root, device.Event{}).Synchronize(); err != nil {
			return err
		}
		if !bytes.Equal(buf.Mapped(), want) {
			return fmt.Errorf("broadcast of %d bytes in %s memory from %d differs", n, where, root)
		}
		return groups[rank].Barrier(context.Background())
	})
}

// TestTransportsAgree checks that sums have the same bits over shared memory and TCP.
func TestTransportsAgree(t *testing.T) {
	for _, p := range []int{1, 2, 4, 8} {
		for _, n := range []int{4, 5000, 100_000} {
			results := map[string][]byte{}
			for name, transport := range map[string]jobOption{"tcp": knobs(0, Auto), "files": overFiles, "heap": overHeap()} {
				j := newJob(t, p, transport)
				groups := j.groups("data")
				buffers := j.alloc(n)
				j.all(func(rank int) error {
					copy(buffers[rank].Mapped(), randomVector(rand.New(rand.NewPCG(7, uint64(rank))), n))
					return groups[rank].Blocking().AllReduce(buffers[rank], sum32(), device.Event{}).Synchronize()
				})
				results[name] = buffers[p-1].Mapped()
			}
			for name, got := range results {
				if !bytes.Equal(got, results["tcp"]) {
					t.Errorf("p=%d, %d bytes: the sum over %s differs from the one over TCP", p, n, name)
				}
			}
		}
	}
}

// TestRandomOperations runs a long random sequence of operations on overlapping groups at the same time, with delays, in
// symmetric and private memory, and compares everything with what a single process computes.
func TestRandomOperations(t *testing.T) {
	count := 200
	if testing.Short() {
		count = 100
	}
	for name, transport := range map[string]jobOption{"files": overFiles, "heap": overHeap()} {
		t.Run(name, func(t *testing.T) {
			const p = 5
			j := newJob(t, p, transport)
			sets := [][]int{{0, 1, 2, 3, 4}, {4, 2, 0}, {1, 3}, {3, 2, 1, 0}}
			groups := make([][]Group, len(sets))
			memories := make([][]device.Region, len(sets))
			for i := range sets {
				groups[i] = make([]Group, p)
				memories[i] = j.alloc(40_000)
			}
			j.all(func(rank int) error {
				for i, set := range sets {
					if contains(set, rank) {
						g, err := j.worlds[rank].NewGroup(fmt.Sprint("group", i), set)
						if err != nil {
							return err
						}
						groups[i][rank] = g
					}
				}
				return nil
			})
			errs := make(chan error, p*len(sets))
			for i, set := range sets {
				for _, rank := range set {
					go func() { errs <- randomly(groups[i][rank], memories[i][rank], uint64(i), rank, count) }()
				}
			}
			for _, set := range sets {
				for range set {
					if err := <-errs; err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// randomly runs count operations of a group as one of its members. What they are follows from the seed alone.
func randomly(g Group, mem device.Region, seed uint64, rank, count int) error {
	random := rand.New(rand.NewPCG(seed, 0))
	delays := rand.New(rand.NewPCG(seed, uint64(1+rank)))
	for i := range count {
		n := []int{8, 240, 6000, 39_000}[random.IntN(4)] / (8 * g.Size()) * (8 * g.Size())
		kind, root, symmetric, blocking := random.IntN(4), random.IntN(g.Size()), random.IntN(3) > 0, random.IntN(2) > 0
		vectors := make([][]byte, g.Size())
		for member := range vectors {
			vectors[member] = randomVector(random, n)
		}
		for range delays.IntN(4) {
			runtime.Gosched()
		}
		buf := memory(make([]byte, n))
		if symmetric {
			buf = mem.Slice(0, n)
		}
		copy(buf.Mapped(), vectors[g.Rank()])
		view, want := g, vectors[root]
		if blocking {
			view = g.Blocking()
		}
		var e device.Event
		switch kind {
		case 0:
			e, want = view.AllReduce(buf, first64(), device.Event{}), treeFold(vectors, first64())
		case 1:
			e = view.Broadcast(buf, root, device.Event{})
		case 2:
			e = view.AllGather(buf, nil, device.Event{})
			want = nil
			for member, v := range vectors {
				want = append(want, v[member*n/g.Size():(member+1)*n/g.Size()]...)
			}
		case 3:
			if err := g.Barrier(context.Background()); err != nil {
				return err
			}
			want = vectors[g.Rank()]
		}
		if err := e.Synchronize(); err != nil {
			return err
		}
		if !bytes.Equal(buf.Mapped(), want) {
			return fmt.Errorf("group %s, member %d, operation %d: the result of kind %d over %d bytes differs", g.Name(), g.Rank(), i, kind, n)
		}
	}
	return nil
}

func TestSharedRankDies(t *testing.T) {
	for name, transport := range map[string]jobOption{"files": overFiles, "heap": overHeap()} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, 4, transport)
			groups := j.groups("data")
			events := blockedAllReduce(t, j, groups, 2)
			quickly(t, func() {
				j.worlds[2].die()
				j.root.Lost(2, "killed by signal 9")
				for rank, err := range j.each(func(rank int) error { return events[rank].Synchronize() }) {
					if lost := new(RankLostError); rank != 2 && (!errors.As(err, &lost) || lost.Rank != 2) {
						t.Errorf("rank %d: %v", rank, err)
					}
				}
			})
		})
	}
}

// TestSharedRankStalls lets one rank stay away from an operation in place, one from a message, and one from an allocation.
func TestSharedRankStalls(t *testing.T) {
	for name, call := range map[string]func(w *World, g Group) error{
		"in place": func(_ *World, g Group) error {
			return g.AllReduce(memory(make([]byte, 64)), sum32(), device.Event{}).Synchronize()
		},
		"message": func(_ *World, g Group) error {
			_, err := g.GatherBytes(context.Background(), nil)
			return err
		},
		"allocation": func(w *World, g Group) error { _, err := w.Alloc(64, heap{}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, 3, overFiles, within(300*time.Millisecond))
			groups := j.groups("data")
			for rank, err := range j.each(func(rank int) error {
				if rank == 1 {
					<-j.worlds[1].Done()
					return nil
				}
				err := call(j.worlds[rank], groups[rank])
				j.worlds[rank].Abort(err)
				return err
			}) {
				if late := new(TimeoutError); rank != 1 && err == nil || rank == 0 && (!errors.As(err, &late) || late.Ranks[0] != 1) {
					t.Errorf("rank %d: %v", rank, err)
				}
			}
		})
	}
}

// TestSharedRankLeaves closes a rank that others wait for.
func TestSharedRankLeaves(t *testing.T) {
	t.Parallel() // it waits for the root's word
	j := newJob(t, 2, overFiles)
	groups := j.groups("data")
	events := blockedAllReduce(t, j, groups, 1)
	if err := j.worlds[1].Close(); err != nil {
		t.Error(err)
	}
	if err := events[0].Synchronize(); err == nil || !strings.Contains(err.Error(), "rank 1: it has left group data") {
		t.Errorf("got %v", err)
	}
}

func TestSharedDifferentOperations(t *testing.T) {
	reduce := func(n int, r Reduction) func(g Group) error {
		return func(g Group) error {
			return g.AllReduce(memory(make([]byte, n)), r, device.Event{}).Synchronize()
		}
	}
	for name, test := range map[string]struct {
		calls [2]func(g Group) error
		wants []string
	}{
		"kind": {[2]func(g Group) error{reduce(400, sum32()), func(g Group) error {
			return g.Broadcast(memory(make([]byte, 4)), 1, device.Event{}).Synchronize()
		}}, []string{"all-reduce 1 (400 B, sum of float32)", "broadcast 1 (4 B from member 1)", "group data"}},
		"size": {[2]func(g Group) error{reduce(8, sum32()), reduce(2<<20, sum32())}, []string{"8 B, sum of float32", "2.1 MB, sum of float32"}},
		"type": {[2]func(g Group) error{reduce(8, sum32()), reduce(8, first64())}, []string{"8 B, sum of float32", "8 B, sum of int64"}},
		"in place and by messages": {[2]func(g Group) error{reduce(8, sum32()), func(g Group) error {
			_, err := g.GatherBytes(context.Background(), []byte("x"))
			return err
		}}, []string{"all-reduce 1 (8 B, sum of float32)", "gather of host data 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, 2, overFiles)
			groups := j.groups("data")
			for rank, err := range j.each(func(rank int) error { return test.calls[rank](groups[rank]) }) {
				for _, want := range append(test.wants, fmt.Sprintf("rank %d is in", 1-rank)) {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("rank %d: %v lacks %q", rank, err, want)
					}
				}
			}
		})
	}
}

func TestUnequalAllocations(t *testing.T) {
	j := newJob(t, 3, overFiles)
	for rank, err := range j.each(func(rank int) error {
		_, err := j.worlds[rank].Alloc(4096+rank/2, heap{})
		return err
	}) {
		if err == nil || !strings.Contains(err.Error(), "rank 2 takes 4097 bytes where rank 0 takes 4096") {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// TestBackends checks what is shared with whom.
func TestBackends(t *testing.T) {
	elsewhere := func(rank int) jobOption {
		shared := newHeapSharing()
		return func(_ *RootOptions, o *Options) {
			if o.Backend = BackendAuto; o.Place.Rank != rank {
				o.sharing = heapRank{shared, o.Place.Rank}
			}
		}
	}
	j := newJob(t, 3, elsewhere(1))
	for rank, g := range j.groups("all") {
		if g.(*group).shared != nil {
			t.Errorf("rank %d shares memory with a rank elsewhere", rank)
		}
	}
	j.alloc(10)
	for rank, err := range j.each(func(rank int) error {
		if rank == 1 {
			return nil
		}
		g, err := j.worlds[rank].NewGroup("some", []int{2, 0})
		if err == nil && g.(*group).shared == nil {
			err = errors.New("the group shares no memory")
		}
		return err
	}) {
		if err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}

	only := newRoot(t, 2)
	for rank, err := range only.each(func(rank int) error {
		o := only.options(rank)
		if o.Backend = BackendTCP; rank == 0 {
			o.Backend = BackendShm
		}
		w, err := Join(context.Background(), o)
		if err == nil {
			err = w.Close()
		}
		return err
	}) {
		if refused := new(RefusedError); rank == 0 && (!errors.As(err, &refused) || refused.Rank != 1) {
			t.Errorf("backend shm with a rank that shares no memory: %v", err)
		}
	}
	if _, err := Join(context.Background(), Options{Backend: "carrier pigeon"}); err == nil {
		t.Error("an unknown backend was accepted")
	}
}

// TestNothingIsLeft fails jobs again and again and counts what is left: descriptors, mappings, goroutines.
func TestNothingIsLeft(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	var before, after [2]int
	for i := range rounds {
		j := newJob(t, 3, overFiles)
		groups := j.groups("data")
		memories := j.alloc(20_000)
		events := make([]device.Event, 3)
		for rank := range 2 {
			events[rank] = groups[rank].AllReduce(memories[rank], sum32(), device.Event{})
		}
		j.root.Lost(2, "killed by signal 9")
		for rank := range 2 {
			if err := events[rank].Synchronize(); err == nil {
				t.Fatalf("rank %d finished without rank 2", rank)
			}
		}
		for _, m := range memories {
			if err := m.Storage.Free(); err != nil {
				t.Error(err)
			}
		}
		j.each(func(rank int) error { return j.worlds[rank].Close() })
		j.root.Close()
		if i == 0 {
			before = leftovers(t)
		}
	}
	if after = leftovers(t); after[0] > before[0] || after[1] > before[1]+2 {
		t.Errorf("after %d failed jobs there are %d descriptors and %d mappings, after one there were %d and %d",
			rounds, after[0], after[1], before[0], before[1])
	}
	nothingRuns(t)
}

// leftovers counts open descriptors and mappings of memory files.
func leftovers(t *testing.T) [2]int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return [2]int{len(fds), strings.Count(string(maps), "memfd:lockstep")}
}

// TestRing sends a stream through a ring in pieces of all sizes.
func TestRing(t *testing.T) {
	r := newRing(alignedBytes(ringSize))
	random := rand.New(rand.NewPCG(1, 1))
	want := randomVector(random, 1<<20)
	for sent, received := 0, 0; received < len(want); {
		sent += r.write(want[sent:min(len(want), sent+random.IntN(90_000))])
		got := make([]byte, random.IntN(90_000))
		n := r.read(got)
		if !bytes.Equal(got[:n], want[received:received+n]) {
			t.Fatalf("bytes %d to %d differ", received, received+n)
		}
		if received += n; (received != sent) != r.filled() {
			t.Fatalf("after %d of %d bytes filled is %v", received, sent, r.filled())
		}
	}
	r.write(binary.NativeEndian.AppendUint64(nil, 1))
	if n := r.write(make([]byte, ringBytes)); n != ringBytes-8 {
		t.Errorf("a ring with 8 bytes in it took %d more", n)
	}
}

func TestSharedAllReduceAllocatesNothing(t *testing.T) {
	j := newJob(t, 2, overHeap(), func(_ *RootOptions, o *Options) {
		if stream := o.NewStream; stream != nil {
			o.NewStream = func(name string) device.Stream { return directStream{stream(name).(*testStream)} }
		}
	})
	groups := j.groups("data")
	buffers := j.alloc(1 << 20)
	r := sum32()
	r.Fold = func(dst, src [][]byte) {}
	const count = 20
	go func() {
		for range count + 1 {
			groups[1].Blocking().AllReduce(buffers[1], r, device.Event{})
		}
	}()
	if n := testing.AllocsPerRun(count, func() { groups[0].Blocking().AllReduce(buffers[0], r, device.Event{}) }); n > 0 {
		t.Errorf("an all-reduce allocates %v times", n)
	}
}
