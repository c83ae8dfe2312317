package collective

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Where the network between hosts is not trusted, connections run inside TLS 1.3. Each process makes a certificate of its own
// for the job, which nobody checks: what proves that both ends are of the job is the handshake with the secret, which then runs
// inside TLS and is bound to it. Its codes cover a value that both ends derive from the TLS session (RFC 9266 calls it the
// exporter), so that somebody in the middle, with one session to each end, cannot pass the codes on.

// A tlsMode says which connections an acceptor lets in.
type tlsMode int

const (
	tlsNever  tlsMode = iota
	tlsAlways         // refuses others
	tlsEither         // as the dialer likes: its first byte tells
)

// tlsRecord is the first byte of a TLS connection; the handshake without TLS begins with magic.
const tlsRecord = 0x16

// A secureConn is a connection inside TLS.
type secureConn struct {
	*tls.Conn
	binding []byte
}

// bindingOf returns what the handshake on a connection is bound to; nothing without TLS.
func bindingOf(conn net.Conn) []byte {
	if s, ok := conn.(*secureConn); ok {
		return s.binding
	}
	return nil
}

// newCertificate makes a certificate for an acceptor.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// secureDialed starts TLS on a connection that this process has dialled.
func secureDialed(conn net.Conn) (net.Conn, error) {
	// See above for what is checked in place of the certificate.
	return secured(conn, tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}))
}

// secureAccepted starts TLS on a connection that the acceptor has accepted, as its mode says.
func (a *acceptor) secureAccepted(conn net.Conn) (net.Conn, error) {
	if a.tls == tlsNever {
		return conn, nil
	}
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	begun := &begunConn{Conn: conn}
	if _, err := io.ReadFull(conn, begun.first[:]); err != nil {
		return nil, fmt.Errorf("it sent no complete hello: %w", err)
	}
	if begun.first[0] != tlsRecord {
		if a.tls == tlsEither {
			return begun, nil
		}
		return nil, errors.New("it does not use TLS, which this job requires")
	}
	own, err := a.certificate()
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return secured(conn, tls.Server(begun, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, SessionTicketsDisabled: true}))
}

func secured(conn net.Conn, inside *tls.Conn) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	if err := inside.Handshake(); err != nil {
		return nil, fmt.Errorf("starting TLS: %w", err)
	}
	state := inside.ConnectionState()
	binding, err := state.ExportKeyingMaterial("EXPORTER-Lockstep", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("starting TLS: %w", err)
	}
	return &secureConn{inside, binding}, nil
}

// A begunConn is a connection of which the first byte has been read.
type begunConn struct {
	net.Conn
	first [1]byte
	taken bool
}

func (c *begunConn) Read(p []byte) (int, error) {
	if c.taken || len(p) == 0 {
		return c.Conn.Read(p)
	}
	c.taken = true
	return copy(p, c.first[:]), nil
}

// bridge returns a descriptor of a socket whose other end is the connection: a link reads and writes descriptors, and TLS is
// code of this process, so two goroutines carry the data between them. They end when either end does.
func bridge(conn *secureConn) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	file := os.NewFile(uintptr(pair[1]), "bridge")
	near, err := net.FileConn(file)
	file.Close()
	if err != nil {
		unix.Close(pair[0])
		return 0, err
	}
	carry := func(to, from net.Conn) {
		buffer := make([]byte, bridgeBytes)
		// How it ends is for the link to find out: it reads the end of the connection.
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer)
		near.Close()
		conn.Close()
	}
	go carry(near, conn)
	go carry(conn, near)
	return pair[0], nil
}

// bridgeBytes is how much a bridge carries at once: some TLS records.
const bridgeBytes = 128 << 10
