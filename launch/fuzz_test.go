package main

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// frames encodes frames as they travel.
func frames(t testing.TB, list ...frame) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, f := range list {
		if err := writeFrame(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// FuzzFrames reads what a remote shell may bring: every frame that is accepted is the same after another trip.
func FuzzFrames(f *testing.F) {
	f.Add(frames(f, frame{Kind: frameAssign, Assignment: &assignment{Name: "node1", Ranks: []int{2, 3}, Secret: []byte("0123456789abcdef"), StartTimeout: time.Minute}}))
	f.Add(append([]byte("Last login: today\r\n"), frames(f, frame{Kind: frameOutput, Stream: 1, Data: []byte("step 1\n")}, frame{Kind: frameDone})...))
	f.Add([]byte(frameMark + "{}\n" + frameMark + "{\"rank\": 1e99}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newFrameReader(bytes.NewReader(b), func(string) {})
		for {
			got, err := r.next()
			if err != nil {
				return
			}
			trip := frames(t, got)
			again, err := newFrameReader(bytes.NewReader(trip), nil).next()
			if err != nil {
				t.Fatalf("what was read cannot be read again: %v", err)
			}
			if !bytes.Equal(frames(t, again), trip) {
				t.Errorf("%+v became %+v", got, again)
			}
		}
	})
}

// FuzzAgentSays lets launch act on whatever a broken agent may say: it must neither crash nor wait for it.
func FuzzAgentSays(f *testing.F) {
	f.Add(frames(f, frame{Kind: frameReady}, frame{Kind: frameStarted}, frame{Kind: frameEnded, Rank: 2, Ending: &ending{}, Tail: &tailText{Crash: []string{}}}, frame{Kind: frameDone}))
	f.Add(frames(f, frame{Kind: frameReady}, frame{Kind: frameReady}))
	f.Add(frames(f, frame{Kind: frameStarted}, frame{Kind: frameEnded, Rank: 3, Ending: &ending{Lost: "x"}}, frame{Kind: frameEnded, Rank: 3, Ending: &ending{}}))
	f.Add(frames(f, frame{Kind: frameOutput, Stream: 9, Data: []byte("x")}, frame{Kind: "else"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ranks := []*rank{{number: 2, tail: &tail{}}, {number: 3, tail: &tail{}}}
		ended := make(chan exit, len(ranks))
		c := newConsole(&stream{w: io.Discard}, &stream{w: io.Discard})
		defer c.close()
		r := &remote{c: c, ready: make(chan frame, 1), started: make(chan frame, 1), waiting: ranks, ended: ended}
		lines := newFrameReader(bytes.NewReader(b), nil)
		var err error
		for err == nil {
			var said frame
			if said, err = lines.next(); err == nil {
				err = r.take(said)
			}
		}
		for len(ended) > 0 {
			e := <-ended
			e.collect()
			e.rank.tail.crashed()
			e.rank.tail.summary()
		}
	})
}
