package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"lockstep/spmd/bench"
)

// TestBench measures collectives as a user does, with processes, over both transports.
func TestBench(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	for _, transport := range []string{"--backend=tcp", "--backend=shm", "--backend=tcp --tls"} {
		args := []string{"-n", "3", programs.spmd, "bench", "collective", "--json", "--iterations", "2", "--sizes", "1KiB,100000"}
		out := start(t, w.dir, programs.launch, append(args, strings.Fields(transport)...)...).expect(0).out.String()
		seen := map[string]int{}
		for line := range strings.Lines(out) {
			var row bench.Row
			_, object, found := strings.Cut(line, "{")
			if err := json.Unmarshal([]byte("{"+object), &row); !found || err != nil || row.Ranks != 3 || row.MedianUS <= 0 {
				t.Fatalf("%s: %q: %v", transport, line, err)
			}
			seen[row.Operation]++
		}
		for _, name := range bench.Operations() {
			if n := seen[name]; n != 2 && !(name == "barrier" && n == 1) {
				t.Errorf("%s: %s was measured %d times", transport, name, n)
			}
		}
	}
	plan := w.spmd("bench", "collective", "--plan", "--ranks", "16", "--hosts", "2").expect(0).out.String()
	if !strings.Contains(plan, "two-level") {
		t.Errorf("the plan has no two-level algorithm:\n%s", plan)
	}
	for _, wrong := range [][]string{{}, {"memory"}, {"collective", "--sizes", "1XB"}, {"collective", "--operations", "all-reduce,sum"}, {"collective", "--algorithm", "best"}, {"collective", "--plan"}} {
		w.spmd(append([]string{"bench"}, wrong...)...).expect(2)
	}
}
