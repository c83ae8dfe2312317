package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestOtherLaunchers runs one configuration under each launcher that is installed: spmd finds its rank and the others by
// itself, the bits are those of launch, and nothing is left.
func TestOtherLaunchers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tool string
		args []string
	}{
		"Open MPI": {"mpirun.openmpi", []string{"--allow-run-as-root", "--oversubscribe", "-n", "2"}},
		"MPICH":    {"mpiexec.hydra", []string{"-n", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			tool, err := exec.LookPath(test.tool)
			if err != nil {
				t.Skipf("needs %s: %v", name, err)
			}
			w := newWorkspace(t)
			w.launch(2, "want").expect(0)
			w.under(tool, test.args, "got").expect(0)
			w.sameRun("want", "got")
			j := w.under(tool, test.args, "lost", endless()...)
			j.killRank(w, 1)
			w.nothingLeft()
		})
	}
}

// TestTorchVariables starts ranks as torchrun does, with nothing but its variables: the bits are those of launch, and a rank
// that is killed ends the other.
func TestTorchVariables(t *testing.T) {
	t.Parallel()
	for name, more := range map[string][]string{
		"torchrun": {"LOCAL_WORLD_SIZE=2", "TORCHELASTIC_RUN_ID=none", "TORCHELASTIC_RESTART_COUNT=0", "TORCHELASTIC_USE_AGENT_STORE=True"},
		"by hand":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkspace(t)
			w.launch(2, "want").expect(0)
			ranks := w.torchRanks(more, "got")
			for _, rank := range ranks {
				rank.expect(0)
			}
			w.sameRun("want", "got")
			ranks = w.torchRanks(more, "lost", endless()...)
			if !ranks[0].awaitStep(3) {
				t.Fatalf("the run ended by itself:\n%s", ranks[0])
			}
			if err := ranks[1].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			ranks[0].expect(1).says("rank 1")
			w.nothingLeft()
		})
	}
}

// torchRanks starts two ranks of run.toml, the second one first.
func (w *workspace) torchRanks(more []string, out string, overrides ...string) []*job {
	w.t.Helper()
	ranks := make([]*job, 2)
	for rank := range slices.Backward(ranks) {
		number := strconv.Itoa(rank)
		vars := append([]string{"RANK=" + number, "LOCAL_RANK=" + number, "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=29500"}, more...)
		ranks[rank] = w.under("env", vars, out, overrides...)
	}
	return ranks
}

// under starts run.toml under another launcher.
func (w *workspace) under(tool string, args []string, out string, overrides ...string) *job {
	w.t.Helper()
	args = append(args[:len(args):len(args)], programs.spmd, "run.toml", "run.output_dir="+out)
	return start(w.t, w.dir, tool, append(args, overrides...)...)
}

// killRank kills a rank of another launcher's job after some steps, and returns when the job has ended in failure.
func (j *job) killRank(w *workspace, rank int) {
	j.t.Helper()
	if !j.awaitStep(3) {
		j.t.Fatalf("the run ended by itself:\n%s", j)
	}
	for _, pid := range w.processes("spmd") {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && rankOf(string(environ)) == strconv.Itoa(rank) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				j.t.Fatal(err)
			}
		}
	}
	if j.wait() == 0 {
		j.t.Errorf("the job ended well without rank %d:\n%s", rank, j)
	}
}

// rankOf finds the rank in a process's environment.
func rankOf(environ string) string {
	for entry := range strings.SplitSeq(environ, "\x00") {
		for _, name := range []string{"OMPI_COMM_WORLD_RANK=", "PMI_RANK=", "SLURM_PROCID=", "RANK="} {
			if number, ok := strings.CutPrefix(entry, name); ok {
				return number
			}
		}
	}
	return ""
}

// TestSlurm runs a real Slurm on this one machine.
func TestSlurm(t *testing.T) {
	t.Parallel()
	s := newSlurm(t)
	w := newWorkspace(t)
	w.launch(2, "want").expect(0)
	s.run(w, "got").expect(0)
	w.sameRun("want", "got")
	j := s.run(w, "lost", endless()...)
	j.killRank(w, 1)
	w.nothingLeft()
}

// A slurm is a controller and a node of it, on this machine.
type slurm struct{ config string }

const slurmConfig = `ClusterName=e2e
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16827
SlurmdPort=16828
AuthType=auth/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=DIR/state
SlurmdSpoolDir=DIR/spool
SlurmctldPidFile=DIR/ctld.pid
SlurmdPidFile=DIR/d.pid
SlurmctldLogFile=DIR/ctld.log
SlurmdLogFile=DIR/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:8
`

// newSlurm starts munge, the controller and the node, or skips the test where they are not installed.
func newSlurm(t *testing.T) slurm {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for Slurm's daemons")
	}
	for _, tool := range []string{"munged", "slurmctld", "slurmd", "srun", "sinfo"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs slurmctld, slurmd, slurm-client and munge: %v", err)
		}
	}
	dir := t.TempDir()
	s := slurm{filepath.Join(dir, "slurm.conf")}
	for _, sub := range []string{"state", "spool"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "munge.socket")
	config := strings.ReplaceAll(slurmConfig, "DIR", dir) + "AuthInfo=socket=" + socket + "\n"
	if err := os.WriteFile(s.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "munge.key")
	if err := os.WriteFile(key, randomBytes(1024), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // munge wants to trust every directory above its socket
		t.Fatal(err)
	}
	daemon(t, dir, "munged", "--foreground", "--force", "--socket", socket, "--key-file", key, "--log-file", filepath.Join(dir, "munge.log"),
		"--pid-file", filepath.Join(dir, "munge.pid"), "--seed-file", filepath.Join(dir, "munge.seed"))
	daemon(t, dir, "slurmctld", "-D", "-f", s.config)
	daemon(t, dir, "slurmd", "-D", "-f", s.config, "-N", "localhost")
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		cmd := exec.Command("sinfo", "-h", "-o", "%t")
		cmd.Env = append(os.Environ(), "SLURM_CONF="+s.config)
		if out, err := cmd.CombinedOutput(); err == nil && strings.TrimSpace(string(out)) == "idle" {
			return s
		} else if time.Now().After(end) {
			t.Fatalf("Slurm does not come up: %v: %s", err, out)
		}
	}
}

// daemon runs a program until the test ends.
func daemon(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	log := newBuffer()
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait() // how it ends is of no interest
		if t.Failed() {
			t.Logf("%s wrote:\n%s", program, log)
		}
	})
}

func (s slurm) run(w *workspace, out string, overrides ...string) *job {
	w.t.Helper()
	return w.under("env", []string{"SLURM_CONF=" + s.config, "srun", "-n", "2", "--overcommit"}, out, overrides...)
}
