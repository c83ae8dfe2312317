package collective

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"lockstep/kernels/device"
)

var (
	scaleFlag     = flag.Int("scale", 128, "ranks of TestScale")
	processesFlag = flag.Int("processes", 1, "processes that the ranks of TestScale are spread over; each may open a number of descriptors")
	scaleBarriers = flag.Int("barriers", 3, "groups of each rank that TestScale works in, the smallest first: connections take descriptors and memory")
	scalePart     = flag.Int("part", -1, "for processes of TestScale: the number of this one")
	scaleRoot     = flag.String("root", "", "for processes of TestScale: the root's address")
)

const (
	scaleLocal = 8  // ranks on a host
	scaleFan   = 32 // relays that connect to the root, or to a relay
	scalePort  = 29_999
)

// A scaleReport is what one process has at some point: memory and descriptors.
type scaleReport struct {
	What         string
	Heap, Stacks uint64 // bytes
	Files        int
	Barriers     []int // the sizes of the groups that have worked
}

// TestScale forms a large job, its ranks goroutines on hosts of eight behind a tree of relays, makes the groups that a mesh has
// (all ranks, data, tensor), and works in them. The ranks are in this process or in several. It logs the time and the memory;
// docs/benchmarks.md has the numbers for more ranks.
func TestScale(t *testing.T) {
	size, processes := *scaleFlag, *processesFlag
	hosts := make([]Host, (size+scaleLocal-1)/scaleLocal)
	for rank := range size {
		h := &hosts[rank/scaleLocal]
		h.Name, h.Ranks = fmt.Sprintf("host%d", rank/scaleLocal), append(h.Ranks, rank)
	}
	start := time.Now()
	j := newRoot(t, size, func(r *RootOptions, _ *Options) { r.Hosts, r.Outside, r.Timeout = hosts, "127.0.0.1", 10*time.Minute })
	reports, left := make(chan scaleReport), make(chan struct{})
	var running sync.WaitGroup
	for part := range processes {
		running.Go(func() {
			if processes == 1 {
				if err := scaledRanks(0, 1, size, j.root.Outside(), func(r scaleReport) { reports <- r }, func() { <-left }); err != nil {
					t.Error(err)
				}
			} else if err := startPart(part, size, processes, j.root.Outside(), reports, left); err != nil {
				t.Errorf("process %d: %v", part, err)
			}
		})
	}
	go func() { running.Wait(); close(reports) }()
	sums := map[string][]scaleReport{}
	for r := range reports {
		if sums[r.What] = append(sums[r.What], r); len(sums[r.What]) < processes {
			continue
		}
		logScale(t, size, time.Since(start), sums[r.What])
		switch r.What {
		case "formed":
			j.root.mu.Lock()
			if below := len(j.root.below); below > scaleFan {
				t.Errorf("the root holds %d connections, more than %d", below, scaleFan)
			}
			j.root.mu.Unlock()
		case "all ranks left":
			close(left)
		}
	}
	if _, cause, failed := j.root.FirstFailure(); failed {
		t.Errorf("the job failed: %s", cause)
	}
}

// logScale logs what all processes have together.
func logScale(t *testing.T, size int, since time.Duration, parts []scaleReport) {
	sum := parts[0]
	for _, r := range parts[1:] {
		sum.Heap, sum.Stacks, sum.Files = sum.Heap+r.Heap, sum.Stacks+r.Stacks, sum.Files+r.Files
	}
	groups := ""
	if sum.Barriers != nil {
		groups = fmt.Sprint(" ", sum.Barriers)
	}
	t.Logf("%d ranks in %d processes: %s%s after %v; %d MiB of heap and %d MiB of stacks, %d KiB a rank; %d descriptors", size, len(parts),
		sum.What, groups, since.Round(10*time.Millisecond), sum.Heap>>20, sum.Stacks>>20, (sum.Heap+sum.Stacks)/uint64(size)>>10, sum.Files)
}

// startPart runs a process of TestScale and passes on its reports. The end of its input tells it that all ranks have left.
func startPart(part, size, processes int, root string, reports chan<- scaleReport, left <-chan struct{}) error {
	cmd := exec.Command(os.Args[0], "-test.run=^TestScalePart$", "-scale", strconv.Itoa(size), "-processes", strconv.Itoa(processes),
		"-part", strconv.Itoa(part), "-root", root, "-barriers", strconv.Itoa(*scaleBarriers))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { <-left; in.Close() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r scaleReport
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			reports <- r
		} else if text := lines.Text(); text != "PASS" {
			fmt.Fprintln(os.Stderr, text)
		}
	}
	return cmd.Wait()
}

// TestScalePart is a process of TestScale.
func TestScalePart(t *testing.T) {
	if *scalePart < 0 {
		t.Skip("TestScale starts it where -processes says so")
	}
	out := json.NewEncoder(os.Stdout)
	report := func(r scaleReport) {
		if err := out.Encode(r); err != nil {
			t.Error(err)
		}
	}
	wait := func() { _, _ = io.Copy(io.Discard, os.Stdin) }
	if err := scaledRanks(*scalePart, *processesFlag, *scaleFlag, *scaleRoot, report, wait); err != nil {
		t.Fatal(err)
	}
}

// hostAddress returns the address of a host, one of its own on the loopback interface.
func hostAddress(host int) string { return fmt.Sprintf("127.1.%d.%d", host/250, host%250+1) }

// scaledRanks runs the hosts of one process from the first rank's joining to the last one's leaving. wait returns when all
// ranks of the job have left: until then relays of other processes need these.
func scaledRanks(part, parts, size int, root string, report func(scaleReport), wait func()) error {
	quiet := slog.New(slog.DiscardHandler)
	hosts := (size + scaleLocal - 1) / scaleLocal
	first, last := hosts*part/parts, hosts*(part+1)/parts
	from, to := first*scaleLocal, min(size, last*scaleLocal)
	relays := make([]*Relay, hosts)
	for host := first; host < last; host++ {
		ranks := everyone(size)[host*scaleLocal : min(size, (host+1)*scaleLocal)]
		r, err := NewRelay(RelayOptions{
			Size: size, Host: host, Hosts: hosts, Ranks: ranks, Job: "test", Secret: testSecret,
			Outside: hostAddress(host), Ports: PortRange{scalePort, scalePort}, Log: quiet,
		})
		if err != nil {
			return err
		}
		defer r.Close()
		relays[host] = r
	}
	var connecting sync.WaitGroup
	errs := make(chan error, hosts)
	for host := first; host < last; host++ {
		connecting.Go(func() {
			parent := root
			if host >= scaleFan {
				parent = fmt.Sprintf("%s:%d", hostAddress(host/scaleFan-1), scalePort)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			errs <- relays[host].Connect(ctx, parent)
		})
	}
	connecting.Wait()
	for range last - first {
		if err := <-errs; err != nil {
			return err
		}
	}
	s := &scaled{size: size, from: from, worlds: make([]*World, to-from), groups: make([][]Group, to-from), report: report}
	if err := s.run(relays, quiet); err != nil {
		return err
	}
	s.tell("all ranks left")
	wait()
	return nil
}

// scaled are the ranks of one process.
type scaled struct {
	size, from int
	worlds     []*World
	groups     [][]Group
	worked     []int
	report     func(scaleReport)
}

func (s *scaled) run(relays []*Relay, quiet *slog.Logger) error {
	if err := s.each(func(i int) (err error) {
		rank := s.from + i
		host := rank / scaleLocal
		s.worlds[i], err = Join(context.Background(), Options{
			Place: Place{
				Rank: rank, Size: s.size, LocalRank: rank % scaleLocal, LocalSize: scaleLocal, Job: "test",
				Rendezvous: relays[host].Addr(), Address: hostAddress(host),
			},
			Secret: testSecret, Log: quiet, Timeout: 10 * time.Minute, Silence: 10 * time.Minute, Backend: BackendTCP, Facts: map[string]string{"version": "1"},
			NewStream: func(name string) device.Stream { return newTestStream(name) },
		})
		return err
	}); err != nil {
		return err
	}
	s.tell("formed")
	if err := s.each(s.makeGroups); err != nil {
		return err
	}
	s.tell("all groups made")
	for n := range *scaleBarriers {
		if err := s.each(func(i int) error { return s.groups[i][n].Barrier(context.Background()) }); err != nil {
			return err
		}
		s.worked = append(s.worked, s.groups[0][n].Size())
	}
	s.tell("barriers in groups of")
	return s.each(func(i int) error { return s.worlds[i].Close() })
}

// makeGroups makes a rank's groups, the smallest first.
func (s *scaled) makeGroups(i int) error {
	for name, ranks := range meshOf(s.from+i, s.size, scaleLocal) {
		g, err := s.worlds[i].NewGroup(name, ranks)
		if err != nil {
			return err
		}
		s.groups[i] = append(s.groups[i], g)
	}
	slices.SortFunc(s.groups[i], func(a, b Group) int { return a.Size() - b.Size() })
	return nil
}

// each runs f for all ranks of this process at once.
func (s *scaled) each(f func(i int) error) error {
	errs := make([]error, len(s.worlds))
	var running sync.WaitGroup
	for i := range errs {
		running.Go(func() { errs[i] = f(i) })
	}
	running.Wait()
	var first error
	for i, err := range errs {
		if err == nil {
			continue
		}
		err = fmt.Errorf("rank %d: %w", s.from+i, err)
		lost, late := new(RankLostError), new(TimeoutError)
		if !errors.As(err, &lost) && !errors.As(err, &late) { // that is the cause
			return err
		}
		first = cmp.Or(first, err)
	}
	return first
}

func (s *scaled) tell(what string) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	open, _ := os.ReadDir("/proc/self/fd")
	s.report(scaleReport{What: what, Heap: m.HeapInuse, Stacks: m.StackInuse, Files: len(open), Barriers: s.worked})
}

// meshOf returns the groups of a rank: all ranks, its data group, which is the same place on all hosts, and its tensor group, the
// ranks of its host.
func meshOf(rank, size, local int) map[string][]int {
	groups := map[string][]int{"world": everyone(size)}
	for other := range size {
		if other%local == rank%local {
			groups["data"] = append(groups["data"], other)
		}
		if other/local == rank/local {
			groups["tensor"] = append(groups["tensor"], other)
		}
	}
	return groups
}
