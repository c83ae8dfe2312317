package collective

import (
	"os"
	"runtime"
	"testing"
)

// TestMain gives Go enough processors that the ranks of a test, which wait for one another in system calls, are scheduled
// by the kernel, as processes are.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(64)
	os.Exit(m.Run())
}
