package e2e

import (
	"fmt"
	"strconv"
	"testing"
)

// TestLayouts runs one configuration on 1 to 8 ranks with 1 or 2 threads each, which share memory; over TCP; in stages of
// a pipeline; and without launch.
func TestLayouts(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(1, "want", "device.threads=1").expect(0)
	first := w.metrics("want")
	if loss, err := first.steps[steps].Loss.Float64(); err != nil || first.last() != steps || loss > 4 {
		t.Fatalf("the run of %d steps ends with %+v; it should have learnt something", steps, first.steps[first.last()])
	}
	for _, l := range []struct{ ranks, threads int }{{1, 2}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {8, 1}, {8, 2}} {
		t.Run(fmt.Sprintf("%d ranks, %d threads", l.ranks, l.threads), func(t *testing.T) {
			w := &workspace{t: t, dir: w.dir}
			out := fmt.Sprintf("%d-%d", l.ranks, l.threads)
			w.launch(l.ranks, out, "device.threads="+strconv.Itoa(l.threads)).expect(0)
			w.sameRun("want", out)
		})
	}
	for _, backend := range []string{"tcp", "shm"} {
		t.Run("4 ranks over "+backend, func(t *testing.T) {
			w := &workspace{t: t, dir: w.dir}
			w.launch(4, backend, "device.threads=1", "collective.backend="+backend).expect(0)
			w.sameRun("want", backend)
		})
	}
	for _, l := range []struct {
		ranks     int
		overrides []string
	}{{4, []string{"parallel.pipeline=2"}}, {2, []string{"parallel.pipeline=2", "parallel.pipeline_schedule=zb-h1", "collective.backend=tcp", "monitor.sample_tokens=8"}}} {
		out := "stages-" + strconv.Itoa(l.ranks)
		t.Run(out, func(t *testing.T) {
			w := &workspace{t: t, dir: w.dir}
			w.launch(l.ranks, out, append(l.overrides, "device.threads=1")...).expect(0)
			w.sameRun("want", out)
		})
	}
	t.Run("alone", func(t *testing.T) {
		w := &workspace{t: t, dir: w.dir}
		w.spmd("run.toml", "run.output_dir=alone").expect(0)
		w.sameRun("want", "alone")
	})
}
