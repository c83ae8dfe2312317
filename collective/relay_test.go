package collective

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// newTree starts a job of three hosts with two ranks each: the root's, one whose relay connects to the root, and one whose
// relay connects to the first relay.
func newTree(t *testing.T, options ...jobOption) (*testJob, []*Relay) {
	t.Helper()
	hosts := []Host{{Name: "near", Ranks: []int{2, 3}}, {Name: "far", Ranks: []int{4, 5}}}
	j := newRoot(t, 6, append([]jobOption{func(r *RootOptions, _ *Options) { r.Hosts, r.Outside = hosts, "127.0.0.1" }}, options...)...)
	var relays []*Relay
	parent := j.root.Outside()
	for i, h := range hosts {
		r, err := NewRelay(RelayOptions{
			Size: 6, Host: i, Hosts: 2, Ranks: h.Ranks, Job: "test", Secret: testSecret, Outside: "127.0.0.1", Log: j.logger,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		if err := r.Connect(context.Background(), parent); err != nil {
			t.Fatal(err)
		}
		parent = r.Outside()
		relays = append(relays, r)
	}
	j.all(func(rank int) error {
		o := j.options(rank, options...)
		for i, h := range hosts {
			if slices.Contains(h.Ranks, rank) {
				o.Place.Rendezvous = relays[i].Addr()
			}
		}
		w, err := Join(context.Background(), o)
		j.worlds[rank] = w
		return err
	})
	t.Cleanup(func() { j.each(func(rank int) error { return j.worlds[rank].Close() }) })
	return j, relays
}

func TestRelays(t *testing.T) {
	j, relays := newTree(t)
	groups := j.groups("all")
	j.all(func(rank int) error { return groups[rank].Barrier(context.Background()) })
	j.all(func(rank int) error { return j.worlds[rank].Close() })
	for _, r := range slices.Backward(relays) {
		r.Close()
	}
	if rank, cause, ok := j.root.FirstFailure(); ok {
		t.Errorf("after all said goodbye the root blames rank %d: %s", rank, cause)
	}
}

// TestFailuresThroughRelays lets ranks and hosts be lost behind one relay and two, and looks at what all others learn.
func TestFailuresThroughRelays(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(j *testJob, relays []*Relay)
		rank   int
		cause  string
		cutOff []int // ranks that lose the root, and learn no more than that
	}{
		"a rank dies":     {func(j *testJob, _ []*Relay) { j.worlds[5].die() }, 5, causeSilent, nil},
		"a rank aborts":   {func(j *testJob, _ []*Relay) { j.worlds[4].Abort(errors.New("no luck")) }, 4, "no luck", nil},
		"launch saw it":   {func(j *testJob, _ []*Relay) { j.root.Lost(2, "killed by signal 9") }, 2, "killed by signal 9", nil},
		"the far host":    {func(_ *testJob, r []*Relay) { r[1].up.Conn.Close() }, 4, "host far (ranks 4 and 5) was lost: its agent's connection ended without a goodbye", []int{4, 5}},
		"the near host":   {func(_ *testJob, r []*Relay) { r[0].up.Conn.Close() }, 2, "host near (ranks 2 and 3) was lost: its agent's connection to launch ended without a goodbye", []int{2, 3, 4, 5}},
		"its agent knows": {func(_ *testJob, r []*Relay) { r[1].CutOff(errors.New("this host is cut off from launch: told so")) }, -1, "", []int{4, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			j, relays := newTree(t)
			quickly(t, func() {
				c.fail(j, relays)
				for rank, w := range j.worlds {
					lost, cut := new(RankLostError), new(CutOffError)
					switch {
					case slices.Contains(c.cutOff, rank):
						<-w.Done()
						if err := w.Err(); !errors.As(err, &cut) || !strings.Contains(err.Error(), "cut off from launch") {
							t.Errorf("rank %d: %v", rank, err)
						}
					case c.rank >= 0 && rank != c.rank:
						<-w.Done()
						if err := w.Err(); !errors.As(err, &lost) || lost.Rank != c.rank || lost.Cause != c.cause {
							t.Errorf("rank %d: %v", rank, err)
						}
					}
				}
			})
		})
	}
}

// TestStallBehindRelays checks that an inquiry goes through relays, down and up.
func TestStallBehindRelays(t *testing.T) {
	j, _ := newTree(t, within(300*time.Millisecond))
	groups := j.groups("data")
	errs := j.each(func(rank int) error {
		if rank == 5 {
			return nil
		}
		return groups[rank].Barrier(context.Background())
	})
	for rank, err := range errs[:5] {
		late := new(TimeoutError)
		if !errors.As(err, &late) || len(late.Ranks) != 1 || late.Ranks[0] != 5 {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// TestSilence stops what sends heartbeats, as a suspended process or a dead network does: who hears nothing names it.
func TestSilence(t *testing.T) {
	silence := func(d time.Duration) jobOption { return func(_ *RootOptions, o *Options) { o.Silence = d } }
	for name, c := range map[string]struct {
		mute   func(j *testJob, relays []*Relay) *controlConn
		cause  string
		cutOff []int
	}{
		"a rank":  {func(j *testJob, _ []*Relay) *controlConn { return j.worlds[3].control }, "nothing was heard of it for 200ms: it is stopped, or its network is down", nil},
		"a relay": {func(_ *testJob, r []*Relay) *controlConn { return r[0].up }, "host near (ranks 2 and 3) was lost: nothing was heard of it for 200ms", nil},
	} {
		t.Run(name, func(t *testing.T) {
			j, relays := newTree(t, silence(200*time.Millisecond))
			groups := j.groups("all")
			j.all(func(rank int) error { return groups[rank].Barrier(context.Background()) })
			time.Sleep(400 * time.Millisecond) // heartbeats keep a job alive that says nothing
			if _, cause, failed := j.root.FirstFailure(); failed {
				t.Fatalf("a quiet job failed: %s", cause)
			}
			mute := c.mute(j, relays)
			mute.mu.Lock() // all that is sent on the connection waits for this
			defer mute.mu.Unlock()
			<-j.worlds[0].Done()
			if err := j.worlds[0].Err(); !strings.Contains(err.Error(), c.cause) {
				t.Errorf("rank 0 learned %v", err)
			}
		})
	}
}

func TestAddressTable(t *testing.T) {
	addresses := []string{"10.0.0.1:20000", "10.0.0.2:20000", "10.0.0.1:65535", "[fd00::2]:1"}
	table, err := newAddressTable(addresses)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.check(4); err != nil || len(table.Hosts) != 3 {
		t.Errorf("%v, hosts %v", err, table.Hosts)
	}
	for rank, want := range addresses {
		if got := table.address(rank); got != want {
			t.Errorf("rank %d is at %s, want %s", rank, got, want)
		}
	}
	for _, bad := range []*addressTable{nil, {}, {Hosts: []string{"a"}, Where: make([]byte, 12)}, {Hosts: nil, Where: make([]byte, 16)}} {
		if bad.check(4) == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
	for _, bad := range []string{"nowhere", "a:70000", "a:x"} {
		if _, err := newAddressTable([]string{bad}); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestPortRange(t *testing.T) {
	for text, want := range map[string]PortRange{"": {}, "20000": {20000, 20000}, "20000-20100": {20000, 20100}} {
		if got, err := ParsePortRange(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if again, err := ParsePortRange(want.String()); err != nil || again != want {
			t.Errorf("%v: %v, %v", want, again, err)
		}
	}
	for _, bad := range []string{"0", "9-1", "1-70000", "x", "1-", "-1"} {
		if got, err := ParsePortRange(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
	first, err := PortRange{}.listen("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	var port uint16
	fmt.Sscanf(first.Addr().String(), "127.0.0.1:%d", &port)
	if _, err := (PortRange{port, port}).listen("127.0.0.1"); err == nil || !strings.Contains(err.Error(), "are in use") {
		t.Errorf("a range that is in use: %v", err)
	}
}
