package train

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"lockstep/collective"
	"lockstep/kernels/cpu"
	"lockstep/spmd/config"
)

// twoRanks makes the trainers of two ranks of a small model, which share memory. They live until the test ends.
func twoRanks(t *testing.T, overrides ...string) (trainers [2]*Trainer) {
	t.Helper()
	dir := t.TempDir()
	writeTokens(t, filepath.Join(dir, "tokens"), 64*1024, 320)
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(`
run.output_dir = "`+dir+`/out"
data = { format = "megatron", paths = "`+dir+`/tokens", sequence_length = 16 }
train = { steps = 100000, global_batch_size = 4 }
optimizer.lr = 1e-4
checkpoint.resume = "none"
[model.config]
model_type = "qwen3"
vocab_size = 320
max_position_embeddings = 1024
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 3
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
`), 0o644); err != nil {
		t.Fatal(err)
	}
	load := config.LoadOptions{Path: path, World: 2, Overrides: overrides, Getenv: func(string) string { return "" }}
	c, problems := config.Load(load)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	quiet, secret := slog.New(slog.DiscardHandler), make([]byte, collective.SecretSize)
	root, err := collective.NewRoot(collective.RootOptions{Size: 2, Job: "test", Secret: secret, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	onBoth(t, func(rank int) error {
		dev, err := cpu.New(cpu.Options{Threads: 1})
		if err != nil {
			return err
		}
		world, err := collective.Join(context.Background(), collective.Options{
			Place:  collective.Place{Rank: rank, Size: 2, LocalRank: rank, LocalSize: 2, Job: "test", Rendezvous: root.Addr()},
			Secret: secret, NewStream: dev.NewStream, Log: quiet})
		if err != nil {
			return err
		}
		layout, err := NewLayout(dev, c, rank, 2)
		if err := errors.Join(err, PrepareData(t.Context(), c, load, nil)); err != nil {
			return err
		}
		trainers[rank], err = New(layout, Options{Load: load, Device: dev, Stream: dev.NewInlineStream("compute"), World: world,
			SumFloat32: cpu.SumFloat32, SumBFloat16: cpu.SumBFloat16, SumFloat64: cpu.SumFloat64, Log: quiet})
		return err
	})
	t.Cleanup(func() {
		onBoth(t, func(rank int) error {
			return errors.Join(trainers[rank].Close(), trainers[rank].World.Close(), trainers[rank].Device.Close())
		})
	})
	return trainers
}

// onBoth does something on two ranks at once.
func onBoth(t *testing.T, do func(rank int) error) {
	t.Helper()
	other := make(chan error)
	go func() { other <- do(1) }()
	if err := errors.Join(do(0), <-other); err != nil {
		t.Fatal(err)
	}
}

// TestSharedStepAllocatesNothing counts what steps of two ranks, which share more and more, take from the Go heap.
func TestSharedStepAllocatesNothing(t *testing.T) {
	for _, deterministic := range []string{"layout", "run"} {
		for stage := range 4 {
			trainers := twoRanks(t, "run.deterministic="+deterministic, fmt.Sprintf("parallel.zero_stage=%d", stage), "parallel.bucket_mb=0.02")
			begin, ended, next := make(chan int), make(chan error), 0
			go func() {
				for n := range begin {
					_, _, err := trainers[1].step(n, false)
					ended <- err
				}
			}()
			step := func() {
				begin <- next
				_, _, err := trainers[0].step(next, false)
				if err := errors.Join(err, <-ended); err != nil {
					t.Fatal(err)
				}
				next++
			}
			for range 5 {
				step()
			}
			if n := testing.AllocsPerRun(20, step); n != 0 {
				t.Errorf("ZeRO %d, %s: a step of two ranks allocates %g times", stage, deterministic, n)
			}
			close(begin)
		}
	}
}
