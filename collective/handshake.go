package collective

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The handshake proves to both ends of a connection that the other knows the job's secret, before either acts on anything
// that it receives. It is a mutual challenge-response:
//
//	dialer   -> hello:     magic, version, purpose, epoch, both ranks, group, the dialer's nonce
//	listener -> challenge: magic, version, the listener's nonce, HMAC-SHA256(secret, "listener", job, hello, nonce)
//	dialer   -> proof:     HMAC-SHA256(secret, "dialer", job, hello, nonce)
//	listener -> verdict:   a control message, admitted or refused with the reason
//
// Both codes cover everything said so far, and the TLS session if there is one (see secure.go), so that none can be replayed on
// another connection, to another rank, in another job or epoch, or as the other side's. Messages before the verdict have fixed sizes.
const (
	protocolVersion = 2
	nonceBytes      = 32
	helloBytes      = 4 + 1 + 1 + 4 + 4 + 4 + 8 + nonceBytes
	challengeBytes  = 4 + 1 + nonceBytes + sha256.Size
	proofBytes      = sha256.Size

	// handshakeTimeout bounds the whole handshake. A rank answers within milliseconds; the rest is for busy machines, such as
	// one on which a large job is tried out.
	handshakeTimeout = 20 * time.Second
)

// magic starts the first message of each side.
const magic = "LKST"

// rootRank stands for the root where a rank is meant.
const rootRank = -1

// A purpose says what a connection is for.
type purpose uint8

const (
	purposeControl purpose = iota + 1 // rank to root, one for each rank
	purposeData                       // rank to rank, one for each pair in each group
	purposeMemory                     // rank to rank on one host, to exchange memory files
	purposeRelay                      // relay to root or to another relay, one for each host; the rank is the host's number
)

// credentials are what a process must know to be of the job.
type credentials struct {
	job    string
	epoch  uint32
	secret []byte
	secure bool // whether dial uses TLS
}

// A hello is the dialer's first message: who it is and whom it wants to reach.
type hello struct {
	purpose  purpose
	epoch    uint32
	from, to int32
	group    uint64 // the group whose data the connection carries, or the exchange of memory; 0 for control
	nonce    [nonceBytes]byte
}

func (h *hello) encode() []byte {
	b := make([]byte, 0, helloBytes)
	b = append(b, magic...)
	b = append(b, protocolVersion, byte(h.purpose))
	b = binary.BigEndian.AppendUint32(b, h.epoch)
	b = binary.BigEndian.AppendUint32(b, uint32(h.from))
	b = binary.BigEndian.AppendUint32(b, uint32(h.to))
	b = binary.BigEndian.AppendUint64(b, h.group)
	return append(b, h.nonce[:]...)
}

// parseHello decodes helloBytes bytes from an unknown sender.
func parseHello(b []byte) (hello, error) {
	if err := checkPreamble(b, helloBytes); err != nil {
		return hello{}, err
	}
	h := hello{
		purpose: purpose(b[5]),
		epoch:   binary.BigEndian.Uint32(b[6:]),
		from:    int32(binary.BigEndian.Uint32(b[10:])),
		to:      int32(binary.BigEndian.Uint32(b[14:])),
		group:   binary.BigEndian.Uint64(b[18:]),
	}
	copy(h.nonce[:], b[26:])
	if h.purpose < purposeControl || h.purpose > purposeRelay {
		return hello{}, fmt.Errorf("unknown purpose %d", h.purpose)
	}
	if h.from < 0 || h.to < rootRank {
		return hello{}, fmt.Errorf("impossible ranks %d and %d", h.from, h.to)
	}
	return h, nil
}

func checkPreamble(b []byte, size int) error {
	switch {
	case len(b) != size:
		return fmt.Errorf("a message of %d bytes where %d were expected", len(b), size)
	case string(b[:4]) != magic:
		return errors.New("the other side does not speak Lockstep's protocol")
	case b[4] != protocolVersion:
		return fmt.Errorf("the other side speaks version %d of the protocol, this one %d; use one version of lockstep for all ranks", b[4], protocolVersion)
	}
	return nil
}

// code authenticates one side ("dialer" or "listener") of the handshake that began with the encoded hello.
func (c *credentials) code(side string, hello, nonce, binding []byte) []byte {
	m := hmac.New(sha256.New, c.secret)
	for _, part := range [][]byte{[]byte("lockstep handshake"), []byte(side), []byte(c.job), hello, nonce, binding} {
		// Lengths keep two different lists of parts from being the same bytes.
		m.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		m.Write(part)
	}
	return m.Sum(nil)
}

// errNoAnswer marks a connection that ended before the listener said anything. A listener that is flooded by strangers
// drops connections so; the dialer may try again.
var errNoAnswer = errors.New("no answer")

// greet is the dialer's side of the handshake. A refusal is a *RefusedError.
func (c *credentials) greet(conn net.Conn, h hello) error {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	h.epoch = c.epoch
	if _, err := rand.Read(h.nonce[:]); err != nil {
		return fmt.Errorf("making a nonce: %w", err)
	}
	first := h.encode()
	var challenge [challengeBytes]byte
	if _, err := conn.Write(first); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if _, err := io.ReadFull(conn, challenge[:]); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if err := checkPreamble(challenge[:], challengeBytes); err != nil {
		return err
	}
	nonce, code := challenge[5:5+nonceBytes], challenge[5+nonceBytes:]
	if !hmac.Equal(code, c.code("listener", first, nonce, bindingOf(conn))) {
		return fmt.Errorf("the process listening there does not know the secret of job %q", c.job)
	}
	if _, err := conn.Write(c.code("dialer", first, nonce, bindingOf(conn))); err != nil {
		return err
	}
	verdict, err := readMessage(conn)
	if err != nil {
		return fmt.Errorf("reading the verdict: %w", err)
	}
	if verdict.Kind != kindAdmitted {
		return &RefusedError{Rank: int(h.from), Reason: verdict.Cause}
	}
	return conn.SetDeadline(time.Time{})
}

// examine is the listener's side of the handshake for the process of rank self, up to the proof; the verdict is the
// caller's. It leaves the deadline in place.
func (c *credentials) examine(conn net.Conn, self int32) (hello, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return hello{}, err
	}
	var first [helloBytes]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return hello{}, fmt.Errorf("it sent no complete hello: %w", err)
	}
	h, err := parseHello(first[:])
	if err != nil {
		return hello{}, err
	}
	if h.to != self || h.epoch != c.epoch {
		return hello{}, fmt.Errorf("it wants rank %d of epoch %d, this is rank %d of epoch %d", h.to, h.epoch, self, c.epoch)
	}
	var nonce [nonceBytes]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return hello{}, fmt.Errorf("making a nonce: %w", err)
	}
	challenge := append([]byte(magic), protocolVersion)
	challenge = append(challenge, nonce[:]...)
	challenge = append(challenge, c.code("listener", first[:], nonce[:], bindingOf(conn))...)
	if _, err := conn.Write(challenge); err != nil {
		return hello{}, err
	}
	var proof [proofBytes]byte
	if _, err := io.ReadFull(conn, proof[:]); err != nil {
		return hello{}, fmt.Errorf("it sent no proof that it knows the secret: %w", err)
	}
	if !hmac.Equal(proof[:], c.code("dialer", first[:], nonce[:], bindingOf(conn))) {
		return hello{}, errors.New("it does not know the job's secret")
	}
	return h, nil
}
