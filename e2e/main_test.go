package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// programs are the binaries under test. TestMain sets them before the tests start.
var programs struct{ launch, spmd string }

// TestMain builds both programs once.
func TestMain(m *testing.M) {
	status, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

func buildAndRun(m *testing.M) (status int, err error) {
	dir, err := os.MkdirTemp("", "lockstep-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	build := exec.Command("go", "build", "-o", dir+"/", "lockstep/launch", "lockstep/spmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building launch and spmd: %w\n%s", err, out)
	}
	programs.launch, programs.spmd = filepath.Join(dir, "launch"), filepath.Join(dir, "spmd")
	return m.Run(), nil
}
