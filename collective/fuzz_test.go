package collective

import (
	"bytes"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"

	"lockstep/kernels/device"
)

func FuzzParseHello(f *testing.F) {
	h := hello{purpose: purposeData, epoch: 2, from: 3, to: 5, group: 1 << 60, nonce: [nonceBytes]byte{1, 2}}
	f.Add(h.encode())
	f.Add([]byte("GET / HTTP/1.1"))
	f.Add(bytes.Repeat([]byte{0xff}, helloBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		if h.from < 0 || h.to < rootRank {
			t.Errorf("accepted ranks %d and %d", h.from, h.to)
		}
		if !bytes.Equal(h.encode(), b) {
			t.Errorf("%+v does not encode to what it was parsed from", h)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	var b [headerBytes]byte
	h := header{kind: opAllReduce, dtype: device.Float32, step: 3, group: 9, sequence: 17, total: 1 << 33, size: 4}
	h.encode(&b)
	f.Add(b[:])
	f.Add([]byte("LKSD"))
	f.Add(bytes.Repeat([]byte{0xff}, headerBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		var again [headerBytes]byte
		h.encode(&again)
		if !bytes.Equal(again[:], b) {
			t.Errorf("%+v does not encode to what it was parsed from", h)
		}
		if h.describe() == "" {
			t.Error("it has no description")
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	for _, m := range []message{
		{Kind: kindJoin, Size: 4, Address: "127.0.0.1:1", Facts: map[string]string{"version": "1"}},
		{Kind: kindStall, Stall: &operation{Group: 1 << 63, Sequence: 3, Members: []int{0, 1}, Waiting: 1}, Cause: "1m0s"},
	} {
		b, err := encodeMessage(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		encoded, err := encodeMessage(m)
		if err != nil {
			return // a message at the limit may grow by its escapes
		}
		again, err := readMessage(bytes.NewReader(encoded))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if len(m.Cause) <= maxCauseBytes && !sameMessage(m, again) {
			t.Errorf("%+v became %+v", m, again)
		}
	})
}

// sameMessage compares messages, for which an absent list and an empty one are the same.
func sameMessage(a, b message) bool {
	for _, m := range []*message{&a, &b} {
		if len(m.Ranks) == 0 {
			m.Ranks = nil
		}
		if len(m.Facts) == 0 {
			m.Facts = nil
		}
		if t := m.Table; t != nil && len(t.Hosts) == 0 {
			t.Hosts = nil
		}
		if t := m.Table; t != nil && len(t.Where) == 0 {
			t.Where = nil
		}
		if m.Stall != nil && len(m.Stall.Members) == 0 {
			m.Stall.Members = nil
		}
		for i := range m.Operations {
			if len(m.Operations[i].Members) == 0 {
				m.Operations[i].Members = nil
			}
		}
		if len(m.Operations) == 0 {
			m.Operations = nil
		}
	}
	return reflect.DeepEqual(a, b)
}

// FuzzRootReceive feeds the root whatever an authenticated but broken rank or relay may say: it must neither crash nor hang.
func FuzzRootReceive(f *testing.F) {
	for _, m := range []message{
		{Kind: kindJoin, Size: 2, Address: "127.0.0.1:1"}, {Kind: kindAbort, Cause: "x"}, {Kind: kindGoodbye},
		{Kind: kindStall, Stall: &operation{Members: []int{0, 1, 99}, Waiting: -1}}, {Kind: kindStatus},
		{Kind: kindGone, From: 1, Cause: "x"}, {Kind: kindHostGone, Host: 1}, {Kind: kindJoin, From: 5, Host: -1},
		{Kind: kindPreparing},
	} {
		b, err := encodeMessage(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, byte(present), false)
		f.Add(b, byte(claimed), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, state byte, relayed bool) {
		m, err := readMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		r := newRoot(t, 2, func(r *RootOptions, _ *Options) {
			r.Hosts, r.Outside = []Host{{Name: "other", Ranks: []int{1}}}, "127.0.0.1"
		}).root
		r.mu.Lock()
		r.members[1].state = memberState(state % 4)
		r.mu.Unlock()
		h := hello{purpose: purposeControl, from: 1}
		if relayed {
			h = hello{purpose: purposeRelay}
		}
		err = r.receive(h, m)
		if rank, cause, ok := r.FirstFailure(); ok && (rank < 0 || rank > 1) {
			t.Errorf("after %+v (%v) the root blames rank %d: %s", m, err, rank, cause)
		}
	})
}

// FuzzRelay feeds a relay whatever an authenticated but broken rank below it, or root above it, may say: what is passed on is
// what can be read again, and its end is the end of the connection.
func FuzzRelay(f *testing.F) {
	for _, m := range []message{
		{Kind: kindJoin, Size: 2, Address: "127.0.0.1:1"}, {Kind: kindPreparing}, {Kind: kindGoodbye}, {Kind: kindAbort, Cause: "x", From: 9},
		{Kind: kindTable, Silence: -1}, {Kind: kindTable, Silence: 1}, {Kind: kindLost, Rank: -4}, {Kind: kindWait}, {Kind: kindCutOff},
	} {
		b, err := encodeMessage(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(append(b, b...), true)
	}
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, b []byte, above bool) {
		up, root := net.Pipe()
		below, rank := net.Pipe()
		r := &Relay{done: make(chan struct{}), ranks: map[int]memberState{3: claimed}, below: map[*controlConn]struct{}{}, up: &controlConn{Conn: up}}
		var others sync.WaitGroup
		others.Go(func() { readAll(t, root) })
		others.Go(func() { readAll(t, rank) })
		if above {
			c := &controlConn{Conn: below}
			r.below[c] = struct{}{}
			for from := bytes.NewReader(b); ; {
				m, err := readMessage(from)
				if err != nil {
					break
				}
				r.passDown(m)
			}
			r.running.Wait()
			c.Close()
		} else {
			others.Go(func() {
				_, _ = rank.Write(b) // the relay may end the connection first
				rank.Close()
			})
			r.serve(hello{purpose: purposeControl, from: 3}, below)
		}
		r.up.Close()
		others.Wait()
	})
}

// readAll reads messages to the end of the connection.
func readAll(t *testing.T, conn net.Conn) {
	c := &controlConn{Conn: conn}
	for {
		if _, err := c.receive(); errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
			return
		} else if err != nil {
			t.Errorf("the relay passed on what cannot be read: %v", err)
			return
		}
	}
}
