package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestHosts trains on hosts with real sshds between them, and breaks what can break: whatever happens, every rank ends with
// an error that names the culprit, and nothing is left on any host.
func TestHosts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	for name, test := range map[string]func(t *testing.T, c *cluster){
		"same bits": sameBitsOnHosts, "stop": stopOnHosts, "agent killed": agentKilled, "launch killed": launchKilled,
		"partition": partition, "agent stopped": agentStopped, "rank killed": rankKilledElsewhere, "files differ": filesDiffer,
		"disks": disksOfHosts, "layouts": layoutsOnHosts,
	} {
		t.Run(name, func(t *testing.T) {
			own := *c
			own.t = t
			test(t, &own)
		})
	}
}

func sameBitsOnHosts(t *testing.T, c *cluster) {
	w := newWorkspace(t)
	w.launch(4, "want").expect(0)
	c.launch(w, 2, "got").expect(0)
	w.sameRun("want", "got")
	c.launch(w, 1, "secure", "collective.tls=true").expect(0)
	w.sameRun("want", "secure")
	w.nothingLeft()
}

// layoutsOnHosts spreads experts, stages of a pipeline, and all that ZeRO shares over two hosts, and compares with the same on one.
func layoutsOnHosts(t *testing.T, c *cluster) {
	w := newWorkspace(t)
	w.launch(1, "want").expect(0)
	for out, overrides := range map[string][]string{
		"zero": {"parallel.zero_stage=3"}, "stages": {"parallel.pipeline=2", "parallel.pipeline_schedule=zb-h1"},
		"stages and zero": {"parallel.pipeline=2", "parallel.zero_stage=2"},
	} {
		c.launch(w, 2, out, overrides...).expect(0)
		w.sameRun("want", out)
	}
	w.write("run.toml", strings.Replace(configuration, `model_type = "llama"`, `model_type = "qwen3_moe"
num_experts = 8
num_experts_per_tok = 2
moe_intermediate_size = 16`, 1))
	spread := func(out string, overrides ...string) { // each token's experts are on any rank
		overrides = append(overrides, "parallel.expert=4", "moe.dispatch_factor=1")
		w.launch(4, out, overrides...).expect(0)
		c.launch(w, 2, out+" on hosts", overrides...).expect(0)
		w.sameRun(out, out+" on hosts")
	}
	spread("experts")
	spread("experts and zero", "parallel.tensor=2", "parallel.zero_stage=1")
	w.launch(1, "alone").expect(0)
	w.nearLosses("alone", "experts on hosts", 2e-5)
	w.nothingLeft()
}

// TestFourHosts is for the tree of relays and a rank on each host.
func TestFourHosts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	w := newWorkspace(t)
	w.launch(1, "want").expect(0)
	c.launch(w, 1, "got").expect(0)
	w.sameRun("want", "got")
	w.nothingLeft()
}

// training starts an endless run on all hosts, with two ranks on each, and returns when it has made some steps.
func training(t *testing.T, c *cluster) (*workspace, *job) {
	t.Helper()
	w := newWorkspace(t)
	j := c.launch(w, 2, "out", endless("collective.heartbeat_timeout=1s")...)
	if !j.awaitStep(3) {
		t.Fatalf("the run ended by itself:\n%s", j)
	}
	return w, j
}

// everyRankSays fails the test unless the log of each rank holds one of the texts.
func everyRankSays(w *workspace, ranks []int, texts ...string) {
	w.t.Helper()
	logs := w.files("out/logs")
	for _, rank := range ranks {
		log, found := logs[fmt.Sprintf("rank-%05d.log", rank)], false
		for _, text := range texts {
			found = found || strings.Contains(log, text)
		}
		if !found {
			w.t.Errorf("rank %d says none of %q:\n%s", rank, texts, log)
		}
	}
}

func stopOnHosts(t *testing.T, c *cluster) {
	w, j := training(t, c)
	j.signal(syscall.SIGINT)
	j.expect(0).says("asked ranks 0-3 to finish")
	w.nothingLeft()
	if last := w.metrics("out").last(); !strings.HasSuffix(w.latest("out"), fmt.Sprintf("%08d", last)) {
		t.Errorf("the last step is %d, the last checkpoint %s", last, w.latest("out"))
	}
}

func agentKilled(t *testing.T, c *cluster) {
	w, j := training(t, c)
	c.signal(c.agentOf(w, 2), syscall.SIGKILL)
	j.expect(1).says("launch: rank 2 on 10.77.0.2 failed first: lost with its host: ")
	w.nothingLeft()
	everyRankSays(w, []int{0, 1}, "rank 2 was lost: host 10.77.0.2 (ranks 2 and 3) was lost: ")
}

func launchKilled(t *testing.T, c *cluster) {
	w, j := training(t, c)
	j.signal(syscall.SIGKILL)
	j.expect(128 + 9)
	w.nothingLeft()
	everyRankSays(w, []int{2, 3}, "cut off from launch")
}

func partition(t *testing.T, c *cluster) {
	w, j := training(t, c)
	c.link(2, "down")
	j.expect(1).says("rank 2 on 10.77.0.2 failed first", "nothing was heard of it for 1s")
	w.nothingLeft()
	c.link(2, "up")
	everyRankSays(w, []int{0, 1}, "host 10.77.0.2 (ranks 2 and 3) was lost: nothing was heard of it for 1s")
	everyRankSays(w, []int{2, 3}, "this host is cut off from launch: nothing was heard of it for 1s")
}

func agentStopped(t *testing.T, c *cluster) {
	w, j := training(t, c)
	agent := c.agentOf(w, 2)
	c.signal(agent, syscall.SIGSTOP)
	j.expect(1).says("host 10.77.0.2 (ranks 2 and 3) was lost: nothing was heard of it for 1s")
	everyRankSays(w, []int{0, 1}, "host 10.77.0.2 (ranks 2 and 3) was lost: nothing was heard of it for 1s")
	c.signal(agent, syscall.SIGCONT)
	w.nothingLeft()
	everyRankSays(w, []int{2, 3}, "nothing was heard of it for 1s", "was lost")
}

func rankKilledElsewhere(t *testing.T, c *cluster) {
	w, j := training(t, c)
	victim := 0
	for _, pid := range w.processes("spmd") {
		if p := openProcess(t, pid); p.rank == 3 {
			victim = pid
		}
	}
	c.signal(victim, syscall.SIGKILL)
	j.expect(128 + 9).says("launch: rank 3 on 10.77.0.2 failed first: killed by signal 9 (SIGKILL)")
	w.nothingLeft()
	everyRankSays(w, []int{0, 1, 2}, "rank 3 was lost: killed by signal 9")
}

// filesDiffer gives one host another configuration under the same path.
func filesDiffer(t *testing.T, c *cluster) {
	w := newWorkspace(t)
	w.write("other.toml", configuration+"# another\n")
	c.port = "2222"
	c.startSSHD(2, fmt.Sprintf("mount --bind %s %s;", w.path("other.toml"), w.path("run.toml")))
	j := c.launch(w, 2, "out")
	j.expect(2).says("run.toml differs on 10.77.0.2: sha256 ", "here sha256 ")
	if _, err := os.Stat(w.path("out")); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
	w.nothingLeft()
}
