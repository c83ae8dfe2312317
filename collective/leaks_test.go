package collective

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstep/kernels/device"
)

var failures = flag.Int("failures", 60, "how many jobs TestManyFailures lets fail")

// TestManyFailures lets many jobs fail, a thousand of them in .ci/run, each in one of the ways that there are, with operations pending on
// several groups: all ranks learn the cause, and afterwards no goroutine, descriptor or mapping of shared memory is left.
func TestManyFailures(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	fail := []func(j *testJob){
		func(j *testJob) { j.worlds[1].die() },
		func(j *testJob) { j.worlds[1].Abort(errors.New("no luck")) },
		func(j *testJob) { j.root.Lost(1, "killed by signal 9") },
		func(j *testJob) { j.root.Close() },
	}
	leave := func(j *testJob) { j.worlds[1].Close() } // in good order but early: nobody dies, so that takes a while to find

	var before resources
	for round := range *failures {
		t.Run("", func(t *testing.T) {
			tcp := round%2 == 0
			j := newJob(t, 3, func(r *RootOptions, o *Options) {
				r.Supervised = false
				if tcp {
					o.Backend = BackendTCP
				}
				o.Timeout = time.Second
				r.Timeout = time.Minute
			})
			first, second := j.groups("a"), j.groups("b")
			end, how := leave, chance.IntN(len(fail))
			if round%50 != 0 {
				end = fail[how]
			}
			events := []device.Event{
				first[0].AllReduce(memory(make([]byte, 1<<10)), sum32(), device.Event{}), second[0].AllReduce(memory(make([]byte, 1<<16)), sum32(), device.Event{}),
				first[2].AllReduce(memory(make([]byte, 1<<10)), sum32(), device.Event{}), second[2].AllReduce(memory(make([]byte, 1<<16)), sum32(), device.Event{}),
			}
			end(j)
			for i, e := range events {
				if err := e.Synchronize(); err == nil {
					t.Errorf("round %d: operation %d succeeded without rank 1 (in way %d)", round, i, how)
				}
			}
		})
		if round == 10 { // what the runtime itself keeps is there by now
			before = held(t)
		}
	}
	nothingRuns(t)
	for deadline := time.Now().Add(10 * time.Second); held(t).exceed(before); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v after the first rounds, %+v at the end", before, held(t))
		}
	}
}

// resources are what a process can leak. The runtime's own mappings come and go, so only those of memory files count.
type resources struct{ goroutines, descriptors, mappings int }

func (r resources) exceed(before resources) bool {
	return r.goroutines > before.goroutines || r.descriptors > before.descriptors || r.mappings > before.mappings
}

// held counts this process's resources.
func held(t *testing.T) resources {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return resources{runtime.NumGoroutine(), len(open), strings.Count(string(maps), "/memfd:lockstep")}
}
