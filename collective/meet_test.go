package collective

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/kernels/device"
)

func getenvFrom(env map[string]string) func(string) string {
	return func(name string) string { return env[name] }
}

// foreignEnvs are what real launchers set, as far as it matters, for a rank of two.
var foreignEnvs = map[string]func(rank int) map[string]string{
	"Open MPI's mpirun": func(rank int) map[string]string {
		return map[string]string{
			"OMPI_COMM_WORLD_RANK": fmt.Sprint(rank), "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": fmt.Sprint(rank),
			"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "1528496129",
			"OMPI_MCA_orte_hnp_uri": "1528496128.0;tcp://10.0.0.1,10.1.0.1:49203;tcp6://[fd00::2]:45603",
		}
	},
	"MPICH's mpiexec": func(rank int) map[string]string {
		return map[string]string{"PMI_RANK": fmt.Sprint(rank), "PMI_SIZE": "2", "MPI_LOCALRANKID": fmt.Sprint(rank), "MPI_LOCALNRANKS": "2"}
	},
	"torchrun": func(rank int) map[string]string {
		return map[string]string{
			"RANK": fmt.Sprint(rank), "WORLD_SIZE": "2", "LOCAL_RANK": fmt.Sprint(rank), "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1",
			"MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True",
		}
	},
	"srun": func(rank int) map[string]string {
		return map[string]string{
			"SLURM_PROCID": fmt.Sprint(rank), "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": fmt.Sprint(rank), "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0",
			"SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "node[03-04]",
		}
	},
}

func TestPlaceUnderOtherLaunchers(t *testing.T) {
	wants := map[string]string{"Open MPI's mpirun": "10.0.0.1:2", "MPICH's mpiexec": "", "torchrun": "10.0.0.1:29501", "srun": "node03:2"}
	for launcher, env := range foreignEnvs {
		p, err := PlaceFrom(getenvFrom(env(1)))
		if err != nil || p.Launcher != launcher || p.Rank != 1 || p.Size != 2 || p.LocalRank != 1 || p.LocalSize != 2 || !strings.HasPrefix(p.Rendezvous, wants[launcher]) {
			t.Errorf("%s: %+v, %v", launcher, p, err)
		}
		other, err := PlaceFrom(getenvFrom(env(0)))
		if err != nil || other.Job != p.Job || other.Rendezvous != p.Rendezvous {
			t.Errorf("%s: ranks do not agree: %+v, %+v, %v", launcher, p, other, err)
		}
		for name := range env(1) {
			bad := env(1)
			bad[name] = "x"
			_, _ = PlaceFrom(getenvFrom(bad)) // whatever it says, it does not panic
		}
	}
	bad := foreignEnvs["srun"](2)
	if _, err := PlaceFrom(getenvFrom(bad)); err == nil || !strings.Contains(err.Error(), "rank 2 of 2") {
		t.Errorf("rank 2 of 2: %v", err)
	}
}

// TestMeetOnOneHost meets under each launcher with nothing but its environment, and works.
func TestMeetOnOneHost(t *testing.T) {
	for launcher, env := range foreignEnvs {
		t.Run(launcher, func(t *testing.T) {
			dir := t.TempDir()
			var running sync.WaitGroup
			for rank := range 2 {
				running.Go(func() {
					e := env(rank)
					e["XDG_RUNTIME_DIR"] = dir
					if err := meetAndWork(t, getenvFrom(e)); err != nil {
						t.Errorf("rank %d: %v", rank, err)
					}
				})
			}
			running.Wait()
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the runtime directory: %v, %v", left, err)
			}
		})
	}
}

func meetAndWork(t *testing.T, getenv func(string) string) error {
	place, err := PlaceFrom(getenv)
	if err != nil {
		return err
	}
	m, err := Meet(context.Background(), place, MeetOptions{Getenv: getenv})
	if err != nil {
		return err
	}
	w, err := Join(context.Background(), Options{Place: m.Place, Secret: m.Secret, NewStream: func(name string) device.Stream {
		s := newTestStream(name)
		t.Cleanup(s.close)
		return s
	}})
	if err != nil {
		return err
	}
	m.Formed()
	g, err := w.NewGroup("all", everyone(place.Size))
	if err == nil {
		err = g.Barrier(context.Background())
	}
	if closed := w.Close(); err == nil {
		err = closed
	}
	if closed := m.Close(10 * time.Second); err == nil {
		err = closed
	}
	return err
}

// TestStaleNotice checks that a notice of a process that is gone is passed over.
func TestStaleNotice(t *testing.T) {
	dir := t.TempDir()
	env := foreignEnvs["srun"](1)
	env["XDG_RUNTIME_DIR"] = dir
	place, err := PlaceFrom(getenvFrom(env))
	if err != nil {
		t.Fatal(err)
	}
	stale := notice{Rendezvous: "127.0.0.1:1", Secret: hex.EncodeToString(testSecret), Process: fmt.Sprintf("%d 1", os.Getpid())}
	if err := stale.write(filepath.Join(dir, "lockstep-"+place.Job)); err != nil {
		t.Fatal(err)
	}
	_, err = Meet(context.Background(), place, MeetOptions{Getenv: getenvFrom(env), Timeout: 200 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "the process that wrote it is gone") {
		t.Errorf("got %v", err)
	}
}

func TestGivenSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := strings.Repeat("s", 32)
	for _, c := range []struct {
		env  map[string]string
		want string // the secret, or a part of the error
	}{
		{nil, ""},
		{map[string]string{envSecret: long}, long},
		{map[string]string{envSecretFile: write("good", 0o600, long+"\n")}, long},
		{map[string]string{envSecretFile: write("open", 0o640, long)}, "has mode 0640, so that others can read the secret; chmod 600"},
		{map[string]string{envSecretFile: write("large", 0o600, strings.Repeat("s", 5000))}, "larger than 4096 bytes"},
		{map[string]string{envSecretFile: dir}, "no regular file"},
		{map[string]string{envSecretFile: filepath.Join(dir, "none")}, "no such file"},
		{map[string]string{envSecret: long, envSecretFile: "x"}, "leave one away"},
		{map[string]string{envSecret: "short"}, "at least 16 are needed"},
	} {
		secret, err := givenSecret(getenvFrom(c.env))
		if err == nil && !bytes.Equal(secret, []byte(c.want)) || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %q, %v; want %q", c.env, secret, err, c.want)
		}
	}
}

// TestAcrossHostsNeedsASecret checks that nothing a launcher says is taken for a secret.
func TestAcrossHostsNeedsASecret(t *testing.T) {
	for launcher, env := range foreignEnvs {
		e := env(0)
		for _, name := range []string{"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE"} {
			if e[name] != "" {
				e[name] = "1"
			}
		}
		if e["SLURM_STEP_TASKS_PER_NODE"] != "" {
			e["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"
		}
		place, err := PlaceFrom(getenvFrom(e))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Meet(context.Background(), place, MeetOptions{Getenv: getenvFrom(e)}); err == nil || !strings.Contains(err.Error(), "the job spans hosts, and has no secret") {
			t.Errorf("%s: %v", launcher, err)
		}
	}
}

func TestRuntimeDirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := runtimeDirectory(getenvFrom(map[string]string{"XDG_RUNTIME_DIR": dir})); err == nil || !strings.Contains(err.Error(), "not this user's alone") {
		t.Errorf("got %v", err)
	}
}

func FuzzSlurmLists(f *testing.F) {
	for _, seed := range []string{"4(x2),3", "node[007-012,20],other", "a,b", "n[1-2]-x", "1(x99999999999)", "[", "n[", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if tasks, err := parseTasksPerNode(text); err == nil {
			for _, n := range tasks {
				if n < 1 || len(tasks) > maxNodes {
					t.Errorf("%q is %v", text, tasks)
				}
			}
		}
		if name, err := firstNode(text); err == nil && (name == "" || strings.ContainsAny(name, "[]")) {
			t.Errorf("the first of %q is %q", text, name)
		}
	})
}

func TestFirstNode(t *testing.T) {
	for list, want := range map[string]string{
		"localhost": "localhost", "a,b": "a", "node[007-012,20],other": "node007", "n[3,5]": "n3", "a,n[1-2]": "a", "rack[1-2]-n": "rack1-n",
	} {
		if got, err := firstNode(list); err != nil || got != want {
			t.Errorf("the first of %s is %q, %v; want %q", list, got, err, want)
		}
	}
}
