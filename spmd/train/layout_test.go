package train_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/deferred"
	"lockstep/kernels/device"
	"lockstep/spmd/monitor"
	"lockstep/spmd/train"
)

// An opener makes a rank's device, and streams for its computation.
type opener func(threads int) (dev kernels.Device, stream, beside device.Stream, err error)

func openCPU(threads int) (kernels.Device, device.Stream, device.Stream, error) {
	dev, err := cpu.New(cpu.Options{Threads: threads, BFloat16: true})
	if err != nil {
		return nil, nil, nil, err
	}
	return dev, dev.NewInlineStream("compute"), dev.NewInlineStream("beside"), nil
}

func openDeferred(threads int) (kernels.Device, device.Stream, device.Stream, error) {
	dev, err := deferred.New(cpu.Options{Threads: threads, BFloat16: true})
	if err != nil {
		return nil, nil, nil, err
	}
	return dev, dev.NewStream("compute"), dev.NewStream("beside"), nil
}

// runRanks trains a configuration on several ranks in this process and returns the records of rank 0.
func runRanks(t *testing.T, text string, ranks, threads int, overrides ...string) *memorySink {
	t.Helper()
	return runRanksOn(t, openCPU, text, ranks, threads, overrides...)
}

func runRanksOn(t *testing.T, open opener, text string, ranks, threads int, overrides ...string) *memorySink {
	t.Helper()
	secret := make([]byte, collective.SecretSize)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	root, err := collective.NewRoot(collective.RootOptions{Size: ranks, Job: "test", Secret: secret, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	c, load := loadConfig(t, text, ranks, overrides...)
	sink, sent := &memorySink{}, make([]int, ranks)
	one := func(rank int) (err error) {
		dev, stream, beside, err := open(threads)
		if err != nil {
			return err
		}
		defer dev.Close()
		if err := train.PrepareData(t.Context(), c, load, nil); err != nil {
			return err
		}
		world, err := collective.Join(context.Background(), collective.Options{
			Place:  collective.Place{Rank: rank, Size: ranks, LocalRank: rank, LocalSize: ranks, Job: "test", Rendezvous: root.Addr()},
			Secret: secret, NewStream: dev.NewStream, Backend: c.Collective.Backend, Log: quiet})
		if err != nil {
			return err
		}
		defer func() {
			if err != nil {
				world.Abort(err)
			}
			err = errors.Join(err, world.Close())
		}()
		layout, err := train.NewLayout(dev, c, rank, ranks)
		if err != nil {
			return err
		}
		tr, err := train.New(layout, train.Options{Load: load, Device: dev, Stream: stream, Beside: beside, World: world,
			SumFloat32: cpu.SumFloat32, SumBFloat16: cpu.SumBFloat16, SumFloat64: cpu.SumFloat64, Sink: sink, Log: quiet})
		if err != nil {
			return err
		}
		err = tr.Run(context.Background())
		sent[rank] = world.Sent()
		return errors.Join(err, tr.Close())
	}
	errs := make([]error, ranks)
	var running sync.WaitGroup
	for rank := range ranks {
		running.Go(func() { errs[rank] = one(rank) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, n := range sent {
		sink.sent += n
	}
	return sink
}

// files returns the contents of all files below dir.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("%s is empty", dir)
	}
	return out
}

// sameFiles compares two directories byte for byte.
func sameFiles(t *testing.T, what, want, got string) {
	t.Helper()
	w, g := files(t, want), files(t, got)
	if len(w) != len(g) {
		t.Errorf("%s: %d files, want %d", what, len(g), len(w))
	}
	for name := range w {
		if !bytes.Equal(w[name], g[name]) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

// sameNumbers compares what a run reported, bit for bit.
func sameNumbers(t *testing.T, what string, want, got []monitor.Step) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%s: %d steps, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if g := got[i]; g.Step != w.Step || g.Loss != w.Loss || g.GradNorm != w.GradNorm || g.LR != w.LR {
			t.Errorf("%s: step %d has loss %v, grad_norm %v, lr %v; want step %d with %v, %v, %v", what, g.Step, g.Loss, g.GradNorm, g.LR, w.Step, w.Loss, w.GradNorm, w.LR)
			return
		}
	}
}

// layoutText is a short run whose micro batches fill the lanes unevenly.
func layoutText(family, out string, microBatches int) string {
	return fmt.Sprintf(`
[run]
output_dir = %q
[model]
path = "testdata/golden/%s"
init = "random"
[data]
format = "megatron"
paths = ["testdata/golden/corpus"]
sequence_length = 21
validation_split = 0.1
validation_interval = 3
[train]
steps = 5
global_batch_size = %d
clip_grad_norm = 0.5
[optimizer]
lr = 3e-3
`, out, family, microBatches)
}

// TestLayoutsGiveTheSameBits trains on 1, 2, 4 and 8 ranks and with 1 and 2 threads.
func TestLayoutsGiveTheSameBits(t *testing.T) {
	for _, c := range []struct {
		family       string
		microBatches int
		overrides    []string
	}{{"llama", 16, nil}, {"qwen2", 8, nil}, {"qwen3", 24, nil}, {"qwen3_moe", 8, nil},
		{"deepseek_v3", 8, []string{"moe.bias_update_rate=0.01", "moe.aux_loss=sequence", "moe.aux_loss_weight=0.01", "train.mtp_loss_weight=0.3",
			"model.overrides.num_nextn_predict_layers=2"}},
		{"qwen3", 16, append([]string{"data.paths=testdata/golden/documents"}, documentMasks...)}} {
		dir := t.TempDir()
		out := func(ranks, threads int) string { return filepath.Join(dir, fmt.Sprintf("%d-%d", ranks, threads)) }
		want := runRanks(t, layoutText(c.family, out(1, 1), c.microBatches), 1, 1, c.overrides...)
		if len(want.validations) != 3 || want.steps[0].Loss == want.steps[4].Loss {
			t.Fatalf("the run to compare with is odd: %+v", want)
		}
		for _, l := range [][2]int{{1, 2}, {2, 1}, {4, 2}, {8, 1}} {
			got := runRanks(t, layoutText(c.family, out(l[0], l[1]), c.microBatches), l[0], l[1], c.overrides...)
			what := fmt.Sprintf("%s on %d ranks with %d threads", c.family, l[0], l[1])
			sameNumbers(t, what, want.steps, got.steps)
			if !slices.Equal(got.validations, want.validations) {
				t.Errorf("%s: validation %+v, want %+v", what, got.validations, want.validations)
			}
			sameFiles(t, what, filepath.Join(out(1, 1), "model"), filepath.Join(out(l[0], l[1]), "model"))
		}
	}
}

// TestStopAndResumeGiveTheSameBits stops a run, goes on with another number of ranks, and compares with the unbroken run.
func TestStopAndResumeGiveTheSameBits(t *testing.T) {
	dir := t.TempDir()
	unbroken, broken := filepath.Join(dir, "unbroken"), filepath.Join(dir, "broken")
	want := runRanks(t, layoutText("qwen3", unbroken, 8), 2, 1)
	first := runRanks(t, layoutText("qwen3", broken, 8), 2, 1, "run.stop_step=2")
	if len(first.steps) != 2 {
		t.Fatalf("the run went to step %d, want 2", len(first.steps))
	}
	if again := runRanks(t, layoutText("qwen3", broken, 8), 2, 1, "run.stop_step=2"); len(again.steps) != 0 {
		t.Errorf("the same command made %d steps beyond run.stop_step", len(again.steps))
	}
	if _, err := os.Stat(filepath.Join(broken, "model")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run that stopped early wrote a model: %v", err)
	}
	second := runRanks(t, layoutText("qwen3", broken, 8), 4, 1)
	sameNumbers(t, "resumed", want.steps, append(first.steps, second.steps...))
	sameFiles(t, "resumed", filepath.Join(unbroken, "model"), filepath.Join(broken, "model"))
	again := runRanks(t, layoutText("qwen3", broken, 8), 1, 1)
	if len(again.steps) != 0 {
		t.Errorf("a run at its end made %d more steps", len(again.steps))
	}
	longer := runRanks(t, layoutText("qwen3", broken, 8), 1, 1, "train.steps=6")
	if len(longer.steps) != 1 || longer.steps[0].Step != 6 {
		t.Errorf("with one step more the run made %+v", longer.steps)
	}
}

// TestResumeRefusesOtherNumbers changes what decides the numbers between two parts of a run.
func TestResumeRefusesOtherNumbers(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	runRanks(t, layoutText("qwen2", out, 8), 1, 1, "run.stop_step=1")
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	c, load := loadConfig(t, layoutText("qwen2", out, 8), 1, "optimizer.lr=1e-3", "run.seed=7", "data.eod=256", "data.eod_mask_loss=true")
	world, err := collective.Join(context.Background(), collective.Options{Place: collective.Place{Size: 1, LocalSize: 1}, NewStream: dev.NewStream})
	if err != nil {
		t.Fatal(err)
	}
	defer world.Close()
	layout, err := train.NewLayout(dev, c, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = train.New(layout, train.Options{Load: load, Device: dev, Stream: dev.NewInlineStream("compute"), World: world,
		SumFloat32: cpu.SumFloat32, SumBFloat16: cpu.SumBFloat16, SumFloat64: cpu.SumFloat64, Log: slog.New(slog.DiscardHandler)})
	var wrong *train.ConfigurationError
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want a configuration error", err)
	}
	for _, part := range []string{"run.seed was 42, now 7", "optimizer.lr was 0.003, now 0.001", "data.eod_mask_loss was false, now true"} {
		if !bytes.Contains([]byte(err.Error()), []byte(part)) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}
