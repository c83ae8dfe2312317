package collective

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"lockstep/kernels/device"
)

// treeFold reduces vectors as Group.AllReduce documents.
func treeFold(vectors [][]byte, r Reduction) []byte {
	result := make([]byte, len(vectors[0]))
	r.Fold([][]byte{result}, vectors)
	return result
}

// randomVector makes n bytes of float32 of very different sizes, so that every order of summation has its own rounding.
func randomVector(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for at := 0; at+4 <= n; at += 4 {
		x := float32(random.NormFloat64() * math.Pow(10, 6*random.Float64()-3))
		binary.NativeEndian.PutUint32(b[at:], math.Float32bits(x))
	}
	return b
}

var sizes = []int{1, 2, 3, 4, 5, 6, 8}

func knobs(segment int, algorithm Algorithm) jobOption {
	return func(_ *RootOptions, o *Options) { o.segmentBytes, o.Algorithm = segment, algorithm }
}

func TestAllReduce(t *testing.T) {
	lengths := []int{0, 1, 2, 3, 5, 7, 8, 13, 64, 100, 257, 1000, 5000, 40000}
	for _, p := range sizes {
		for name, knob := range map[string]jobOption{
			"default": knobs(0, Auto), "tiny segments": knobs(20, Halving), "direct": knobs(20, Direct), "doubling": knobs(0, Doubling),
		} {
			t.Run(fmt.Sprintf("p=%d/%s", p, name), func(t *testing.T) {
				j := newJob(t, p, knob)
				groups := j.groups("data")
				random := rand.New(rand.NewPCG(1, uint64(p)))
				for _, n := range lengths {
					if name != "default" && n > 5000 {
						continue
					}
					for _, r := range []Reduction{sum32(), first64()} {
						checkAllReduce(t, j, groups, r, n*r.DType.Size(), random)
					}
				}
			})
		}
	}
}

func checkAllReduce(t *testing.T, j *testJob, groups []Group, r Reduction, n int, random *rand.Rand) {
	t.Helper()
	vectors := make([][]byte, j.size)
	for rank := range vectors {
		vectors[rank] = randomVector(random, n)
	}
	want := treeFold(vectors, r)
	j.all(func(rank int) error {
		// The buffer lies in the middle of an allocation, whose rest must stay as it is.
		around := append(append([]byte("before.."), vectors[rank]...), "after..."...)
		buf := memory(around).Slice(8, 8+n)
		if err := groups[rank].AllReduce(buf, r, device.Event{}).Synchronize(); err != nil {
			return err
		}
		if !bytes.Equal(buf.Mapped(), want) {
			return fmt.Errorf("all-reduce of %d bytes of %v differs from the pairwise tree", n, r.DType)
		}
		if string(around[:8])+string(around[8+n:]) != "before..after..." {
			return fmt.Errorf("all-reduce of %d bytes wrote outside its buffer", n)
		}
		return nil
	})
}

func TestAllReduceOfMegabytes(t *testing.T) {
	j := newJob(t, 4)
	groups := j.groups("data")
	checkAllReduce(t, j, groups, sum32(), 6<<20+4, rand.New(rand.NewPCG(1, 2)))
}

func TestAllGather(t *testing.T) {
	for _, p := range sizes {
		t.Run(fmt.Sprintf("p=%d", p), func(t *testing.T) {
			j := newJob(t, p)
			groups := j.groups("data")
			for _, slice := range []int{0, 1, 7, 4096, 300_001} {
				want := randomVector(rand.New(rand.NewPCG(3, uint64(slice))), p*slice+4)[:p*slice]
				j.all(func(rank int) error {
					buf := memory(make([]byte, p*slice))
					copy(buf.Mapped()[rank*slice:(rank+1)*slice], want[rank*slice:])
					if err := groups[rank].AllGather(buf, nil, device.Event{}).Synchronize(); err != nil {
						return err
					}
					if !bytes.Equal(buf.Mapped(), want) {
						return fmt.Errorf("all-gather of slices of %d bytes differs", slice)
					}
					return nil
				})
			}
		})
	}
}

func TestBroadcast(t *testing.T) {
	for _, p := range sizes {
		for _, segment := range []int{0, 1000} {
			t.Run(fmt.Sprintf("p=%d/segment=%d", p, segment), func(t *testing.T) {
				j := newJob(t, p, knobs(segment, 0))
				groups := j.groups("data")
				for _, n := range []int{0, 1, 1000, 1001, 4096, 700_003} {
					for root := range p {
						want := randomVector(rand.New(rand.NewPCG(4, uint64(n))), n+4)[:n]
						j.all(func(rank int) error {
							buf := memory(make([]byte, n))
							if rank == root {
								copy(buf.Mapped(), want)
							}
							if err := groups[rank].Broadcast(buf, root, device.Event{}).Synchronize(); err != nil {
								return err
							}
							if !bytes.Equal(buf.Mapped(), want) {
								return fmt.Errorf("broadcast of %d bytes from %d differs", n, root)
							}
							return nil
						})
					}
				}
			})
		}
	}
}

func TestBarrierAndGatherBytes(t *testing.T) {
	for _, p := range sizes {
		t.Run(fmt.Sprintf("p=%d", p), func(t *testing.T) {
			j := newJob(t, p)
			groups := j.groups("data")
			arrived := make([]bool, p) // each written before its barrier, all read after
			j.all(func(rank int) error {
				arrived[rank] = true
				if err := groups[rank].Barrier(context.Background()); err != nil {
					return err
				}
				for other, ok := range arrived {
					if !ok {
						return fmt.Errorf("passed the barrier before rank %d arrived", other)
					}
				}
				for _, n := range []int{0, 10, 100_000} {
					parts, err := groups[rank].GatherBytes(context.Background(), bytes.Repeat([]byte{byte(rank)}, n*rank))
					if err != nil {
						return err
					}
					for other, part := range parts {
						if !bytes.Equal(part, bytes.Repeat([]byte{byte(other)}, n*other)) {
							return fmt.Errorf("gathered %d bytes from rank %d, want %d", len(part), other, n*other)
						}
					}
				}
				return nil
			})
		})
	}
}

// TestEnqueued checks that operations queue up behind one another and behind another stream's events, without the host.
func TestEnqueued(t *testing.T) {
	j := newJob(t, 2)
	groups := j.groups("data")
	j.all(func(rank int) error {
		compute := newTestStream("compute")
		defer compute.close()
		buf := memory(make([]byte, 64))
		var last device.Event
		for range 50 {
			compute.Wait(last)
			device.WriteHost(compute, buf, bytes.Repeat([]byte{0, 0, 0x80, 0x3f}, 16)) // 1.0, little endian
			last = groups[rank].AllReduce(buf, sum32(), compute.Record())
		}
		if err := last.Synchronize(); err != nil {
			return err
		}
		for at := 0; at < 64; at += 4 {
			if x := math.Float32frombits(binary.LittleEndian.Uint32(buf.Mapped()[at:])); x != 2 {
				return fmt.Errorf("element %d is %v, want 2", at/4, x)
			}
		}
		return nil
	})
}

// TestAccesses checks what operations say of the memory that they touch, on which devices rely to find missing waits.
func TestAccesses(t *testing.T) {
	j := newJob(t, 1)
	g := j.groups("data")[0].(*group)
	buf := memory(make([]byte, 8))
	for _, w := range []*work{{kind: opAllReduce, buf: buf, writes: true}, {kind: opBroadcast, buf: buf}} {
		w.group = g
		n := 0
		w.Accesses(func(r device.Region, write bool) {
			n++
			if r != buf || write != w.writes {
				t.Errorf("%s reports %v, write %v", w.Name(), r, write)
			}
		})
		if n != 1 {
			t.Errorf("%s reports %d regions", w.Name(), n)
		}
	}
}

func TestAllReduceAllocatesLittle(t *testing.T) {
	j := newJob(t, 2)
	groups := j.groups("data")
	buffers := []device.Region{memory(make([]byte, 1<<20)), memory(make([]byte, 1<<20))}
	r := sum32()
	step := func() {
		j.all(func(rank int) error { return groups[rank].AllReduce(buffers[rank], r, device.Event{}).Synchronize() })
	}
	step()
	// Both ranks together, the two goroutines of the test included.
	if n := testing.AllocsPerRun(20, step); n > 24 {
		t.Errorf("an all-reduce allocates %v times", n)
	}
}
