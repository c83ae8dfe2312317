package bench

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"lockstep/collective"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
)

// run measures with n ranks in this process and returns rank 0's rows.
func run(t *testing.T, n int, o Options, backend string) []Row {
	t.Helper()
	quiet, secret := slog.New(slog.DiscardHandler), make([]byte, collective.SecretSize)
	root, err := collective.NewRoot(collective.RootOptions{Size: n, Job: "test", Secret: secret, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var rows []Row
	rank := func(rank int) (err error) {
		dev, err := cpu.New(cpu.Options{Threads: 1})
		if err != nil {
			return err
		}
		defer dev.Close()
		o := o
		o.Device = dev
		w, err := collective.Join(context.Background(), collective.Options{
			Place:  collective.Place{Rank: rank, Size: n, LocalRank: rank, LocalSize: n, Job: "test", Rendezvous: root.Addr()},
			Secret: secret, Backend: backend, NewStream: dev.NewStream, Log: quiet,
		})
		if err != nil {
			return err
		}
		if err = Run(context.Background(), w, o, func(r Row) { rows = append(rows, r) }); err != nil {
			w.Abort(err)
		}
		return errors.Join(err, w.Close())
	}
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			if err := rank(i); err != nil {
				t.Errorf("rank %d: %v", i, err)
			}
		})
	}
	running.Wait()
	return rows
}

func folds() map[device.DType]map[collective.ReduceOp]func(dst, src [][]byte) {
	return map[device.DType]map[collective.ReduceOp]func(dst, src [][]byte){
		device.Float32:  {collective.Sum: cpu.SumFloat32, collective.Max: cpu.MaxFloat32},
		device.BFloat16: {collective.Sum: cpu.SumBFloat16, collective.Max: cpu.MaxBFloat16},
	}
}

// TestEverything measures all operations; each checks its own result.
func TestEverything(t *testing.T) {
	for _, n := range []int{1, 3, 4} {
		for _, backend := range []string{collective.BackendTCP, collective.BackendShm} {
			o := Options{Operations: Operations(), Sizes: []int{4, 1000, 70_000}, DType: device.BFloat16, Folds: folds(), Iterations: 1, Groups: 1, Symmetric: true}
			if n == 3 {
				o.DType, o.Reduce, o.Symmetric = device.Float32, collective.Max, false
			}
			if n == 4 {
				o.Groups = 2
			}
			rows := run(t, n, o, backend)
			if want := 3*(len(Operations())-1) + 1; len(rows) != want {
				t.Errorf("%d rows, want %d", len(rows), want)
			}
			for _, r := range rows {
				if r.MinUS > r.MedianUS || r.MedianUS > r.MaxUS || r.Ranks != n/o.Groups || r.Iterations != 1 {
					t.Errorf("%d ranks over %s: %+v", n, backend, r)
				}
			}
		}
	}
}

// TestCheckFinds breaks a reduction and expects the check before the measurement to see it.
func TestCheckFinds(t *testing.T) {
	o := Options{Operations: []string{"all-reduce"}, Sizes: []int{400}, DType: device.Float32, Iterations: 1, Folds: folds(), Groups: 1}
	c := (&bench{Options: o, group: alone{}, pattern: make([]byte, 4*patternElements), read: make([]byte, 400)}).newCall(operations[0], 400)
	c.p = 2 // as if there were another member
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if c.dst.Storage, err = dev.Alloc(400); err != nil {
		t.Fatal(err)
	}
	if err := c.check(dev, dev.NewInlineStream("test")); err == nil || !strings.Contains(err.Error(), "the result is wrong") {
		t.Errorf("a buffer of zeroes passed: %v", err)
	}
}

// alone is a group of one, of which only the size counts.
type alone struct{ collective.Group }

func (alone) Rank() int                    { return 0 }
func (alone) Size() int                    { return 1 }
func (a alone) Blocking() collective.Group { return a }

func TestPlan(t *testing.T) {
	lines, err := Plan([]string{"all-reduce", "barrier"}, []int{1 << 10, 64 << 20}, collective.Case{Members: 8, Hosts: 1})
	if err != nil {
		t.Fatal(err)
	}
	best := map[string]string{}
	for _, line := range lines {
		if f := strings.Fields(line); strings.HasPrefix(f[2], "*") {
			best[f[0]+" "+f[1]] = f[2]
		}
		if strings.Contains(line, "ring") {
			t.Errorf("an order that is not allowed: %s", line)
		}
	}
	if len(best) != 3 || best["all-reduce 1024"] != "*doubling" || best["all-reduce 67108864"] == "*doubling" {
		t.Errorf("best: %v", best)
	}
	if _, err := Plan([]string{"all-reduce"}, []int{8}, collective.Case{Members: 5, Hosts: 2}); err == nil {
		t.Error("5 members on 2 hosts in equal numbers")
	}
}
