package collective

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// TestHeartbeatBeforeTable lets a heartbeat overtake the answer to a join, as it does where the table takes long to write.
func TestHeartbeatBeforeTable(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		for _, b := range [][]byte{{0, 0, 0, 0}, {0, 0}, {0, 0}} {
			if _, err := there.Write(b); err != nil {
				t.Error(err)
			}
		}
		if err := writeMessage(there, message{Kind: kindTable, Size: 7}); err != nil {
			t.Error(err)
		}
	}()
	w := &World{o: Options{Timeout: time.Minute}, control: &controlConn{Conn: here}}
	if m, err := w.await(context.Background()); err != nil || m.Size != 7 {
		t.Errorf("got %+v, %v", m, err)
	}
}

// TestSilenceWhileReceiving begins to count silence while a receive already waits.
func TestSilenceWhileReceiving(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c, received := &controlConn{Conn: here}, make(chan error)
	go func() {
		_, err := c.receive()
		received <- err
	}()
	c.listenFor(20 * time.Millisecond)
	if err := <-received; !errors.Is(err, errSilent) {
		t.Errorf("got %v", err)
	}
}

// A halfWriter writes a part of what it is given and fails.
type halfWriter struct{ net.Conn }

func (h halfWriter) Write(b []byte) (int, error) { return len(b) / 2, errors.New("no more") }

// TestPartialWriteEndsConnection checks that nothing follows a message of which only a part could be written.
func TestPartialWriteEndsConnection(t *testing.T) {
	here, there := net.Pipe()
	c := &controlConn{Conn: halfWriter{here}}
	if err := c.send(message{Kind: kindGoodbye}); err == nil {
		t.Error("half a message was sent")
	}
	if _, err := there.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}
