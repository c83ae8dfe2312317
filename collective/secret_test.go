package collective

import (
	"os"
	"syscall"
	"testing"
)

// pipeWith returns a descriptor from which secret is read.
func pipeWith(t *testing.T, secret []byte) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	if _, err := w.Write(secret); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(r.Fd())) // ReadSecret closes what it is given
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
