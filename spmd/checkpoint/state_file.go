package checkpoint

import (
	"context"
	"hash"
	"io"
	"slices"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// suffix returns the ending of the state files' names.
func (s *Store) suffix() string {
	if s.format == Ckpt {
		return ckptSuffix
	}
	return ".safetensors"
}

// writeState writes a state file. In a .ckpt file the tensors have MindSpore's names.
func (s *Store) writeState(w io.Writer, tensors []safetensors.Tensor) error {
	if s.format != Ckpt {
		return safetensors.Write(w, tensors, nil)
	}
	tensors = slices.Clone(tensors)
	for i := range tensors {
		tensors[i].Name = mindSporeName(tensors[i].Name)
	}
	return mindspore.Write(w, tensors)
}

// hashWriter hashes what passes through while it is in the cache, a chunk at a time, and stops when ctx is done.
type hashWriter struct {
	ctx  context.Context
	w    io.Writer
	sum  hash.Hash
	size int64
}

func (h *hashWriter) Write(p []byte) (int, error) {
	done := 0
	for chunk := range slices.Chunk(p, chunkBytes) {
		if h.ctx.Err() != nil {
			return done, context.Cause(h.ctx)
		}
		n, err := h.w.Write(chunk)
		h.sum.Write(chunk[:n])
		h.size += int64(n)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
