package collective

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Control messages are rare and small; they are JSON, each after its length in four bytes (big endian). A length of zero is
// a heartbeat.
const (
	maxMessageBytes = 1 << 20
	maxCauseBytes   = 16 << 10
	maxFacts        = 256
)

// A messageKind names a control message.
type messageKind string

const (
	kindAdmitted  messageKind = "admitted"  // listener: the handshake succeeded
	kindRefused   messageKind = "refused"   // listener: Cause says why it did not; root: the job did not form
	kindJoin      messageKind = "join"      // rank: Size, Address, Local, Facts
	kindPreparing messageKind = "preparing" // rank: it will join, but not yet
	kindWait      messageKind = "wait"      // root: ranks are still preparing
	kindTable     messageKind = "table"     // root: Table and Locals of all ranks; the job has formed
	kindLost      messageKind = "lost"      // root: Rank was lost, Cause says why
	kindTimeout   messageKind = "timeout"   // root: Ranks have not arrived, Cause is the report
	kindAbort     messageKind = "abort"     // rank: it will end, Cause says why
	kindGoodbye   messageKind = "goodbye"   // rank: it is done; its connection may close
	kindStall     messageKind = "stall"     // rank: Stall made no progress for the time in Cause
	kindQuery     messageKind = "query"     // root: where do you stand in the group of Stall?
	kindStatus    messageKind = "status"    // rank: Operations holds where it stands, nothing if it has not made the group
	kindGone      messageKind = "gone"      // relay: the connection of the rank From ended without a goodbye, Cause says how
	kindCutOff    messageKind = "cutoff"    // relay: it has lost the root, Cause says how
	kindHostGone  messageKind = "hostgone"  // relay: the connection of the relay of Host ended, Cause says how
)

// A message is a control message. Which fields are in use depends on Kind.
type message struct {
	Kind       messageKind       `json:"kind"`
	Rank       int               `json:"rank,omitempty"`
	Ranks      []int             `json:"ranks,omitempty"`
	Cause      string            `json:"cause,omitempty"`
	Size       int               `json:"size,omitempty"`
	Address    string            `json:"address,omitempty"`
	Local      string            `json:"local,omitempty"` // host/socket, for ranks of that host; "" for none
	Facts      map[string]string `json:"facts,omitempty"`
	Table      *addressTable     `json:"table,omitempty"`
	Locals     []string          `json:"locals,omitempty"`
	Stall      *operation        `json:"stall,omitempty"`
	Operations []operation       `json:"operations,omitempty"`
	From       int               `json:"from,omitempty"`    // the rank whose message a relay passes on
	Host       int               `json:"host,omitempty"`    // the number of a host, see RootOptions.Hosts
	Silence    time.Duration     `json:"silence,omitempty"` // how long the other side may be silent, of join and table
	Beats      bool              `json:"beats,omitempty"`   // whether the sender of the table will send heartbeats as well
}

// An operation is where a rank stands in one of its groups.
type operation struct {
	Group    uint64 `json:"group"`           // the group's identifier
	Sequence uint64 `json:"sequence"`        // the number of the operation entered last
	Name     string `json:"name"`            // such as "all-reduce 17 of group data (1.2 MB)"
	Inside   bool   `json:"inside"`          // whether the rank is still in it
	What     string `json:"what,omitempty"`  // the operation with its sizes and types, which all members must agree on
	Stack    string `json:"stack,omitempty"` // of a rank that is late: where the goroutine is that made the group
	Members  []int  `json:"members,omitempty"`
	// Waiting is the rank that a stalled operation waits for.
	Waiting int `json:"waiting,omitempty"`
}

func encodeMessage(m message) ([]byte, error) {
	if len(m.Cause) > maxCauseBytes {
		m.Cause = m.Cause[:maxCauseBytes] + " ... (cut)"
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(body) > maxMessageBytes {
		return nil, fmt.Errorf("a %s message of %d bytes exceeds the limit of %d", m.Kind, len(body), maxMessageBytes)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil
}

func writeMessage(w io.Writer, m message) error {
	b, err := encodeMessage(m)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// readMessage reads one message. io.EOF means that the stream ended between messages.
func readMessage(r io.Reader) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	return readBody(r, head)
}

// readBody reads what follows the head of a message.
func readBody(r io.Reader, head [4]byte) (message, error) {
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessageBytes {
		return message{}, fmt.Errorf("a control message of %d bytes exceeds the limit of %d", n, maxMessageBytes)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return message{}, fmt.Errorf("reading a control message of %d bytes: %w", n, noEOF(err))
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return message{}, fmt.Errorf("a control message of %d bytes: %w", n, err)
	}
	if m.Kind == "" {
		return message{}, fmt.Errorf("a control message of %d bytes names no kind", n)
	}
	return m, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// controlWriteTimeout bounds the writing of a control message, together with a second for each controlWriteRate bytes. Most
// are small enough for the socket's buffer, so that writing waits only when the other side has not read for long; the table of
// a large job is not, and its thousands of readers may share a few cores.
const (
	controlWriteTimeout = 20 * time.Second
	controlWriteRate    = 4 << 10
)

// beatsPerSilence is how many heartbeats fall into the time after which silence counts as a loss. Silence is counted in
// such parts, so that a process that was itself suspended, or starved, blames nobody for the time in which it did not listen.
const beatsPerSilence = 4

// errSilent ends a control connection on which nothing came for too long, not even a heartbeat.
var errSilent = errors.New("nothing was heard of it")

// A controlConn is one end of a control connection. Several goroutines may send; one receives.
type controlConn struct {
	net.Conn
	silence atomic.Int64 // how long the other side may say nothing, in nanoseconds; 0: for ever

	mu    sync.Mutex // guards writing, and the timer
	beats *time.Timer
}

func (c *controlConn) send(m message) error {
	b, err := encodeMessage(m)
	if err != nil {
		return err
	}
	return c.write(b)
}

func (c *controlConn) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := controlWriteTimeout + time.Duration(len(b)/controlWriteRate)*time.Second
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := c.Write(b)
	if err != nil {
		c.Conn.Close() // a part may have been written, which nothing can follow
	}
	return err
}

// beat sends heartbeats from now on, often enough for a listener that waits for the given time.
func (c *controlConn) beat(silence time.Duration) {
	if silence <= 0 {
		return
	}
	every := max(silence/beatsPerSilence, time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.beats != nil {
		return
	}
	c.beats = time.AfterFunc(every, func() {
		// A connection that cannot be written to has ended, which its reader finds out.
		if c.write(make([]byte, 4)) == nil {
			c.mu.Lock()
			c.beats.Reset(every)
			c.mu.Unlock()
		}
	})
}

// listenFor makes silence of the given length the end of the connection from now on.
func (c *controlConn) listenFor(silence time.Duration) {
	c.silence.Store(int64(silence))
	if silence > 0 { // wakes a receive that waits without a limit
		_ = c.SetReadDeadline(time.Now().Add(silence / beatsPerSilence))
	}
}

// Close ends the connection and its heartbeats.
func (c *controlConn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.beats != nil {
		c.beats.Stop()
	}
	return err
}

// receive returns the next message that is no heartbeat. io.EOF means that the connection ended between messages.
func (c *controlConn) receive() (message, error) {
	for {
		var head [4]byte
		if err := c.awaitHead(head[:]); err != nil {
			return message{}, err
		}
		if head == [4]byte{} {
			continue
		}
		if silence := c.silence.Load(); silence > 0 {
			if err := c.SetReadDeadline(time.Now().Add(time.Duration(silence))); err != nil {
				return message{}, err
			}
		}
		return readBody(c, head)
	}
}

// awaitHead reads the head of a message or heartbeat.
func (c *controlConn) awaitHead(head []byte) error {
	for got, missed := 0, 0; got < len(head); {
		silence := time.Duration(c.silence.Load())
		if silence > 0 {
			if err := c.SetReadDeadline(time.Now().Add(silence / beatsPerSilence)); err != nil {
				return err
			}
		}
		n, err := c.Read(head[got:])
		if got += n; n > 0 {
			missed = 0
			continue
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && c.silence.Load() > 0: // which may have been set meanwhile
			if missed++; missed > beatsPerSilence {
				return fmt.Errorf("%w for %v", errSilent, time.Duration(c.silence.Load()))
			}
		case err == io.EOF && got > 0:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return nil
}
