package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/collective"
)

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		name      string
		terminate time.Duration
		script    []string
		status    int
		first     string // how the error output begins
	}{
		{"all well", time.Minute, []string{"*:exit:0"}, 0, ""},
		{
			"one fails, others must be asked", time.Minute, []string{"1:exit:3", "*:catch", "*:finish"}, 3,
			"launch: rank 1 has failed: asked ranks 0,2 to end\n" +
				"launch: rank 1 failed first: exit status 3\n",
		},
		{
			"one is killed", time.Minute, []string{"*:catch", "2:kill:9", "*:finish"}, 128 + 9,
			"launch: rank 2 has failed: asked ranks 0-1 to end\n" +
				"launch: rank 2 failed first: killed by signal 9 (SIGKILL)\n",
		},
		{
			"others cannot be asked", 200 * time.Millisecond, []string{"0:exit:4", "*:block"}, 4,
			"launch: rank 0 has failed: asked ranks 1-2 to end\n" +
				"launch: ranks 1-2 did not end when asked: killing\n" +
				"launch: rank 0 failed first: exit status 4\n",
		},
		{
			"others are suspended", 200 * time.Millisecond, []string{"1:kill:19", "0:exit:4", "*:block"}, 4,
			"launch: rank 0 has failed: asked ranks 1-2 to end",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			script := append([]string{"*:ignore", "*:meet:" + t.TempDir()}, c.script...)
			l := startWith(timing{settle: 200 * time.Millisecond, terminate: c.terminate}, ranks(3, nil, script...)...)
			if got := l.wait(t); got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
			if got := l.err.String(); !strings.HasPrefix(got, c.first) || c.first == "" && got != "" {
				t.Errorf("error output:\n%s\nwant:\n%s", got, c.first)
			}
		})
	}
}

func TestOthersEndByThemselves(t *testing.T) {
	t.Parallel()
	l := startWith(timing{settle: time.Minute}, ranks(3, nil, "1:exit:7", "*:exit:0")...)
	if got := l.wait(t); got != 7 {
		t.Errorf("status %d, want 7", got)
	}
	if got, want := l.err.String(), "launch: rank 1 failed first: exit status 7\n"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestReportOfFirstFailure(t *testing.T) {
	t.Parallel()
	script := []string{
		"*:catch", "*:meet:" + t.TempDir(), "2:err:loading data", "2:err:no space left", "2:kill:9", "*:finish", "*:err:rank 2 was lost", "*:exit:1",
	}
	l := startWith(timing{settle: 200 * time.Millisecond, terminate: time.Minute}, ranks(3, nil, script...)...)
	if got := l.wait(t); got != 128+9 {
		t.Errorf("status %d, want that of rank 2", got)
	}
	_, report, _ := strings.Cut(l.err.String(), "launch: rank 2 failed first")
	want := `: killed by signal 9 (SIGKILL)
launch: if nobody killed it, the kernel did, for want of memory: see dmesg
launch: what rank 2 wrote last:
  loading data
  no space left
launch: rank 0 failed as well: exit status 1: rank 2 was lost
launch: rank 1 failed as well: exit status 1: rank 2 was lost
`
	if report != want {
		t.Errorf("got:\n%s\nwant the end:\n%s", l.err, want)
	}
}

// TestSurvivorsLearnTheCause kills one of four ranks that have joined: the others end by themselves, with its fate in their
// messages.
func TestSurvivorsLearnTheCause(t *testing.T) {
	t.Parallel()
	l := startWith(timing{settle: time.Minute}, ranks(4, nil, "*:join", "*:meet:"+t.TempDir(), "2:kill:9", "*:lost", "*:exit:1")...)
	if got := l.wait(t); got != 128+9 {
		t.Errorf("status %d, want that of rank 2", got)
	}
	if got := strings.Count(l.err.String(), "failed as well: exit status 1: rank 2 was lost: killed by signal 9 (SIGKILL)\n"); got != 3 {
		t.Errorf("%d of 3 ranks know what became of rank 2:\n%s", got, l.err)
	}
}

// TestVictimsEndBeforeTheCulprit checks that not the order of ends decides who is to blame, where the rendezvous knows more.
func TestVictimsEndBeforeTheCulprit(t *testing.T) {
	t.Parallel()
	script := []string{"*:catch", "*:join", "*:meet:" + t.TempDir(), "2:abort:loss is not finite", "2:finish", "2:exit:6", "*:lost", "*:exit:1"}
	l := startWith(timing{settle: 200 * time.Millisecond, terminate: time.Minute}, ranks(3, nil, script...)...)
	if got := l.wait(t); got != 6 {
		t.Errorf("status %d, want that of rank 2", got)
	}
	if !strings.Contains(l.err.String(), "launch: rank 2 failed first: exit status 6: loss is not finite\n") {
		t.Errorf("got:\n%s", l.err)
	}
}

func TestWrongConfigurationIsReportedOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ mode, want string }{
		{"rank0", "config.toml:3: wrong\n"},
		{"none", "launch: rank 0 failed: exit status 2\nlaunch: what rank 0 wrote last:\n  config.toml:3: wrong\n"},
	} {
		l := start(ranks(4, []string{"--output", c.mode}, "*:err:config.toml:3: wrong", "*:exit:2")...)
		if got := l.wait(t); got != 2 {
			t.Errorf("--output %s: status %d, want 2", c.mode, got)
		}
		if got := l.err.String(); got != c.want {
			t.Errorf("--output %s: got:\n%s\nwant:\n%s", c.mode, got, c.want)
		}
	}
}

func TestStopLetsRanksFinish(t *testing.T) {
	t.Parallel()
	l := start(ranks(3, []string{"--output", "all"}, "*:catch", "*:out:ready", "*:finish")...)
	l.out.await(t, "ready", 3)
	l.signals <- os.Interrupt
	l.signals <- os.Interrupt // the same Ctrl-C, come by another way
	if got := l.wait(t); got != 0 {
		t.Errorf("status %d, want 0", got)
	}
	if got := strings.Count(l.out.String(), "finished after 1 signal\n"); got != 3 {
		t.Errorf("%d of 3 ranks finished after one signal:\n%s%s", got, l.out, l.err)
	}
}

func TestStopOfRanksThatIgnoreIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		script []string
		repeat bool
		want   string
	}{
		{"grace period", []string{"*:ignore"}, false, "launch: ranks 0-1 did not end when asked: killing\n"},
		{"second signal", []string{"*:ignore"}, true, "launch: terminated again: killing ranks 0-1\n"},
		{"suspended", []string{"*:ignore", "1:kill:19"}, false, "did not end when asked: killing\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			grace := "300ms"
			if c.repeat {
				grace = "1m"
			}
			script := append([]string{"*:ignore", "*:out:ready"}, append(c.script, "*:block")...)
			l := start(ranks(2, []string{"--grace", grace, "--output", "all"}, script...)...)
			l.out.await(t, "ready", 2)
			l.signals <- syscall.SIGTERM
			if c.repeat {
				l.err.await(t, "asked ranks 0-1 to finish", 1)
				time.Sleep(110 * time.Millisecond) // let the window for one signal that comes twice pass
				l.signals <- syscall.SIGTERM
			}
			if got := l.wait(t); got != 128+9 {
				t.Errorf("status %d, want %d", got, 128+9)
			}
			if got := l.err.String(); !strings.Contains(got, c.want) || !strings.Contains(got, "did not finish by itself") {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

// TestTerminalInterrupt sends SIGINT as a terminal does: to launch's whole process group.
func TestTerminalInterrupt(t *testing.T) {
	t.Parallel()
	out := newBuffer()
	cmd := startProcess(t, out, ranks(2, []string{"--output", "all"}, "*:catch", "*:out:ready", "*:finish")...)
	out.await(t, "ready", 2)
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("launch: %v, want a clean end", err)
	}
	if got := strings.Count(out.String(), "finished after 1 signal\n"); got != 2 {
		t.Errorf("%d of 2 ranks finished after one signal:\n%s", got, out)
	}
}

// TestReaderGone checks that ranks end in an orderly way when nobody reads launch's output any more.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errOut := newBuffer()
	cmd := exec.Command(os.Args[0], append([]string{"as-launch"}, ranks(1, nil, "*:catch", "*:out:hello", "*:finish", "*:exit:5")...)...)
	cmd.Stdout, cmd.Stderr = write, errOut
	read.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("launch: %v, want the rank's status 5 after its orderly end:\n%s", cmd.ProcessState, errOut)
	}
}

func TestRanksDieWithLaunch(t *testing.T) {
	t.Parallel()
	out := newBuffer()
	cmd := startProcess(t, out, ranks(3, []string{"--output", "all"}, "*:ignore", "*:pid", "*:block")...)
	out.await(t, "pid", 3)
	kill(t, cmd)
	for _, pid := range pids(out.String()) {
		awaitTrue(t, time.Second, "the end of a rank whose launch was killed", func() bool { return gone(pid) })
	}
}

func TestLifelineEndsWithLaunch(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ended")
	out := newBuffer()
	cmd := startProcess(t, out, ranks(2, nil, "1:block", "0:lifeline:"+file)...)
	out.await(t, "watching", 1)
	kill(t, cmd)
	awaitTrue(t, time.Second, "the end of the lifeline", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

func startProcess(t *testing.T, out *buffer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"as-launch"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it says that launch was killed
}

func TestLeftoversOfRanks(t *testing.T) {
	t.Parallel()
	// The child is killed with its rank's group; the daemon, which has left it, only may not hold launch up.
	l := start(ranks(1, nil, "*:child", "*:child:daemon", "*:out:last words", "*:exit:0")...)
	if got := l.wait(t); got != 0 {
		t.Errorf("status %d, want 0:\n%s", got, l.err)
	}
	found := pids(l.out.String())
	if len(found) != 2 || !strings.HasSuffix(l.out.String(), "last words\n") {
		t.Fatalf("got:\n%s", l.out)
	}
	defer syscall.Kill(found[1], syscall.SIGKILL)
	awaitTrue(t, time.Second, "the end of a rank's child", func() bool { return gone(found[0]) })
}

func TestWhatARankIsGiven(t *testing.T) {
	t.Parallel()
	l := start(ranks(3, []string{"--output", "all"}, "*:descriptors", "*:env:LOCKSTEP_STDOUT_COLUMNS", "*:place")...)
	if got := l.wait(t); got != 0 {
		t.Fatalf("status %d:\n%s", got, l.err)
	}
	place := regexp.MustCompile(`(?m)^\[(\d)\] \{Rank:(\d) Size:3 LocalRank:(\d) LocalSize:3 ` +
		`Job:([A-Z2-7]{8}) .*Rendezvous:(127\.0\.0\.1:\d+) .*SecretFD:3 LifelineFD:4.*\} secret ([0-9a-f]{64}) <nil>$`)
	found := place.FindAllStringSubmatch(l.out.String(), -1)
	if len(found) != 3 {
		t.Fatalf("%d places, want 3:\n%s", len(found), l.out)
	}
	for _, m := range found {
		if m[1] != m[2] || m[1] != m[3] || m[4] != found[0][4] || m[5] != found[0][5] || m[6] != found[0][6] {
			t.Errorf("places of one job do not agree:\n%s\n%s", found[0][0], m[0])
		}
	}
	if got := strings.Count(l.out.String(), `LOCKSTEP_STDOUT_COLUMNS=""`); got != 3 {
		t.Errorf("%d of 3 ranks know that they have no terminal:\n%s", got, l.out)
	}
	checkDescriptors(t, l.out.String())
}

// checkDescriptors makes sure that ranks share no descriptor but the lifeline, and what the tests themselves have inherited.
func checkDescriptors(t *testing.T, listing string) {
	t.Helper()
	inherited := strings.Join(descriptors(), "\n")
	owner := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\[(\d)\] fd (\d+) (\S+)$`).FindAllStringSubmatch(listing, -1) {
		rank, fd, link := m[1], m[2], m[3]
		if fd == "4" || strings.Contains(inherited, link) {
			continue
		}
		if fd != "3" {
			t.Errorf("rank %s has a descriptor that is not meant for it: %s is %s", rank, fd, link)
		}
		if owner[link] != "" {
			t.Errorf("ranks %s and %s share %s", owner[link], rank, link)
		}
		owner[link] = rank
	}
	if len(owner) != 3 {
		t.Errorf("%d of 3 ranks have a secret of their own", len(owner))
	}
}

func TestStrangerIsLogged(t *testing.T) {
	t.Parallel()
	l := start(ranks(1, nil, "*:catch", "*:env:LOCKSTEP_RENDEZVOUS", "*:finish")...)
	l.out.await(t, "\n", 1)
	_, address, _ := strings.Cut(strings.TrimSpace(l.out.String()), "=")
	conn, err := net.Dial("tcp", strings.Trim(address, `"`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.err.await(t, "launch: refused a connection, from 127.0.0.1:", 1)
	l.signals <- os.Interrupt
	if got := l.wait(t); got != 0 {
		t.Errorf("status %d, want 0:\n%s", got, l.err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	once := func() int {
		l := start(ranks(3, nil, "1:exit:1", "*:block")...)
		l.wait(t)
		return runtime.NumGoroutine()
	}
	before := once() // after a first run, for what the runtime itself keeps
	awaitTrue(t, 5*time.Second, "the end of launch's goroutines", func() bool { return once() <= before })
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("process %d (%v) was not collected", pid, err)
	}
}

// TestAllOrNone checks that the ranks that have been started end when one cannot be.
func TestAllOrNone(t *testing.T) {
	out, errOut := &stream{w: newBuffer()}, &stream{w: newBuffer()}
	c := newConsole(out, errOut)
	defer c.close()
	lifeline, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{lifeline, held})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	place := collective.Place{Size: 3, Rendezvous: "127.0.0.1:1", SecretFD: secretFD, LifelineFD: lifelineFD}
	own := &crew{starter: &starter{
		program: os.Args[0], args: []string{"as-rank", "*:block"}, ranks: []int{0, 1}, place: place, lifeline: lifeline, console: c,
	}}
	planned := errors.New("planned")
	j := &job{console: c, teams: []team{own, failingTeam{planned}}}
	err = j.startAll(3)
	j.drain()
	if !errors.Is(err, planned) || len(j.ranks) != 2 {
		t.Fatalf("error %v, %d ranks", err, len(j.ranks))
	}
	for i, r := range j.ranks {
		if !gone(own.processes[i].cmd.Process.Pid) || !r.byLaunch() {
			t.Errorf("rank %d: %+v", r.number, r.end)
		}
	}
}

// A failingTeam cannot start.
type failingTeam struct{ err error }

func (f failingTeam) start(chan<- exit) ([]*rank, error) { return nil, f.err }
func (f failingTeam) drain()                             {}

func TestProgramThatCannotStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("\x7fELF no more"), 0o700); err != nil {
		t.Fatal(err)
	}
	l := start("-n", "2", file)
	if got := l.wait(t); got != statusFailed || !strings.Contains(l.err.String(), "launch: starting rank 0: ") {
		t.Errorf("status %d:\n%s", got, l.err)
	}
}
