package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A cluster is some hosts on one network: each a network namespace of this machine with a real sshd in it. They share the
// file system, as hosts with a common home directory do.
type cluster struct {
	t      *testing.T
	prefix string // of the names of its namespaces
	size   int
	dir    string // keys
	port   string // of ssh
}

// newCluster makes a cluster, or skips the test where that is not possible.
func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, tool := range []string{"ip", "ssh", "ssh-keygen", "/usr/sbin/sshd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs iproute2 and openssh-server: %v", err)
		}
	}
	c := &cluster{t: t, prefix: fmt.Sprintf("lk%d-%d", os.Getpid(), size), size: size, dir: t.TempDir(), port: "22"}
	if out, err := exec.Command("ip", "netns", "add", c.name(0)).CombinedOutput(); err != nil {
		t.Skipf("needs network namespaces: %v: %s", err, out)
	}
	t.Cleanup(func() { c.ip("netns", "del", c.name(0)) })
	c.ip("-n", c.name(0), "link", "add", "switch", "type", "bridge") // namespace 0 is the switch
	c.ip("-n", c.name(0), "link", "set", "switch", "up")
	c.keys()
	for i := 1; i <= size; i++ {
		c.addHost(i)
	}
	return c
}

func (c *cluster) name(i int) string { return c.prefix + "-" + strconv.Itoa(i) }

func (c *cluster) address(i int) string { return fmt.Sprintf("10.77.0.%d", i) }

func (c *cluster) ip(args ...string) {
	c.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// keys makes the keys of the hosts and of their one user.
func (c *cluster) keys() {
	c.t.Helper()
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(c.dir, name)).CombinedOutput(); err != nil {
			c.t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd separates privileges
		c.t.Fatal(err)
	}
}

// addHost adds a host to the network and starts its sshd.
func (c *cluster) addHost(i int) {
	c.t.Helper()
	port, host := "port"+strconv.Itoa(i), c.name(i)
	c.ip("netns", "add", host)
	c.t.Cleanup(func() { c.ip("netns", "del", host) })
	c.ip("-n", c.name(0), "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
	c.ip("-n", c.name(0), "link", "set", port, "master", "switch", "up")
	c.ip("-n", host, "address", "add", c.address(i)+"/24", "dev", "eth0")
	c.ip("-n", host, "link", "set", "eth0", "up")
	c.ip("-n", host, "link", "set", "lo", "up")
	c.startSSHD(i, "")
}

// startSSHD starts the sshd of a host; before is a shell command that it runs first, in a mount namespace of its own.
func (c *cluster) startSSHD(i int, before string) {
	c.t.Helper()
	command := fmt.Sprintf("%s exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey=%s -o AuthorizedKeysFile=%s -o StrictModes=no -o PidFile=none -o ListenAddress=%s:%s",
		before, filepath.Join(c.dir, "host"), filepath.Join(c.dir, "user.pub"), c.address(i), c.port)
	cmd := exec.Command("ip", "netns", "exec", c.name(i), "unshare", "-m", "sh", "-c", command)
	log := newBuffer()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
	})
	for end := time.Now().Add(patience); !strings.Contains(log.String(), "Server listening"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("the sshd of host %d does not start:\n%s", i, log)
		}
	}
}

// rsh is the remote shell of the cluster's user.
func (c *cluster) rsh() string {
	return fmt.Sprintf("ssh -F none -p %s -i %s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR", c.port, filepath.Join(c.dir, "user"))
}

// link takes the network of a host down, or up again.
func (c *cluster) link(i int, state string) {
	c.t.Helper()
	c.ip("-n", c.name(0), "link", "set", "port"+strconv.Itoa(i), state)
}

// launch starts run.toml from host 1, with some slots on each host.
func (c *cluster) launch(w *workspace, slots int, out string, overrides ...string) *job {
	c.t.Helper()
	var hosts strings.Builder
	for i := 1; i <= c.size; i++ {
		fmt.Fprintf(&hosts, "%s slots=%d\n", c.address(i), slots)
	}
	w.write("hosts", hosts.String())
	args := []string{"netns", "exec", c.name(1), programs.launch, "--hostfile", "hosts", "--rsh", c.rsh(), programs.spmd, "run.toml", "run.output_dir=" + out}
	return start(c.t, w.dir, "ip", append(args, overrides...)...)
}

// processes returns what runs in a workspace, by the name of its program: on all hosts, launch, its agents and the ranks.
func (w *workspace) processes(program string) []int {
	w.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		w.t.Fatal(err)
	}
	var found []int
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err != nil || dir != w.dir {
			continue
		}
		exe, err := os.Readlink(filepath.Join(filepath.Dir(link), "exe"))
		pid, errPid := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil && errPid == nil && strings.HasSuffix(exe, program) {
			found = append(found, pid)
		}
	}
	return found
}

// nothingLeft fails the test unless all processes of the workspace end.
func (w *workspace) nothingLeft() {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := w.processes("")
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("processes %v are left", left)
		}
	}
}

// agentOf returns the agent that runs on a host: the one whose network is that host's.
func (c *cluster) agentOf(w *workspace, i int) int {
	c.t.Helper()
	var want syscall.Stat_t
	if err := syscall.Stat("/run/netns/"+c.name(i), &want); err != nil {
		c.t.Fatal(err)
	}
	for _, pid := range w.processes("launch") {
		var have syscall.Stat_t
		if syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &have) == nil && have.Ino == want.Ino {
			return pid
		}
	}
	c.t.Fatalf("host %d has no agent", i)
	return 0
}

// signal sends a signal to a process of the test's own.
func (c *cluster) signal(pid int, s syscall.Signal) {
	c.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		c.t.Errorf("sending %v to process %d: %v", s, pid, err)
	}
}
