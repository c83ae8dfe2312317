package collective

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Control messages are rare and small; they are JSON, each after its length in four bytes (big endian).
const (
	maxMessageBytes = 1 << 20
	maxCauseBytes   = 8 << 10
	maxFacts        = 256
)

// A messageKind names a control message.
type messageKind string

const (
	kindAdmitted messageKind = "admitted" // listener: the handshake succeeded
	kindRefused  messageKind = "refused"  // listener: Cause says why it did not; root: the job did not form
	kindJoin     messageKind = "join"     // rank: Size, Address, Local, Facts
	kindTable    messageKind = "table"    // root: Addresses and Locals of all ranks; the job has formed
	kindLost     messageKind = "lost"     // root: Rank was lost, Cause says why
	kindTimeout  messageKind = "timeout"  // root: Ranks have not arrived, Cause is the report
	kindAbort    messageKind = "abort"    // rank: it will end, Cause says why
	kindGoodbye  messageKind = "goodbye"  // rank: it is done; its connection may close
	kindStall    messageKind = "stall"    // rank: Stall made no progress for the time in Cause
	kindQuery    messageKind = "query"    // root: what are you doing?
	kindStatus   messageKind = "status"   // rank: Operations, one for each of its groups
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
	Addresses  []string          `json:"addresses,omitempty"`
	Locals     []string          `json:"locals,omitempty"`
	Stall      *operation        `json:"stall,omitempty"`
	Operations []operation       `json:"operations,omitempty"`
}

// An operation is where a rank stands in one of its groups.
type operation struct {
	Group    uint64 `json:"group"`    // the group's identifier
	Sequence uint64 `json:"sequence"` // the number of the operation entered last
	Name     string `json:"name"`     // such as "all-reduce 17 of group data (1.2 MB)"
	Inside   bool   `json:"inside"`   // whether the rank is still in it
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

// controlWriteTimeout bounds the writing of a control message. They are small enough for the socket's buffer, so that
// writing waits only when the other side has not read for long.
const controlWriteTimeout = 2 * time.Second

// A controlConn is one end of a control connection. Several goroutines may send; one receives.
type controlConn struct {
	net.Conn
	mu sync.Mutex
}

func (c *controlConn) send(m message) error {
	b, err := encodeMessage(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(controlWriteTimeout)); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}
