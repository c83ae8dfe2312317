package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"lockstep/collective"
)

// Launch and its agent on another host talk through the remote shell's standard input and output: a frame a line, JSON
// behind a mark, so that what a login script prints before the agent starts is not taken for one.

const (
	frameMark = "\x1e" // ASCII's record separator, as in RFC 7464
	// maxFrame bounds a frame. The largest is the assignment, with arguments and environment.
	maxFrame = 8 << 20
)

// A frameKind names a frame.
type frameKind string

const (
	frameAssign frameKind = "assign" // to the agent: Assignment
	frameStart  frameKind = "start"  // to the agent: all hosts are ready; its relay's parent listens at Address
	frameAsk    frameKind = "ask"    // to the agent: SIGTERM to Rank
	frameKill   frameKind = "kill"   // to the agent: SIGKILL to Rank

	frameReady   frameKind = "ready"   // from the agent: its relay listens at Address, its files have these Sums
	frameStarted frameKind = "started" // from the agent: its ranks run
	frameFailed  frameKind = "failed"  // from the agent: Text says why its ranks cannot be started
	frameOutput  frameKind = "output"  // from the agent: Data for launch's Stream
	frameEnded   frameKind = "ended"   // from the agent: Rank has ended as Ending says, Tail is its last output
	frameDone    frameKind = "done"    // from the agent: all has been said
)

// A frame is one message. Which fields are in use depends on Kind.
type frame struct {
	Kind       frameKind         `json:"kind"`
	Assignment *assignment       `json:"assignment,omitempty"`
	Address    string            `json:"address,omitempty"`
	Rank       int               `json:"rank,omitempty"`
	Sums       map[string]string `json:"sums,omitempty"`
	Text       string            `json:"text,omitempty"`
	Stream     int               `json:"stream,omitempty"` // 1 or 2
	Data       []byte            `json:"data,omitempty"`
	Ending     *ending           `json:"ending,omitempty"`
	Tail       *tailText         `json:"tail,omitempty"`
}

// An assignment tells an agent what its host has to do.
type assignment struct {
	Name         string // of the host, as the user wrote it
	Host, Hosts  int    // its number among the hosts that have agents, and how many there are
	Ranks        []int
	Size         int // ranks in the job
	Job          string
	Secret       []byte
	Root         string // address of the root, which tells the agent on which interface it is to listen
	Relays       bool   // whether other agents will connect to this one
	Interface    string
	Ports        collective.PortRange
	Dir          string
	Program      string
	Args         []string
	Environ      []string // -x
	Files        []string // whose checksums are to be compared
	Output       outputMode
	Bind         binding
	StartTimeout time.Duration
}

// An outbox writes frames, in order, from a goroutine of its own. When the other side is gone, what is sent is dropped, so
// that nobody waits for it.
type outbox struct {
	frames chan frame
	gone   chan struct{}
	once   sync.Once
	writer sync.WaitGroup
}

func newOutbox(w io.Writer) *outbox {
	o := &outbox{frames: make(chan frame, 64), gone: make(chan struct{})}
	o.writer.Go(func() {
		for {
			select {
			case f, ok := <-o.frames:
				if !ok {
					return
				}
				if writeFrame(w, f) != nil {
					o.abandon()
					return
				}
			case <-o.gone:
				return
			}
		}
	})
	return o
}

func writeFrame(w io.Writer, f frame) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	_, err = w.Write(append(append([]byte(frameMark), b...), '\n'))
	return err
}

func (o *outbox) send(f frame) {
	select {
	case o.frames <- f:
	case <-o.gone:
	}
}

// abandon drops all that is not written.
func (o *outbox) abandon() { o.once.Do(func() { close(o.gone) }) }

// flush returns when all that was sent is written, or the other side is gone. Nothing may be sent afterwards.
func (o *outbox) flush() {
	close(o.frames)
	written := make(chan struct{})
	go func() {
		o.writer.Wait()
		close(written)
	}()
	select {
	case <-written:
	case <-o.gone:
	}
}

// An outputWriter is a stream of an agent's console: what is written goes to launch.
type outputWriter struct {
	to     *outbox
	stream int
}

func (w outputWriter) Write(p []byte) (int, error) {
	w.to.send(frame{Kind: frameOutput, Stream: w.stream, Data: bytes.Clone(p)})
	return len(p), nil
}

// A frameReader reads frames.
type frameReader struct {
	lines *bufio.Scanner
	// other receives lines that are no frames; nil drops them.
	other func(line string)
}

func newFrameReader(r io.Reader, other func(line string)) *frameReader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxFrame)
	return &frameReader{lines, other}
}

// next returns the next frame, io.EOF at the end.
func (r *frameReader) next() (frame, error) {
	for r.lines.Scan() {
		text, marked := bytes.CutPrefix(r.lines.Bytes(), []byte(frameMark))
		if !marked {
			if r.other != nil {
				r.other(r.lines.Text())
			}
			continue
		}
		var f frame
		if err := json.Unmarshal(text, &f); err != nil {
			return frame{}, fmt.Errorf("a frame of %d bytes: %w", len(text), err)
		}
		return f, nil
	}
	if err := r.lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return frame{}, fmt.Errorf("a line of more than %d bytes is no frame", maxFrame)
	} else if err != nil {
		return frame{}, err
	}
	return frame{}, io.EOF
}
