package collective

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"lockstep/kernels/device"
)

var groupSizes = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 16}

// allKinds are the operations that makeCase makes.
var allKinds = []operationKind{
	opAllReduce, opReduceScatter, opAllGather, opBroadcast, opReduce, opScatter, opGather, opAllToAll, opAllToAllV, opTransfer, opBarrier,
}

// onHosts places the ranks on hosts: one digit for each rank.
func onHosts(hosts string) jobOption {
	return func(_ *RootOptions, o *Options) {
		for _, h := range hosts {
			o.hosts = append(o.hosts, int(h-'0'))
		}
	}
}

// TestOperations checks every operation by every algorithm against a single process, for many sizes of groups.
func TestOperations(t *testing.T) {
	for _, p := range groupSizes {
		for algorithm := Auto; algorithm < algorithms; algorithm++ {
			t.Run(fmt.Sprintf("p=%d/%v", p, algorithm), func(t *testing.T) {
				t.Parallel()
				anyOrder := algorithm == Ring
				j := newJob(t, p, knobs(40, algorithm), func(_ *RootOptions, o *Options) { o.AnyOrder = anyOrder })
				groups := j.groups("data")
				reductions := allReductions
				if anyOrder {
					reductions = ofAnyOrder
				}
				for _, kind := range allKinds {
					for i := range uint64(6) {
						runCase(t, j, groups, i, mix{[]operationKind{kind}, reductions}, []int{9, 200}[i%2])
					}
				}
			})
		}
	}
}

func runCase(t *testing.T, j *testJob, groups []Group, index uint64, m mix, size int) {
	t.Helper()
	j.all(func(rank int) error { return makeCase(1, index, m, j.size, size).start(groups[rank], memory)() })
}

// sharedInside lets the ranks of each host share memory.
func sharedInside() jobOption {
	heap := overHeap()
	return func(r *RootOptions, o *Options) {
		heap(r, o)
		o.Backend = BackendAuto
	}
}

// TestOperationsOnHosts checks groups that span hosts, whose ranks share memory or do not: in the order of the tree where the
// two-level algorithm keeps it, and in any order on all hosts.
func TestOperationsOnHosts(t *testing.T) {
	for _, hosts := range []string{"01", "0011", "00001111", "00112233", "0000111122223333", "000111", "0101", "001122", "0001", "01121"} {
		for _, algorithm := range []Algorithm{Auto, TwoLevel} {
			for _, anyOrder := range []bool{false, true} {
				for name, transport := range map[string]jobOption{"links": func(*RootOptions, *Options) {}, "memory": sharedInside()} {
					t.Run(fmt.Sprintf("%s/%v/any=%v/%s", hosts, algorithm, anyOrder, name), func(t *testing.T) {
						operationsOnHosts(t, hosts, algorithm, anyOrder, transport)
					})
				}
			}
		}
	}
}

func operationsOnHosts(t *testing.T, hosts string, algorithm Algorithm, anyOrder bool, transport jobOption) {
	j := newJob(t, len(hosts), knobs(40, algorithm), onHosts(hosts), transport, func(_ *RootOptions, o *Options) { o.AnyOrder = anyOrder })
	groups, arenas := j.groups("data"), j.placements(64<<10)
	reductions := allReductions
	if anyOrder {
		reductions = ofAnyOrder
	} else if algorithm == TwoLevel && !groups[0].(*group).topology.aligned {
		t.Skip("the two-level algorithm is refused, see TestOrder")
	}
	for _, kind := range []operationKind{opAllReduce, opBroadcast, opReduceScatter, opAllGather} {
		for i := range uint64(8) {
			j.all(func(rank int) error {
				c := makeCase(1, i, mix{[]operationKind{kind}, reductions}, j.size, []int{9, 200}[i%2])
				return c.start(groups[rank], arenas[rank].mixed)()
			})
		}
	}
}

// TestOrder checks that what changes the order of a sum is refused, unless any order is allowed.
func TestOrder(t *testing.T) {
	for hosts, forced := range map[string]Algorithm{"0000": Ring, "000111": TwoLevel, "0101": TwoLevel} {
		j := newJob(t, len(hosts), knobs(0, forced), onHosts(hosts))
		err := j.groups("data")[1].AllReduce(memory(make([]byte, 8)), sum32(), device.Event{}).Synchronize()
		if err == nil || !strings.Contains(err.Error(), "would change the order of the sum") {
			t.Errorf("%v on hosts %s: %v", forced, hosts, err)
		}
	}
}

var (
	operationsFlag = flag.Int("operations", 400, "how many operations TestManyOperations makes in each of its jobs")
	seedFlag       = flag.Uint64("seed", 1, "the seed of TestManyOperations")
)

// TestManyOperations runs random operations on overlapping groups at the same time: the world, its halves by Split, and
// neighbours, each several operations deep, over every transport, with random delays.
func TestManyOperations(t *testing.T) {
	for _, p := range []int{2, 5, 8} {
		for name, transport := range transports() {
			t.Run(fmt.Sprintf("p=%d/%s", p, name), func(t *testing.T) {
				t.Parallel()
				manyOperations(t, p, transport)
			})
		}
	}
}

func manyOperations(t *testing.T, p int, transport jobOption) {
	j := newJob(t, p, knobs(1000, Auto), transport)
	groups, places := j.groups("world"), j.placements(16<<20)
	j.all(func(rank int) error {
		delays := rand.New(rand.NewPCG(*seedFlag, uint64(rank)))
		mine, err := overlapping(j, groups[rank], rank)
		if err != nil {
			return err
		}
		for at := 0; at < *operationsFlag; {
			var waits []func() error
			for depth := range 3 {
				for name, g := range mine {
					size := 3000
					if (at/len(mine)+depth)%50 == 0 {
						size = 200_000
					}
					c := makeCase(*seedFlag+uint64(name), uint64(at+depth), mix{allKinds, allReductions}, g.Size(), size/g.Size())
					waits = append(waits, c.start(g, places[rank].mixed))
					for range delays.IntN(3) {
						runtime.Gosched()
					}
				}
			}
			for _, wait := range waits {
				if err := wait(); err != nil {
					return err
				}
			}
			at += len(waits)
		}
		return nil
	})
}

// overlapping makes three more groups that a rank is in.
func overlapping(j *testJob, world Group, rank int) ([]Group, error) {
	p := j.size
	half, err := world.Split(context.Background(), "half", rank%2, -rank)
	if err != nil {
		return nil, err
	}
	pair := []int{rank &^ 1, min(rank|1, p-1)}
	neighbours, err := j.worlds[rank].NewGroup("neighbours", slices.Compact(pair))
	if err != nil {
		return nil, err
	}
	reversed := everyone(p)
	slices.Reverse(reversed)
	back, err := j.worlds[rank].NewGroup("reversed", reversed)
	return []Group{world, half, neighbours, back}, err
}

func TestSplit(t *testing.T) {
	j := newJob(t, 6)
	groups := j.groups("world")
	j.all(func(rank int) error {
		// Colour 0: 4, 2, 0; colour 1: 1, 5; rank 3 is in none.
		colour, key := rank%2, -rank
		switch rank {
		case 1, 5:
			key = 7
		case 3:
			colour = -1
		}
		g, err := groups[rank].Split(context.Background(), "part", colour, key)
		if err != nil {
			return err
		}
		want := [][]int{{4, 2, 0}, {1, 5}}[rank%2]
		if rank == 3 {
			if g != nil {
				return fmt.Errorf("a member without a colour is in %v", g)
			}
			return nil
		}
		parts, err := g.GatherBytes(context.Background(), []byte{byte(rank)})
		if err != nil {
			return err
		}
		for i, part := range parts {
			if len(parts) != len(want) || int(part[0]) != want[i] {
				return fmt.Errorf("the group's ranks are %v, want %v", parts, want)
			}
		}
		return nil
	})
}
