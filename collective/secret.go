package collective

import (
	"fmt"
	"io"
	"os"
)

// SecretSize is the length of a job's secret in bytes.
const SecretSize = 32

// ReadSecret reads the job's secret from an inherited descriptor (Place.SecretFD) and closes it. The descriptor is the
// read end of a pipe, one for each rank: launch writes the SecretSize bytes and closes its end, so that the secret is in
// no argument, no environment and no file.
func ReadSecret(fd int) ([]byte, error) {
	f := os.NewFile(uintptr(fd), "job secret")
	if f == nil {
		return nil, fmt.Errorf("reading the job's secret: %d is no descriptor; start ranks with launch", fd)
	}
	defer f.Close()
	secret := make([]byte, SecretSize)
	// Not to the end of the pipe: that would wait for whoever else holds the other end.
	if n, err := io.ReadFull(f, secret); err != nil {
		return nil, fmt.Errorf("reading the job's secret from descriptor %d: got %d of %d bytes: %w; start ranks with launch", fd, n, SecretSize, err)
	}
	return secret, nil
}
