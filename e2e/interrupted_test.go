package e2e

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
)

// long makes a run whose end is far from the steps at which tests interrupt it, even if they are slow to act.
const long = "train.steps=100"

// TestKilled kills a run, with SIGKILL at random steps, and starts the same command again until it is done: it has the bits
// of a run that nobody killed.
func TestKilled(t *testing.T) {
	for i, c := range []struct {
		name  string
		ranks int
		// kill takes something of the job away, which ends all of it.
		kill func(j *job, ranks []process, chance *rand.Rand)
	}{
		{"the whole job", 2, func(j *job, ranks []process, _ *rand.Rand) {
			for _, r := range ranks {
				r.signal(syscall.SIGKILL)
			}
			j.signal(syscall.SIGKILL)
		}},
		{"launch", 2, func(j *job, _ []process, _ *rand.Rand) { j.signal(syscall.SIGKILL) }},
		{"a rank", 4, func(_ *job, ranks []process, chance *rand.Rand) {
			ranks[chance.IntN(len(ranks))].signal(syscall.SIGKILL)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorkspace(t)
			w.launch(1, "want", long).expect(0)
			chance := rand.New(rand.NewPCG(uint64(i), 3))
			for _, within := range []int{2, 10, 20} {
				step := within - chance.IntN(min(within, 8))
				j := w.launch(c.ranks, "out", long)
				j.awaitStep(1)
				ranks := j.ranks(c.ranks)
				if !j.awaitStep(step) {
					t.Fatalf("the run ended before step %d:\n%s", step, j)
				}
				c.kill(j, ranks, chance)
				j.expect(128 + 9)
				for _, r := range ranks {
					r.awaitEnd()
				}
				t.Logf("killed at step %d, after step %d of the run", step, w.metrics("out").last())
			}
			w.launch(c.ranks, "out", long).expect(0).says("the run goes on from a checkpoint")
			w.sameRun("want", "out")
		})
	}
}

// TestKilledAtTheEnd kills a run when its last step is made: while it validates, saves or writes the model, or just after.
func TestKilledAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(1, "want").expect(0)
	for i := range 3 {
		out := fmt.Sprint("out", i)
		j := w.launch(2, out)
		j.awaitStep(1)
		ranks := j.ranks(2)
		if !j.awaitStep(steps) {
			t.Fatalf("the run did not make its last step:\n%s", j)
		}
		j.signal(syscall.SIGKILL)
		j.wait()
		for _, r := range ranks {
			r.awaitEnd() // until then they keep other writers away
		}
		w.launch(2, out).expect(0)
		w.sameRun("want", out)
	}
}

// TestStopped ends a run early by run.stop_step and by SIGTERM, and goes on each time in another layout.
func TestStopped(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	w.launch(1, "want", long).expect(0)

	w.launch(1, "out", long, "run.stop_step=11").expect(0).says("run.stop_step is reached")
	if got := w.metrics("out").last(); got != 11 || w.latest("out") != "step-00000011" {
		t.Errorf("run.stop_step = 11 stopped after step %d with checkpoint %s", got, w.latest("out"))
	}
	if got := w.files("out/model"); len(got) != 0 {
		t.Errorf("a run that is not done has a model: %d files", len(got))
	}

	j := w.launch(4, "out", long)
	if !j.awaitStep(13) {
		t.Fatalf("the run ended by itself:\n%s", j)
	}
	j.signal(syscall.SIGTERM)
	j.expect(0).says("the run goes on from a checkpoint (step: 11)", "the run was told to stop", "launch: terminated: asked ranks 0-3 to finish")
	last := w.metrics("out").last()
	if got, want := w.latest("out"), fmt.Sprintf("step-%08d", last); got != want {
		t.Errorf("told to stop, the run stopped after step %d with checkpoint %s", last, got)
	}

	w.launch(2, "out", long, "run.seed=7").expect(2).says("run.seed was 42, now 7")
	w.launch(2, "out", long).expect(0).says(fmt.Sprintf("the run goes on from a checkpoint (step: %d)", last))
	w.sameRun("want", "out")
	if got, want := w.metrics("out").lines, w.metrics("want").lines; got != want {
		t.Errorf("a run that was stopped and made no step twice has %d lines of metrics, want %d", got, want)
	}

	before := w.files("out")
	w.launch(2, "out", long).expect(0).says("already at train.steps")
	if after := w.files("out"); after["metrics.jsonl"] != before["metrics.jsonl"] || after["model/model.safetensors"] != before["model/model.safetensors"] {
		t.Error("starting a run that is done changed its results")
	}
}

// TestStartedTwice starts a run that is still going: the second start is refused and the first is not disturbed.
func TestStartedTwice(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	first := w.launch(2, "out", endless()...)
	if !first.awaitStep(1) {
		t.Fatalf("the run ended by itself:\n%s", first)
	}
	w.launch(2, "out", endless()...).expect(1).says("another process writes there; stop it, or choose another run.output_dir")
	first.signal(syscall.SIGTERM)
	first.expect(0)
	w.launch(1, "want", endless(fmt.Sprint("run.stop_step=", w.metrics("out").last()))...).expect(0)
	w.sameMetrics("want", "out")
	w.sameState("want", "out")
}
