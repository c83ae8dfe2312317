package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStrangers connects to launch and to every rank while a run is going. Each stranger is refused, which is logged, and
// the run has the bits of one that was left in peace.
func TestStrangers(t *testing.T) {
	t.Parallel()
	const size = 4
	w := newWorkspace(t)
	j := w.launch(size, "out", endless()...)
	if !j.awaitStep(2) {
		t.Fatalf("the run ended by itself:\n%s", j)
	}
	var strangers, silent []*stranger
	for _, d := range doors(t, j, size) {
		strangers = append(strangers,
			d.visit(t, "random bytes", randomBytes(4096)),
			d.visit(t, "another protocol", []byte("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")),
			d.visit(t, "a wrong secret", append(d.hello(1), randomBytes(32)...)))
		for range 3 {
			silent = append(silent, d.visit(t, "silence", nil))
		}
	}
	for _, s := range strangers {
		s.awaitEnd()
	}
	// Those that say nothing stay while the run goes on, and are refused when they leave.
	if !j.awaitStep(w.metrics("out").last() + 5) {
		t.Fatalf("the run ended with its strangers:\n%s", j)
	}
	for _, s := range silent {
		s.leave()
		s.awaitEnd()
	}
	j.signal(syscall.SIGTERM)
	j.expect(0)
	for _, s := range append(strangers, silent...) {
		s.checkRefusal(w, j)
	}

	last := w.metrics("out").last()
	w.launch(1, "want", endless(fmt.Sprint("run.stop_step=", last))...).expect(0)
	w.sameMetrics("want", "out")
	w.sameState("want", "out")
	t.Logf("%d strangers in %d steps", len(strangers)+len(silent), last)
}

// TestFlood opens connections by the thousand, at launch and at every rank, that stop in the middle of a hello or after it. All are
// refused and counted, and the run goes on.
func TestFlood(t *testing.T) {
	t.Parallel()
	const size, connections = 2, 1500
	w := newWorkspace(t)
	j := w.launch(size, "out", endless("collective.backend=tcp")...)
	if !j.awaitStep(2) {
		t.Fatalf("the run ended by itself:\n%s", j)
	}
	places := doors(t, j, size)
	for i := range connections {
		d := places[i%len(places)]
		s := d.visit(t, "a flood", d.hello(1)[:i%40])
		if i >= connections/2 {
			s.conn.Close() // of the others as many stay open as the doors let
		}
	}
	before := w.metrics("out").last()
	if !j.awaitStep(before + 20) {
		t.Fatalf("the run ended in the flood:\n%s", j)
	}
	j.signal(syscall.SIGTERM)
	j.expect(0).says("refused connections, so far 256,")
	w.launch(1, "want", endless(fmt.Sprint("run.stop_step=", w.metrics("out").last()))...).expect(0)
	w.sameMetrics("want", "out")
}

// A door is an address at which a process of the job listens.
type door struct {
	rank    int // of the rank, -1 for launch
	address string
}

// doors finds the one door of launch and of each rank.
func doors(t *testing.T, j *job, size int) []door {
	t.Helper()
	pids := []int{j.cmd.Process.Pid}
	for _, r := range j.ranks(size) {
		pids = append(pids, r.pid)
	}
	var found []door
	for i, pid := range pids {
		addresses := listening(t, pid)
		if len(addresses) != 1 {
			t.Fatalf("process %d listens at %v, want one address", pid, addresses)
		}
		found = append(found, door{rank: i - 1, address: addresses[0]})
	}
	return found
}

// hello returns a well-formed first message of the handshake (collective/handshake.go) in the name of a rank.
func (d door) hello(from uint32) []byte {
	const version, control, data, epoch, group = 2, 1, 2, 0, 7
	purpose := byte(data)
	if d.rank < 0 {
		purpose = control
	}
	b := append([]byte("LKST"), version, purpose)
	b = binary.BigEndian.AppendUint32(b, epoch)
	b = binary.BigEndian.AppendUint32(b, from)
	b = binary.BigEndian.AppendUint32(b, uint32(d.rank))
	b = binary.BigEndian.AppendUint64(b, group)
	return append(b, randomBytes(32)...) // the nonce
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	chance := rand.NewPCG(6, uint64(n))
	for i := range b {
		b[i] = byte(chance.Uint64())
	}
	return b
}

// A stranger is a connection that does not belong to the job.
type stranger struct {
	t    *testing.T
	what string
	door door
	conn net.Conn
}

// visit connects and says something.
func (d door) visit(t *testing.T, what string, text []byte) *stranger {
	t.Helper()
	conn, err := net.Dial("tcp", d.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &stranger{t: t, what: what, door: d, conn: conn}
	// The other side may already have closed: what it has heard was enough.
	if _, err := conn.Write(text); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%s to %s: %v", what, d.address, err)
	}
	return s
}

// leave says that nothing more will come.
func (s *stranger) leave() {
	s.t.Helper()
	if err := s.conn.(*net.TCPConn).CloseWrite(); err != nil {
		s.t.Errorf("%s to %s: %v", s.what, s.door.address, err)
	}
}

// awaitEnd returns when the other side has closed the connection. It has then logged the refusal.
func (s *stranger) awaitEnd() {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s.conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		s.t.Fatalf("%s to %s is not refused: %v", s.what, s.door.address, err)
	}
}

// checkRefusal looks for the refusal: launch shows it, a rank has it in its log.
func (s *stranger) checkRefusal(w *workspace, j *job) {
	s.t.Helper()
	reason := map[string]string{
		"random bytes": "the other side does not speak Lockstep's protocol", "another protocol": "the other side does not speak Lockstep's protocol",
		"a wrong secret": "it does not know the job's secret", "silence": "it sent no complete hello",
	}[s.what]
	log, from := j.err.String(), "refused a connection, from "+s.conn.LocalAddr().String()+","
	if s.door.rank >= 0 {
		text, err := os.ReadFile(w.path("out", "logs", fmt.Sprintf("rank-%05d.log", s.door.rank)))
		if err != nil {
			s.t.Fatal(err)
		}
		log, from = string(bytes.TrimSpace(text)), `msg="refused a connection" from=`+s.conn.LocalAddr().String()+" "
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, from) && strings.Contains(line, reason) {
			return
		}
	}
	s.t.Errorf("%s to %s (rank %d): no line with %q and %q in:\n%s", s.what, s.door.address, s.door.rank, from, reason, log)
}
