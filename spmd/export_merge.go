package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
)

// An loraAdapter is a LoRA adapter that is to be exported, from a PEFT directory or a checkpoint.
type loraAdapter struct {
	config  checkpoint.AdapterConfig
	weights *checkpoint.Weights
}

// openAdapter opens a PEFT adapter, and the model that it belongs to.
func (s *modelSource) openAdapter(dir string) error {
	if !s.merge {
		return fmt.Errorf("%s is an adapter already; add --merge to merge it into its model", dir)
	}
	a, err := checkpoint.OpenAdapter(dir)
	if err != nil {
		return err
	}
	s.what, s.adapter, s.closers = dir, &loraAdapter{a.Config, a.Weights}, append(s.closers, a.Weights)
	return s.openBase(a.Config.BaseModel)
}

// openBase opens the model that an adapter or a part of a model belongs to: what the command line says, else dir. An adapter that
// is not merged does without.
func (s *modelSource) openBase(dir string) error {
	if s.adapter != nil && !s.merge {
		return nil
	}
	if dir = cmp.Or(s.base, dir); dir == "" {
		return fmt.Errorf("%s does not say which model it belongs to; name its directory with --base DIR", s.what)
	}
	what := s.what
	if err := s.openModel(dir); err != nil {
		return fmt.Errorf("the model of %s: %w; name its directory with --base DIR", what, err)
	}
	s.what = what + " and " + dir
	return nil
}

// check makes sure that each module of the adapter is a matrix of the model, and has both of its own.
func (a *loraAdapter) check(base *checkpoint.Weights) error {
	for _, name := range a.weights.Names() {
		module := strings.TrimSuffix(strings.TrimSuffix(name, checkpoint.LoRAA), checkpoint.LoRAB)
		shape, ok := base.Shape(module + ".weight")
		down, hasA := a.weights.Shape(module + checkpoint.LoRAA)
		up, hasB := a.weights.Shape(module + checkpoint.LoRAB)
		if !ok || len(shape) != 2 || !hasA || !hasB || len(down) != 2 || len(up) != 2 ||
			down[0] != a.config.Rank || down[1] != shape[1] || up[0] != shape[0] || up[1] != a.config.Rank {
			return fmt.Errorf("%s: the adapter's matrices are %v and %v with r = %d, the model's is %v; give the model that the adapter was trained on",
				module, down, up, a.config.Rank, shape)
		}
	}
	return nil
}

// mergeBytes is about how much of a matrix is merged at a time.
const mergeBytes = 16 << 20

// merge replaces the tensors of the model that the adapter changes by ones that add scale x B A, computed in float32, when they
// are written. close frees what that takes.
func (a *loraAdapter) merge(base *checkpoint.Weights, tensors []safetensors.Tensor) (close func() error, err error) {
	dev, err := cpu.New(cpu.Options{Threads: runtime.NumCPU()})
	if err != nil {
		return nil, err
	}
	stream := dev.NewInlineStream("merge")
	for i, t := range tensors {
		if module, ok := strings.CutSuffix(t.Name, ".weight"); ok {
			if _, adapted := a.weights.Shape(module + checkpoint.LoRAA); adapted {
				tensors[i].Data = func(w io.Writer) error { return a.write(w, dev, stream, base, module, t) }
			}
		}
	}
	return dev.Close, nil
}

// write writes one merged matrix.
func (a *loraAdapter) write(w io.Writer, dev *cpu.Device, stream device.Stream, base *checkpoint.Weights, module string, t safetensors.Tensor) (err error) {
	out, in, rank := t.Shape[0], t.Shape[1], a.config.Rank
	chunk := min(out, max(1, mergeBytes/(4*in)))
	var arena kernels.Arena
	place := func(arena *kernels.Arena) (sum, down, up kernels.Tensor) {
		return arena.Tensor(device.Float32, chunk, in), arena.Tensor(device.Float32, rank, in), arena.Tensor(device.Float32, out, rank)
	}
	place(&arena)
	storage, err := dev.Alloc(arena.Bytes())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, storage.Free()) }()
	sum, down, up := place(kernels.NewArena(storage))
	values := make([]float32, max(chunk*in, rank*in, out*rank))
	if err := a.weights.ReadFloat32(module+checkpoint.LoRAA, 0, values[:rank*in]); err != nil {
		return err
	}
	dev.Write(stream, down.Region(), device.BytesOf(values[:rank*in]))
	if err := a.weights.ReadFloat32(module+checkpoint.LoRAB, 0, values[:out*rank]); err != nil {
		return err
	}
	scale := float32(a.config.Scale())
	for i := range values[:out*rank] {
		values[i] *= scale
	}
	dev.Write(stream, up.Region(), device.BytesOf(values[:out*rank]))
	converted := make([]byte, chunk*in*t.DType.Bits()/8)
	for from := 0; from < out; from += chunk {
		rows := min(chunk, out-from)
		part, part32 := values[:rows*in], sum.Narrow(0, 0, rows)
		if err := base.ReadFloat32(t.Name, from*in, part); err != nil {
			return err
		}
		dev.Write(stream, part32.Region(), device.BytesOf(part))
		dev.MatMul(stream, part32, up.Narrow(0, from, from+rows), down, kernels.MatMulOptions{Accumulate: true})
		if err := dev.Read(stream, device.BytesOf(part), part32.Region()); err != nil {
			return err
		}
		bytes := converted[:rows*in*t.DType.Bits()/8]
		if err := safetensors.FromFloat32(bytes, part, t.DType); err != nil {
			return err
		}
		if _, err := w.Write(bytes); err != nil {
			return err
		}
	}
	return nil
}

// save writes the adapter as a PEFT directory, with elements of type d, "" for their own.
func (a *loraAdapter) save(dir string, d safetensors.DType) ([]safetensors.Tensor, error) {
	list, err := tensors(a.weights, "", d)
	if err != nil {
		return nil, err
	}
	return list, checkpoint.WriteAdapter(dir, a.config, list)
}
