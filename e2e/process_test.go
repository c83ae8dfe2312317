package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A process is a rank. The tests hold it by a descriptor, so that its number cannot come to mean another process.
type process struct {
	t         *testing.T
	rank, pid int
	fd        int // of the process, see pidfd_open(2)
}

// ranks returns the job's ranks in order. All n must have been started.
func (j *job) ranks(n int) []process {
	j.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		j.t.Fatal(err)
	}
	var found []process
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && parent(path) == j.cmd.Process.Pid {
			found = append(found, openProcess(j.t, pid))
		}
	}
	slices.SortFunc(found, func(a, b process) int { return cmp.Compare(a.rank, b.rank) })
	if len(found) != n {
		j.t.Fatalf("%s has %d children, want %d", j.cmd, len(found), n)
	}
	for i, p := range found {
		if p.rank != i {
			j.t.Fatalf("child %d of %s is rank %d", i, j.cmd, p.rank)
		}
	}
	return found
}

// parent returns the parent's number from a /proc/PID/stat, 0 for a process that is gone. The fields behind the name, which
// may hold anything, are the state and the parent.
func parent(path string) int {
	stat, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	pid, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return pid
}

func openProcess(t *testing.T, pid int) process {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("opening process %d: %v", pid, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.SplitSeq(string(environ), "\x00") {
		if number, ok := strings.CutPrefix(entry, "LOCKSTEP_RANK="); ok {
			rank, err := strconv.Atoi(number)
			if err != nil {
				t.Fatalf("process %d: %s", pid, entry)
			}
			return process{t: t, rank: rank, pid: pid, fd: fd}
		}
	}
	t.Fatalf("process %d is no rank", pid)
	return process{}
}

func (p process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := unix.PidfdSendSignal(p.fd, s, nil, 0); err != nil {
		p.t.Errorf("sending %v to rank %d: %v", s, p.rank, err)
	}
}

// awaitEnd returns when the process has ended.
func (p process) awaitEnd() {
	p.t.Helper()
	if !p.ended(int(patience.Milliseconds())) {
		p.t.Fatalf("rank %d (process %d) does not end", p.rank, p.pid)
	}
}

// ended reports whether the process has ended, or ends within a number of milliseconds.
func (p process) ended(milliseconds int) bool {
	p.t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, milliseconds)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			p.t.Fatalf("waiting for rank %d: %v", p.rank, err)
		}
		return n > 0
	}
}

// listening returns the TCP addresses at which a process listens.
func listening(t *testing.T, pid int) []string {
	t.Helper()
	own := map[string]bool{} // the inodes of its sockets
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	const listen = "0A" // TCP_LISTEN
	var addresses []string
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != listen || !own[f[9]] {
			continue
		}
		_, hexPort, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hexPort, 16, 16)
		if err != nil {
			t.Fatalf("/proc/%d/net/tcp: %q", pid, line)
		}
		addresses = append(addresses, net.JoinHostPort("127.0.0.1", strconv.FormatUint(port, 10)))
	}
	return addresses
}
