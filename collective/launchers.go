package collective

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Other launchers than ours tell a process its rank, but not where the others are, nor a secret. So rank 0 hosts the root,
// and Meet finds it.

// foreign is what another launcher says of a process.
type foreign struct {
	launcher string
	place    Place
	// job tells this job from others that run at the same time.
	job string
	// rendezvous is host:port at which rank 0 is to listen; empty where the launcher names no host.
	rendezvous string
}

// A launcherKind knows the environment of a launcher.
type launcherKind struct {
	name                             string
	rank, size, localRank, localSize string // its variables
	complete                         func(f *foreign, getenv func(string) string) error
	needs                            []string // further variables without which the process is not under it
}

// launcherKinds are tried in this order: a launcher that runs under another comes first.
func launcherKinds() []launcherKind {
	return []launcherKind{
		{"Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", completeOpenMPI, nil},
		{"MPICH's mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", completeMPICH, []string{"MPI_LOCALNRANKS"}},
		{"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", completeTorch, []string{"MASTER_ADDR", "MASTER_PORT"}},
		{"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "", completeSlurm, []string{"SLURM_STEP_ID"}},
	}
}

// foreignFrom reads what another launcher says. found is false if there is none, or if it started one process only.
func foreignFrom(getenv func(string) string) (f foreign, found bool, err error) {
	for _, k := range launcherKinds() {
		if getenv(k.rank) == "" || getenv(k.size) == "" {
			continue
		}
		under := true
		for _, name := range k.needs {
			under = under && getenv(name) != ""
		}
		if !under {
			continue
		}
		f, err := k.read(getenv)
		if err != nil {
			return f, false, fmt.Errorf("under %s: %w", k.name, err)
		}
		return f, f.place.Size > 1, nil
	}
	return foreign{}, false, nil
}

func (k launcherKind) read(getenv func(string) string) (foreign, error) {
	f := foreign{launcher: k.name, place: Place{LocalSize: 1}}
	p := &f.place
	for _, v := range []struct {
		name     string
		to       *int
		min, max int
	}{
		{k.size, &p.Size, 1, 1 << 20}, {k.rank, &p.Rank, 0, 1 << 20}, {k.localRank, &p.LocalRank, 0, 1 << 20}, {k.localSize, &p.LocalSize, 1, 1 << 20},
	} {
		text := getenv(v.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < v.min || n > v.max {
			return f, fmt.Errorf("the environment has %s=%q, expected a number from %d to %d", v.name, text, v.min, v.max)
		}
		*v.to = n
	}
	if err := k.complete(&f, getenv); err != nil {
		return f, err
	}
	if p.Rank >= p.Size || p.LocalRank >= p.LocalSize || p.LocalSize > p.Size {
		return f, fmt.Errorf("the environment's place is inconsistent: rank %d of %d, local rank %d of %d", p.Rank, p.Size, p.LocalRank, p.LocalSize)
	}
	if given := getenv(envRendezvous); given != "" {
		f.rendezvous = given
	}
	f.place.Address = getenv(envAddress)
	sum := sha256.Sum256([]byte(f.launcher + " " + f.job))
	f.place.Job = hex.EncodeToString(sum[:6])
	return f, nil
}

// port returns a port for a job whose launcher names none, the same on all its ranks. It lies below the range from which
// Linux takes ports by itself.
func (f *foreign) port() string {
	sum := sha256.Sum256([]byte(f.job))
	return strconv.Itoa(20000 + (int(sum[0])<<8|int(sum[1]))%10000)
}

// completeOpenMPI takes mpirun's own address for that of rank 0, which is right where mpirun runs on the first host; Meet
// finds out where it is not.
func completeOpenMPI(f *foreign, getenv func(string) string) error {
	uri := getenv("OMPI_MCA_orte_hnp_uri") // such as 1528496128.0;tcp://10.0.0.1,10.1.0.1:49203;tcp6://...
	f.job = getenv("PMIX_NAMESPACE") + " " + uri
	for part := range strings.SplitSeq(uri, ";") {
		list, isTCP := strings.CutPrefix(part, "tcp://")
		if !isTCP {
			continue
		}
		hosts, _, _ := strings.Cut(list, ":")
		first, _, _ := strings.Cut(hosts, ",")
		f.rendezvous = net.JoinHostPort(first, f.port())
	}
	return nil
}

// completeMPICH knows a job by the process that starts its ranks, of which each host has one. Nothing names the first host.
func completeMPICH(f *foreign, getenv func(string) string) error {
	job, err := parentIdentity()
	f.job = job
	return err
}

// completeTorch takes the port behind MASTER_PORT where torchrun itself listens at that one.
func completeTorch(f *foreign, getenv func(string) string) error {
	port, err := strconv.Atoi(getenv("MASTER_PORT"))
	if err != nil || port < 1 || port > 65534 {
		return fmt.Errorf("the environment has MASTER_PORT=%q, expected a port", getenv("MASTER_PORT"))
	}
	if getenv("TORCHELASTIC_USE_AGENT_STORE") == "True" {
		port++
	}
	f.rendezvous = net.JoinHostPort(getenv("MASTER_ADDR"), strconv.Itoa(port))
	f.job = f.rendezvous + " " + getenv("TORCHELASTIC_RUN_ID") + " " + getenv("TORCHELASTIC_RESTART_COUNT")
	if getenv("LOCAL_WORLD_SIZE") == "" { // set by hand: all that is known is that this rank has its place
		f.place.LocalSize = f.place.LocalRank + 1
		if isLoopback(getenv("MASTER_ADDR")) {
			f.place.LocalSize = f.place.Size
		}
	}
	return nil
}

// completeSlurm takes the step's first node for that of rank 0, as srun's default distributions do.
func completeSlurm(f *foreign, getenv func(string) string) error {
	f.job = getenv("SLURM_JOB_ID") + "." + getenv("SLURM_STEP_ID")
	node, err := strconv.Atoi(getenv("SLURM_NODEID"))
	if err != nil {
		return fmt.Errorf("the environment has SLURM_NODEID=%q, expected a number", getenv("SLURM_NODEID"))
	}
	tasks, err := parseTasksPerNode(getenv("SLURM_STEP_TASKS_PER_NODE"))
	if err != nil || node < 0 || node >= len(tasks) {
		return fmt.Errorf("the environment has SLURM_STEP_TASKS_PER_NODE=%q and SLURM_NODEID=%d: %w", getenv("SLURM_STEP_TASKS_PER_NODE"), node, err)
	}
	f.place.LocalSize = tasks[node]
	first, err := firstNode(getenv("SLURM_STEP_NODELIST"))
	if err != nil {
		return fmt.Errorf("the environment has SLURM_STEP_NODELIST=%q: %w", getenv("SLURM_STEP_NODELIST"), err)
	}
	f.rendezvous = net.JoinHostPort(first, f.port())
	return nil
}

// maxNodes bounds what is read of Slurm's lists.
const maxNodes = 1 << 16

// parseTasksPerNode reads Slurm's "4(x2),3", which is 4, 4, 3.
func parseTasksPerNode(text string) ([]int, error) {
	var tasks []int
	for item := range strings.SplitSeq(text, ",") {
		count, times, repeated := strings.Cut(item, "(x")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no number of tasks", item)
		}
		repeat := 1
		if repeated {
			if repeat, err = strconv.Atoi(strings.TrimSuffix(times, ")")); err != nil || repeat < 1 {
				return nil, fmt.Errorf("%q is no number of tasks", item)
			}
		}
		if len(tasks)+repeat > maxNodes {
			return nil, fmt.Errorf("more than %d nodes", maxNodes)
		}
		for range repeat {
			tasks = append(tasks, n)
		}
	}
	return tasks, nil
}

// firstNode returns the first host of Slurm's list of nodes, such as "node[007-012,20],other".
func firstNode(list string) (string, error) {
	name, rest, bracketed := strings.Cut(list, "[")
	if plain, _, more := strings.Cut(name, ","); more || !bracketed {
		name, rest, bracketed = plain, "", false
	}
	if bracketed {
		numbers, suffix, closed := strings.Cut(rest, "]")
		if !closed {
			return "", fmt.Errorf("a list of nodes without its ]")
		}
		first, _, _ := strings.Cut(numbers, ",")
		first, _, _ = strings.Cut(first, "-")
		suffix, _, _ = strings.Cut(suffix, ",")
		name += first + suffix
	}
	if name == "" || strings.ContainsAny(name, "[] ") {
		return "", fmt.Errorf("%q names no host", list)
	}
	return name, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
