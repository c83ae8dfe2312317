package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFullDisk gives checkpoints a disk with room for one and a half: the run says so and goes on, and the first one is as it was.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	w := newWorkspace(t)
	w.launch(1, "want").expect(0)
	if err := os.MkdirAll(w.path("out", "checkpoints"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none", w.path("out")).CombinedOutput(); err != nil {
		t.Skipf("needs to mount a disk: %v: %s", err, out)
	}
	run := fmt.Sprintf("%s -n 2 %s run.toml run.output_dir=out checkpoint.keep=1", programs.launch, programs.spmd)
	script := "mount -t tmpfs -o size=500k none out/checkpoints && " + run + "; status=$?; cp -r out/checkpoints kept; exit $status"
	start(t, w.dir, "unshare", "-m", "sh", "-c", script).expect(1).
		says("error: a checkpoint failed; the run goes on (error: saving checkpoint out/checkpoints/step-00000006: rank ", "no space left on device",
			"40/40", "spmd: saving checkpoint out/checkpoints/step-00000040: ")
	if files := w.files("kept"); len(files) != 5 || files["latest"] != "step-00000003\n" || files["step-00000003/COMPLETE"] == "" {
		t.Errorf("on the full disk there are %d files; latest is %q", len(files), files["latest"])
	}
	if got := w.metrics("out").last(); got != steps {
		t.Errorf("the run ended after step %d", got)
	}
	if err := os.Remove(w.path("out", "checkpoints")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path("kept"), w.path("out", "checkpoints")); err != nil {
		t.Fatal(err)
	}
	w.launch(2, "out").expect(0).says("the run goes on from a checkpoint (step: 3)")
	w.sameRun("want", "out")
}

// disksOfHosts trains on two hosts that have disks of their own: each keeps what its ranks write, and gets from the other what it
// needs to go on.
func disksOfHosts(t *testing.T, c *cluster) {
	w := newWorkspace(t)
	w.launch(4, "want").expect(0)
	for _, dir := range []string{"out", "other"} {
		if err := os.Mkdir(w.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.port = "2223"
	c.startSSHD(2, fmt.Sprintf("mount --bind %s %s;", w.path("other"), w.path("out")))
	has := func(dir, step string, states ...string) {
		t.Helper()
		found, err := filepath.Glob(w.path(dir, "checkpoints", step, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		if want := append([]string{"COMPLETE", "manifest.json"}, states...); !slices.Equal(found, want) {
			t.Errorf("%s in %s has %v, want %v", step, dir, found, want)
		}
	}
	c.launch(w, 2, "out", "run.stop_step=10").expect(0)
	has("out", "step-00000010", "state-00000.safetensors", "state-00001.safetensors")
	has("other", "step-00000010", "state-00002.safetensors", "state-00003.safetensors")
	c.launch(w, 2, "out", "run.stop_step=25", "parallel.tensor=2", "run.output_dir=out").expect(0).says("the run goes on from a checkpoint (step: 10)")
	c.launch(w, 2, "out").expect(0).says("the run goes on from a checkpoint (step: 25)")
	if got := w.metrics("out").last(); got != steps {
		t.Errorf("the last step is %d", got)
	}
	w.spmd("generate", "out/model", "--prompt", "the ", "--tokens", "4").expect(0).says("the ")
	w.spmd("export", "out", "exported").expect(2).says("state-00002.safetensors is missing")

	if err := os.Remove(w.path("other", "checkpoints", "step-00000040", "state-00003.safetensors")); err != nil {
		t.Fatal(err)
	}
	j := c.launch(w, 2, "out", "train.steps=41").expect(0)
	j.says("step-00000040: state-00003.safetensors: missing on all hosts of this job", "the run goes on from a checkpoint (step: 39)")
	for _, dir := range []string{"out", "other"} {
		for name := range w.files(dir) {
			if strings.Contains(name, ".partial") {
				t.Errorf("%s is left in %s", name, dir)
			}
		}
	}
	w.nothingLeft()
}
