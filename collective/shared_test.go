package collective

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

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
		s, err := j.worlds[rank].Alloc(n, n, heap{})
		regions[rank] = device.Region{Storage: s, Bytes: n}
		return err
	})
	return regions
}

// sharedMemories are the ways to share memory: where ranks outnumber cores, which they do here if there are many, and as if
// each had a core of its own. Each is for one job.
func sharedMemories() map[string]jobOption {
	ways := map[string]jobOption{}
	for name, transport := range map[string]jobOption{"files": overFiles, "heap": overHeap()} {
		ways[name] = transport
	}
	for name, transport := range map[string]jobOption{"files": overFiles, "heap": overHeap()} {
		ways[name+", a core each"] = func(r *RootOptions, o *Options) {
			transport(r, o)
			o.coreEach = true
		}
	}
	return ways
}

// transports are the ways in which the ranks of a test reach one another. Each is for one job.
func transports() map[string]jobOption {
	ways := sharedMemories()
	ways["tcp"] = func(*RootOptions, *Options) {}
	return ways
}

// An arena places buffers in a rank's symmetric memory, and reuses it from the beginning when it is full.
type arena struct {
	all     device.Region
	next, n int
}

// placements makes an arena on each rank.
func (j *testJob) placements(bytes int) []*arena {
	j.t.Helper()
	var arenas []*arena
	for _, r := range j.alloc(bytes) {
		arenas = append(arenas, &arena{all: r})
	}
	return arenas
}

func (a *arena) symmetric(b []byte) device.Region {
	if a.next+len(b) > a.all.Bytes {
		a.next = 0
	}
	r := a.all.Slice(a.next, a.next+len(b))
	copy(r.Mapped(), b)
	a.next += (len(b) + 63) / 64 * 64
	return r
}

// mixed places some buffers outside symmetric memory.
func (a *arena) mixed(b []byte) device.Region {
	if a.n++; a.n%4 == 0 {
		return memory(b)
	}
	return a.symmetric(b)
}

// TestSharedOperations checks every operation in shared memory against a single process, for buffers in symmetric memory,
// outside, and both at once.
func TestSharedOperations(t *testing.T) {
	for _, p := range groupSizes {
		for name, transport := range sharedMemories() {
			t.Run(fmt.Sprintf("p=%d/%s", p, name), func(t *testing.T) {
				t.Parallel()
				j := newJob(t, p, transport)
				groups, arenas := j.groups("data"), j.placements(1<<20)
				for _, kind := range allKinds {
					for i := range uint64(9) {
						j.all(func(rank int) error {
							place := []placement{memory, arenas[rank].symmetric, arenas[rank].mixed}[i%3]
							c := makeCase(2, i, mix{[]operationKind{kind}, allReductions}, p, []int{20, 1000, 40_000}[i/3]/p)
							return c.start(groups[rank], place)()
						})
					}
				}
			})
		}
	}
}

// TestUnequalParts lets two members disagree on what one sends to the other.
func TestUnequalParts(t *testing.T) {
	j := newJob(t, 2, overFiles)
	groups, arenas := j.groups("data"), j.placements(1<<20)
	for rank, err := range j.each(func(rank int) error {
		sent, received := []int{8, 16}, []int{8, 16}
		if rank == 1 {
			sent, received = []int{24, 8}, []int{16, 8}
		}
		dst, src := arenas[rank].symmetric(make([]byte, sum(received))), arenas[rank].symmetric(make([]byte, sum(sent)))
		err := groups[rank].AllToAllV(dst, src, received, sent, device.Event{}).Synchronize()
		if err != nil {
			j.worlds[rank].Abort(err)
		}
		return err
	}) {
		if err == nil || !strings.Contains(err.Error(), "rank 1 has 24 bytes for rank 0, which expects 16") {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// TestTransportsAgree checks that sums have the same bits over shared memory and TCP.
func TestTransportsAgree(t *testing.T) {
	for _, p := range []int{1, 2, 4, 8} {
		for _, n := range []int{4, 500, 5000, 100_000} {
			results := map[string][]byte{}
			for name, transport := range transports() {
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

func TestSharedRankDies(t *testing.T) {
	for name, transport := range sharedMemories() {
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
		"allocation": func(w *World, g Group) error { _, err := w.Alloc(64, 64, heap{}); return err },
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
		_, err := j.worlds[rank].Alloc(4096, 4096+rank/2, heap{})
		return err
	}) {
		if err == nil || !strings.Contains(err.Error(), "rank 2 takes 4097 bytes where rank 0 takes 4096") {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// TestAllocationsOfTheirOwnSizes adds up in memory of which each rank has another amount, and counts the pages that are there:
// at most a large one.
func TestAllocationsOfTheirOwnSizes(t *testing.T) {
	const most, huge = 16 << 20, 2 << 20 // bytes
	j := newJob(t, 2, overFiles)
	groups := j.groups("all")
	j.all(func(rank int) error {
		own := []int{4096, most}
		s, err := j.worlds[rank].Alloc(own[rank], most, heap{})
		if err != nil {
			return err
		}
		if s.Bytes() != own[rank] || j.worlds[rank].SymmetricBytes() != own[rank] {
			t.Errorf("rank %d has %d bytes, and counts %d", rank, s.Bytes(), j.worlds[rank].SymmetricBytes())
		}
		x := device.Region{Storage: s, Offset: 64, Bytes: 8}
		binary.NativeEndian.PutUint32(x.Mapped(), math.Float32bits(float32(rank+1)))
		if err := groups[rank].AllReduce(x, sum32(), device.Event{}).Synchronize(); err != nil {
			return err
		}
		if got := math.Float32frombits(binary.NativeEndian.Uint32(x.Mapped())); got != 3 {
			t.Errorf("rank %d: the sum of 1 and 2 is %v", rank, got)
		}
		return nil
	})
	mem := j.worlds[1].allocated()[0].peers[0].mem
	at := uintptr(unsafe.Pointer(&mem[0]))
	var file unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/self/map_files/%x-%x", at, at+uintptr(len(mem))), &file); err != nil {
		t.Logf("only root sees what is there of a file: %v", err)
	} else if file.Size != most || file.Blocks*512 > huge {
		t.Errorf("the rank that takes 4096 bytes has a file of %d with pages for %d", file.Size, file.Blocks*512)
	}
	if _, err := j.worlds[0].Alloc(8, 4, heap{}); err == nil {
		t.Error("a rank takes more than the most")
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
