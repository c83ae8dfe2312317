package collective

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"lockstep/kernels/device"
)

// strangers are all kinds of processes that do not belong to the job. Each gets the address of a listener of rank self.
var strangers = []struct {
	name   string
	reason string // what the log says
	act    func(address string, self int) error
}{
	{"random bytes", "does not speak Lockstep's protocol", func(address string, _ int) error {
		return speak(address, bytes.Repeat([]byte{0xa5, 0x17}, 4096))
	}},
	{"HTTP", "does not speak Lockstep's protocol", func(address string, _ int) error {
		return speak(address, []byte("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a stranger who got lost\r\n\r\n"))
	}},
	{"a short hello", "no complete hello", func(address string, _ int) error {
		return speak(address, []byte(magic))
	}},
	{"a newer version", "version 99", func(address string, _ int) error {
		h := hello{purpose: purposeControl, to: rootRank}
		b := h.encode()
		b[4] = 99
		return speak(address, b)
	}},
	{"a wrong secret", "", func(address string, self int) error {
		return refusedDial(address, credentials{job: "test", secret: bytes.Repeat([]byte{8}, SecretSize)}, self, 0)
	}},
	{"a wrong secret that ignores the listener's proof", "does not know the job's secret", func(address string, self int) error {
		h := hello{purpose: purposeData, to: int32(self)}
		return speak(address, append(h.encode(), make([]byte, proofBytes)...))
	}},
	{"another job", "", func(address string, self int) error {
		return refusedDial(address, credentials{job: "other", secret: testSecret}, self, 0)
	}},
	{"another epoch", "of epoch 1, this is", func(address string, self int) error {
		return refusedDial(address, credentials{job: "test", epoch: 1, secret: testSecret}, self, 0)
	}},
	{"a rank that is taken", "already", func(address string, self int) error {
		return refusedDial(address, credentials{job: "test", secret: testSecret}, self, 0)
	}},
	{"a rank that does not exist", "rank 7", func(address string, self int) error {
		return refusedDial(address, credentials{job: "test", secret: testSecret}, self, 7)
	}},
}

// speak sends bytes and waits until the listener has closed the connection.
func speak(address string, b []byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(b); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return nil // the listener was faster
	}
	if err := conn.SetReadDeadline(time.Now().Add(2 * handshakeTimeout)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, net.ErrClosed) || isTimeout(err) {
		return fmt.Errorf("the listener did not close the connection: %w", err)
	}
	return nil
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// refusedDial goes through the handshake and fails if that succeeds.
func refusedDial(address string, c credentials, self, from int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	h := hello{purpose: purposeData, from: int32(from), to: int32(self), group: groupID("data", everyone(3), 0)}
	if self == rootRank {
		h.purpose = purposeControl
	}
	if err := c.greet(conn, h); err == nil {
		return errors.New("the stranger was let in")
	}
	return nil
}

func TestStrangers(t *testing.T) {
	j := newJob(t, 3)
	groups := j.groups("data")
	j.all(func(rank int) error { // all are connected with all, so that the stranger who takes a rank's place comes too late
		return groups[rank].Exchange([]Transfer{
			{Peer: (rank + 1) % 3}, {Peer: (rank + 2) % 3}, {Peer: (rank + 1) % 3, Receive: true}, {Peer: (rank + 2) % 3, Receive: true},
		}, device.Event{}).Synchronize()
	})
	stop := make(chan struct{})
	running := make(chan []error, 1)
	go func() { // the job works all the while
		running <- j.each(func(rank int) error {
			for i := byte(0); ; i++ {
				buf := memory(bytes.Repeat([]byte{i}, 100_000))
				if err := groups[rank].AllReduce(buf, sum32(), device.Event{}).Synchronize(); err != nil {
					return err
				}
				mine := []byte{0} // rank 0 says when to stop, to all at the same operation
				if rank == 0 {
					select {
					case <-stop:
						mine[0] = 1
					default:
					}
				}
				parts, err := groups[rank].GatherBytes(context.Background(), mine)
				if err != nil || parts[0][0] == 1 {
					return err
				}
			}
		})
	}()
	doors := map[int]string{rootRank: j.root.Addr(), 1: j.worlds[1].door.listeners[0].Addr().String()}
	for self, address := range doors {
		for _, s := range strangers {
			if err := s.act(address, self); err != nil {
				t.Errorf("%s at rank %d: %v", s.name, self, err)
			}
			j.log.eventually(t, s.reason)
		}
	}
	close(stop)
	for rank, err := range <-running {
		if err != nil {
			t.Errorf("rank %d was disturbed: %v", rank, err)
		}
	}
	if strings.Contains(j.log.String(), string(testSecret)) {
		t.Error("the secret is in the log")
	}
	if rank, cause, ok := j.root.FirstFailure(); ok {
		t.Errorf("the root blames rank %d: %s", rank, cause)
	}
}

// TestSilentFlood opens more silent connections than a door has room for; ranks come in all the same.
func TestSilentFlood(t *testing.T) {
	j := newRoot(t, 2)
	for range maxUnproven + 10 {
		conn, err := net.Dial("tcp", j.root.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	quickly(t, func() {
		j.all(func(rank int) error {
			w, err := Join(context.Background(), j.options(rank))
			if err == nil {
				t.Cleanup(func() { w.Close() })
			}
			return err
		})
	})
	j.log.eventually(t, "it sent no complete hello")
}

// TestImpostorRoot checks that a rank tells nothing to a root that does not know the secret.
func TestImpostorRoot(t *testing.T) {
	j := newRoot(t, 1, func(r *RootOptions, _ *Options) { r.Secret = bytes.Repeat([]byte{9}, SecretSize) })
	_, err := Join(context.Background(), j.options(0))
	if err == nil || !strings.Contains(err.Error(), "does not know the secret") {
		t.Errorf("got %v", err)
	}
}

// A tape records what is written to a connection.
type tape struct {
	net.Conn
	written []byte
}

func (t *tape) Write(p []byte) (int, error) {
	t.written = append(t.written, p...)
	return t.Conn.Write(p)
}

// TestPlayedBack records a rank's whole handshake and plays it back, at the same door and at another.
func TestPlayedBack(t *testing.T) {
	j := newJob(t, 3)
	doors := []string{j.worlds[1].door.listeners[0].Addr().String(), j.worlds[2].door.listeners[0].Addr().String()}
	conn, err := net.Dial("tcp", doors[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	recorded := &tape{Conn: conn}
	c := credentials{job: "test", secret: testSecret}
	if err := c.greet(recorded, hello{purpose: purposeData, from: 0, to: 1, group: 77}); err != nil {
		t.Fatalf("the rank itself is not let in: %v", err)
	}
	for _, door := range doors {
		if err := speak(door, recorded.written); err != nil {
			t.Error(err)
		}
	}
	j.log.eventually(t, "it does not know the job's secret", "it wants rank 1 of epoch 0, this is rank 2 of epoch 0")
}

func TestReplayIsRefused(t *testing.T) {
	c := credentials{job: "test", secret: testSecret}
	h := hello{purpose: purposeControl, to: rootRank}
	first := h.encode()
	nonce := bytes.Repeat([]byte{1}, nonceBytes)
	code := c.code("dialer", first, nonce, nil)
	for name, other := range map[string][]byte{
		"side":    c.code("listener", first, nonce, nil),
		"nonce":   c.code("dialer", first, bytes.Repeat([]byte{2}, nonceBytes), nil),
		"job":     (&credentials{job: "other", secret: testSecret}).code("dialer", first, nonce, nil),
		"rank":    c.code("dialer", (&hello{purpose: purposeControl, from: 1, to: rootRank}).encode(), nonce, nil),
		"epoch":   c.code("dialer", (&hello{purpose: purposeControl, epoch: 1, to: rootRank}).encode(), nonce, nil),
		"session": c.code("dialer", first, nonce, []byte("another")),
		"use":     c.code("dialer", (&hello{purpose: purposeData, to: rootRank}).encode(), nonce, nil),
	} {
		if bytes.Equal(code, other) {
			t.Errorf("the code does not depend on the %s", name)
		}
	}
}

func TestFactsDisagree(t *testing.T) {
	j := newRoot(t, 3)
	quickly(t, func() {
		for rank, err := range j.each(func(rank int) error {
			o := j.options(rank)
			if rank == 2 {
				o.Facts = map[string]string{"version": "1", "kernel set": "avx2"}
			}
			_, err := Join(context.Background(), o)
			return err
		}) {
			refused := new(RefusedError)
			want := `the ranks disagree on the kernel set: rank 2 has "avx2", rank 0 has "generic"; all ranks must be the same`
			if !errors.As(err, &refused) || refused.Rank != 2 || refused.Reason != want {
				t.Errorf("rank %d: %v", rank, err)
			}
		}
	})
	if rank, cause, ok := j.root.FirstFailure(); !ok || rank != 2 || !strings.Contains(cause, "kernel set") {
		t.Errorf("FirstFailure = %d, %q, %v", rank, cause, ok)
	}
}

func TestRanksMissing(t *testing.T) {
	j := newRoot(t, 4, within(200*time.Millisecond))
	for rank, err := range j.each(func(rank int) error {
		if rank%2 == 1 {
			return nil
		}
		_, err := Join(context.Background(), j.options(rank, within(200*time.Millisecond)))
		return err
	}) {
		refused := new(RefusedError)
		if rank%2 == 0 && (!errors.As(err, &refused) || !strings.Contains(err.Error(), "ranks 1 and 3 did not join within 200ms")) {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// TestRanksMayPrepare lets more than the time limit pass before any rank joins: the limit is for those that keep others waiting.
func TestRanksMayPrepare(t *testing.T) {
	j := newRoot(t, 2, within(20*time.Millisecond))
	time.Sleep(100 * time.Millisecond)
	if rank, cause, failed := j.root.FirstFailure(); failed {
		t.Errorf("rank %d is taken for lost: %s", rank, cause)
	}
}

func TestRankLostWhileJoining(t *testing.T) {
	j := newRoot(t, 2)
	time.AfterFunc(50*time.Millisecond, func() { j.root.Lost(1, "exit status 2") })
	_, err := Join(context.Background(), j.options(0))
	if lost := new(RankLostError); !errors.As(err, &lost) || lost.Rank != 1 || lost.Cause != "exit status 2" {
		t.Errorf("got %v", err)
	}
	_, err = Join(context.Background(), j.options(1))
	if refused := new(RefusedError); !errors.As(err, &refused) || !strings.Contains(err.Error(), "exit status 2") {
		t.Errorf("joining a failed job: %v", err)
	}
}

func TestJoinIsCancelled(t *testing.T) {
	j := newRoot(t, 2)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	quickly(t, func() {
		if _, err := Join(ctx, j.options(0)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWrongSize(t *testing.T) {
	j := newRoot(t, 2)
	o := j.options(0)
	o.Place.Size = 3
	_, err := Join(context.Background(), o)
	if refused := new(RefusedError); !errors.As(err, &refused) || !strings.Contains(err.Error(), "3 ranks") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	j := newRoot(t, 1)
	o := j.options(0, within(200*time.Millisecond))
	j.root.Close()
	if _, err := Join(context.Background(), o); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}
