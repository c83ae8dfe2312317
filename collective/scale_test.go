package collective

import (
	"context"
	"flag"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/kernels/device"
)

var scale = flag.Int("scale", 128, "ranks of TestScale")

// TestScale forms a large job in this process, its ranks goroutines on hosts of eight behind a tree of relays, makes the groups
// that a mesh has (all ranks, data, pipeline), and works once in each. It logs the time and the memory; docs/benchmarks.md has
// the numbers for more ranks.
func TestScale(t *testing.T) {
	const local, fan = 8, 32
	size := *scale
	hosts := make([]Host, (size+local-1)/local)
	for rank := range size {
		h := &hosts[rank/local]
		h.Name, h.Ranks = fmt.Sprintf("host%d", rank/local), append(h.Ranks, rank)
	}
	start := time.Now()
	j := newRoot(t, size, func(r *RootOptions, _ *Options) { r.Hosts, r.Outside, r.Timeout = hosts, "127.0.0.1", 5*time.Minute })
	relays := make([]*Relay, len(hosts))
	for i, h := range hosts {
		r, err := NewRelay(RelayOptions{Size: size, Host: i, Hosts: len(hosts), Ranks: h.Ranks, Job: "test", Secret: testSecret, Outside: "127.0.0.1", Log: j.logger})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		parent := j.root.Outside()
		if i >= fan {
			parent = relays[i/fan-1].Outside()
		}
		if err := r.Connect(context.Background(), parent); err != nil {
			t.Fatal(err)
		}
		relays[i] = r
	}
	report := func(what string) {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		t.Logf("%d ranks: %s after %v; %d MiB of heap and %d MiB of stacks, %d KiB a rank", size, what, time.Since(start).Round(time.Millisecond),
			m.HeapInuse>>20, m.StackInuse>>20, (m.HeapInuse+m.StackInuse)/uint64(size)>>10)
	}
	j.all(func(rank int) error {
		o := j.options(rank)
		o.Place.Rendezvous, o.Timeout, o.Backend = relays[rank/local].Addr(), 5*time.Minute, BackendTCP
		o.Place.LocalRank, o.Place.LocalSize = rank%local, local
		o.NewStream = func(name string) device.Stream { return newTestStream(name) }
		w, err := Join(context.Background(), o)
		j.worlds[rank] = w
		return err
	})
	j.root.mu.Lock()
	below := len(j.root.below)
	j.root.mu.Unlock()
	if below > fan {
		t.Errorf("the root holds %d connections, more than %d", below, fan)
	}
	report("formed")
	groups := make([][]Group, size)
	j.all(func(rank int) error {
		for name, ranks := range meshOf(rank, size, local) {
			g, err := j.worlds[rank].NewGroup(name, ranks)
			if err != nil {
				return err
			}
			groups[rank] = append(groups[rank], g)
		}
		return nil
	})
	report("all groups made")
	// A barrier connects each member to at most 2 log2(p) others, and all of them are in this process.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	need := uint64(6 * size)
	for i, p := range []int{local, len(hosts), size} {
		if need += uint64(size * 2 * bits.Len(uint(p-1))); need > limit.Cur {
			t.Logf("no barrier in groups of %d ranks: that takes %d descriptors, and %d are allowed", p, need, limit.Cur)
			break
		}
		j.all(func(rank int) error {
			slices.SortFunc(groups[rank], func(a, b Group) int { return a.Size() - b.Size() })
			return groups[rank][i].Barrier(context.Background())
		})
	}
	report("barriers")
	j.all(func(rank int) error { return j.worlds[rank].Close() })
	if _, cause, failed := j.root.FirstFailure(); failed {
		t.Errorf("the job failed: %s", cause)
	}
}

// meshOf returns the groups of a rank: all ranks, its data group, which is the same place on all hosts, and its tensor group, the
// ranks of its host.
func meshOf(rank, size, local int) map[string][]int {
	groups := map[string][]int{"world": everyone(size)}
	for other := range size {
		if other%local == rank%local {
			groups["data"] = append(groups["data"], other)
		}
		if other/local == rank/local {
			groups["tensor"] = append(groups["tensor"], other)
		}
	}
	return groups
}
