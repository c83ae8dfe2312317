package collective

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"lockstep/kernels/device"
)

func withTLS() jobOption {
	return func(_ *RootOptions, o *Options) { o.TLS, o.Backend = true, BackendTCP }
}

// TestTLS runs operations with small and large buffers inside TLS, and looks that nothing is left.
func TestTLS(t *testing.T) {
	j := newJob(t, 3, withTLS())
	groups := j.groups("data")
	for _, n := range []int{4, 40_000, 3 << 20} {
		j.all(func(rank int) error {
			buf := memory(bytes.Repeat([]byte{0, 0, 128, 63}, n/4)) // 1 as float32
			if err := groups[rank].AllReduce(buf, sum32(), device.Event{}).Synchronize(); err != nil {
				return err
			}
			if !bytes.Equal(buf.Mapped(), bytes.Repeat([]byte{0, 0, 64, 64}, n/4)) { // 3
				return errors.New("the sum is wrong")
			}
			return nil
		})
	}
	j.all(func(rank int) error { return j.worlds[rank].Close() })
	j.root.Close()
	nothingRuns(t)
}

// TestTLSEndsWithTheRank lets a rank die: the others' links, behind their bridges, end with the cause.
func TestTLSEndsWithTheRank(t *testing.T) {
	j := newJob(t, 3, withTLS())
	groups := j.groups("data")
	j.all(func(rank int) error { return groups[rank].Barrier(context.Background()) })
	quickly(t, func() {
		events := make([]device.Event, 2)
		for rank := range events {
			events[rank] = groups[rank].AllReduce(memory(make([]byte, 8<<20)), sum32(), device.Event{})
		}
		j.worlds[2].Abort(errors.New("no luck"))
		for rank, e := range events {
			if lost := new(RankLostError); !errors.As(e.Synchronize(), &lost) || lost.Rank != 2 {
				t.Errorf("rank %d: %v", rank, e.Synchronize())
			}
		}
	})
}

func TestPlainConnectionIsRefused(t *testing.T) {
	j := newJob(t, 2, withTLS())
	address := j.worlds[1].door.listeners[0].Addr().String()
	c := credentials{job: "test", secret: testSecret}
	if err := refusedDial(address, c, 1, 0); err != nil {
		t.Error(err)
	}
	j.log.eventually(t, "it does not use TLS, which this job requires")
}

// TestManInTheMiddle passes a rank's handshake on between two TLS sessions of its own: the codes are right for the wrong session.
func TestManInTheMiddle(t *testing.T) {
	j := newJob(t, 2, withTLS())
	behind := j.worlds[1].door.listeners[0].Addr().String()
	middle, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer middle.Close()
	own, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		victim, err := middle.Accept()
		if err != nil {
			return
		}
		defer victim.Close()
		inside := tls.Server(victim, &tls.Config{Certificates: []tls.Certificate{own}})
		onward, err := tls.Dial("tcp", behind, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer onward.Close()
		go func() { _, _ = io.Copy(onward, inside) }()
		_, _ = io.Copy(inside, onward)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := credentials{job: "test", secret: testSecret, secure: true}
	_, err = c.dial(ctx, middle.Addr().String(), hello{purpose: purposeData, from: 0, to: 1, group: 5})
	if err == nil || !strings.Contains(err.Error(), "does not know the secret") {
		t.Errorf("the man in the middle is not noticed: %v", err)
	}
}
