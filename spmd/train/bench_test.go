package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"lockstep/collective"
	"lockstep/kernels/cpu"
	"lockstep/spmd/config"
)

// The models of the speed comparison with PyTorch, see docs/benchmarks.md.
var benchModels = []struct {
	name, config    string
	batch, sequence int
}{
	{"llama-15m", `model_type = "llama"
hidden_size = 288
intermediate_size = 768
num_hidden_layers = 6
num_attention_heads = 6
num_key_value_heads = 6
tie_word_embeddings = true`, 4, 256},
	{"qwen3-42m", `model_type = "qwen3"
hidden_size = 512
intermediate_size = 1536
num_hidden_layers = 8
num_attention_heads = 8
num_key_value_heads = 4
head_dim = 64
tie_word_embeddings = true`, 4, 256},
	{"llama-110m", `model_type = "llama"
hidden_size = 768
intermediate_size = 2048
num_hidden_layers = 12
num_attention_heads = 12
num_key_value_heads = 12
tie_word_embeddings = true`, 1, 1024},
}

// BenchmarkStep times whole training steps: go test -run '^$' -bench Step/llama-15m ./spmd/train
func BenchmarkStep(b *testing.B) {
	for _, m := range benchModels {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads=%d", m.name, threads), func(b *testing.B) {
				t := benchTrainer(b, m.config, m.batch, m.sequence, threads)
				if _, _, err := t.step(0, false); err != nil { // touches all memory
					b.Fatal(err)
				}
				b.ResetTimer()
				b.ReportAllocs()
				for i := range b.N {
					if _, _, err := t.step(i+1, false); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*m.batch*m.sequence)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}

// benchTrainer returns a trainer of a model with vocabulary 32000 on random tokens.
func benchTrainer(b testing.TB, architecture string, batch, sequence, threads int, overrides ...string) *Trainer {
	b.Helper()
	dir := b.TempDir()
	prefix := filepath.Join(dir, "tokens")
	writeTokens(b, prefix, 64*1024, 32000)
	text := fmt.Sprintf(`
[run]
output_dir = %q
deterministic = "run"
[data]
format = "megatron"
paths = [%q]
sequence_length = %d
[train]
steps = 100000
global_batch_size = %d
micro_batch_size = %d
[optimizer]
lr = 1e-4
[checkpoint]
resume = "none"
[model.config]
vocab_size = 32000
max_position_embeddings = 1024
%s
`, filepath.Join(dir, "out"), prefix, sequence, batch, batch, architecture)
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	load := config.LoadOptions{Path: path, World: 1, Overrides: overrides, Getenv: func(string) string { return "" }}
	c, problems := config.Load(load)
	if len(problems) > 0 {
		b.Fatal(problems)
	}
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dev.Close() })
	world, err := collective.Join(context.Background(), collective.Options{Place: collective.Place{Size: 1, LocalSize: 1}, NewStream: dev.NewStream})
	if err != nil {
		b.Fatal(err)
	}
	layout, err := NewLayout(dev, c, 0, 1)
	if err != nil {
		b.Fatal(err)
	}
	if err := PrepareData(b.Context(), c, load, nil); err != nil {
		b.Fatal(err)
	}
	t, err := New(layout, Options{Load: load, Device: dev, Stream: dev.NewInlineStream("compute"), World: world,
		SumFloat32: cpu.SumFloat32, SumBFloat16: cpu.SumBFloat16, SumFloat64: cpu.SumFloat64, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { t.Close(); runtime.GC() })
	return t
}

// writeTokens writes n tokens below vocabulary as an indexed pair of uint16, from a linear congruential generator.
func writeTokens(b testing.TB, prefix string, n, vocabulary int) {
	b.Helper()
	bin := make([]byte, 0, 2*n)
	state := uint64(1)
	for range n {
		state = state*6364136223846793005 + 1442695040888963407
		bin = binary.LittleEndian.AppendUint16(bin, uint16((state>>33)%uint64(vocabulary)))
	}
	idx := append([]byte("MMIDIDX\x00\x00"), 1, 0, 0, 0, 0, 0, 0, 0, 8)
	for _, v := range []uint64{1, 2} {
		idx = binary.LittleEndian.AppendUint64(idx, v)
	}
	idx = binary.LittleEndian.AppendUint32(idx, uint32(n))
	for _, v := range []uint64{0, 0, 1} {
		idx = binary.LittleEndian.AppendUint64(idx, v)
	}
	for name, content := range map[string][]byte{prefix + ".bin": bin, prefix + ".idx": idx} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
