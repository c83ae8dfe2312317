package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endless returns the overrides that make a run go on until something ends it, and more.
func endless(more ...string) []string {
	return append([]string{"train.steps=100000", "lr_schedule.type=constant"}, more...)
}

// TestLostRank kills one of four ranks in training: the others end at once, with a message that names it, and nothing is left.
func TestLostRank(t *testing.T) {
	w := newWorkspace(t)
	sharedBefore := sharedMemory(t)
	j := w.launch(4, "out", endless()...)
	if !j.awaitStep(5) {
		t.Fatalf("the run ended by itself:\n%s", j)
	}
	ranks := j.ranks(4)
	killed := time.Now()
	ranks[2].signal(syscall.SIGKILL)
	j.expect(128 + 9)
	elapsed := time.Since(killed)
	t.Logf("the job ended %v after the loss of a rank", elapsed)
	if elapsed > 10*time.Second {
		t.Errorf("the job ended %v after the loss of a rank", elapsed)
	}
	for _, r := range ranks {
		if !r.ended(0) {
			t.Errorf("rank %d (process %d) is left", r.rank, r.pid)
		}
	}
	if after := sharedMemory(t); !slices.Equal(sharedBefore, after) {
		t.Errorf("shared memory before the run: %v, after it: %v", sharedBefore, after)
	}
	report := j.err.String()
	_, report, _ = strings.Cut(report, "launch: ")
	if !strings.HasPrefix(report, "rank 2 failed first: killed by signal 9 (SIGKILL)\n") {
		t.Errorf("launch does not begin with rank 2's end:\n%s", j.err)
	}
	for _, r := range []int{0, 1, 3} {
		own := fmt.Sprintf("launch: rank %d failed as well: exit status 1: spmd: ", r)
		_, message, _ := strings.Cut(report, own)
		message, _, _ = strings.Cut(message, "\n")
		log := w.files("out/logs")[fmt.Sprintf("rank-%05d.log", r)]
		for what, text := range map[string]string{"message": message, "log": log} {
			if !strings.Contains(text, "rank 2 was lost: killed by signal 9") {
				t.Errorf("the %s of rank %d does not say that rank 2 was lost: %q; launch wrote:\n%s", what, r, text, j.err)
			}
		}
	}
	// What is left behind does not stand in the way of the next start.
	w.launch(4, "out", endless(fmt.Sprint("run.stop_step=", w.metrics("out").last()+1))...).expect(0)
}

// sharedMemory lists what is in /dev/shm.
func sharedMemory(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/dev/shm")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestSuspendedRank suspends one of four ranks: no process has died and no connection has ended, so only the time limit can
// end the job; it names the rank, and the suspended process ends too.
func TestSuspendedRank(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	j := w.launch(4, "out", endless("collective.timeout=1s")...)
	if !j.awaitStep(5) {
		t.Fatalf("the run ended by itself:\n%s", j)
	}
	ranks := j.ranks(4)
	ranks[1].signal(syscall.SIGSTOP)
	j.expect(1).says("no progress for 1s in ", "rank 1 does not answer (stopped, or its process is stuck)", "launch: rank 1 failed first: ")
	for _, r := range ranks {
		if !r.ended(0) {
			t.Errorf("rank %d (process %d) is left", r.rank, r.pid)
		}
	}
}

// TestFailingRun lets the loss become infinite: that is a failure while running, with status 1 and a remedy.
func TestFailingRun(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(2, "out", "optimizer.lr=1e30", "train.clip_grad_norm=0").expect(1).says("the loss is", "lower optimizer.lr")
	if last := w.metrics("out").last(); last < 1 || last >= steps {
		t.Errorf("the last row is of step %d", last)
	}
}
