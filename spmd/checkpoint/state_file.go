package checkpoint

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"path/filepath"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// contribution is what a rank has written of a checkpoint: its file, none where File.Name is empty, and the slices in it.
type contribution struct {
	Record  Record // of rank 0
	File    fileEntry
	Tensors []tensorEntry
}

// writeState writes this rank's state file to the directory dir. A rank that has nothing to write makes none.
func (s *Store) writeState(ctx context.Context, dir string, snapshot *Snapshot, pace *pace) (c contribution, err error) {
	if s.peers.Rank() == 0 {
		c.Record = snapshot.Record
	}
	var pieces []Piece
	var tensors []safetensors.Tensor
	for _, p := range snapshot.Pieces {
		switch t := (safetensors.Tensor{Name: p.Name, DType: p.DType, Shape: p.Slice.Shape, Data: p.Data}); {
		case p.Slice.Len() > 0:
			if !p.Slice.IsBox() {
				t.Shape = []int{p.Slice.Len()}
			}
			pieces, tensors = append(pieces, p), append(tensors, t)
		case elements(p.Slice.Whole) == 0: // it is in no file, and has to be known
			c.Tensors = append(c.Tensors, tensorEntry{Name: p.Name, DType: p.DType, Shape: p.Slice.Whole})
		}
	}
	if len(pieces) == 0 {
		return c, nil
	}
	spans, write, err := s.layOut(tensors)
	if err != nil {
		return c, err
	}
	for i, p := range pieces {
		c.Tensors = append(c.Tensors, describePiece(p, spans[i]))
	}
	c.File.Name = fmt.Sprintf("state-%05d%s", s.peers.Rank(), s.suffix())
	h := &chunkHasher{ctx: ctx, chunk: s.chunk, sum: sha256.New(), pace: pace}
	if pace != nil {
		total := 0
		for _, p := range pieces {
			total += p.bytes(p.Slice.Len())
		}
		pace.start(total)
	}
	err = writeFile(s.fsys, filepath.Join(dir, c.File.Name), func(out io.Writer) error {
		h.w = out
		return write(h)
	})
	c.File.Size, c.File.Chunk, c.File.Sums = int64(h.size), int64(s.chunk), h.sums()
	return c, err
}

// suffix returns the ending of the state files' names.
func (s *Store) suffix() string {
	if s.Format == Ckpt {
		return ckptSuffix
	}
	return ".safetensors"
}

// layOut says where the tensors will lie in a state file, and what writes it. In a .ckpt file they have MindSpore's names.
func (s *Store) layOut(tensors []safetensors.Tensor) (spans [][]safetensors.Span, write func(w io.Writer) error, err error) {
	if s.Format != Ckpt {
		spans, err = safetensors.Spans(tensors, nil)
		return spans, func(w io.Writer) error { return safetensors.Write(w, tensors, nil) }, err
	}
	for i := range tensors {
		tensors[i].Name = mindSporeName(tensors[i].Name)
	}
	spans, err = mindspore.Spans(tensors)
	return spans, func(w io.Writer) error { return mindspore.Write(w, tensors) }, err
}

// describePiece says where in its file the elements of a piece are.
func describePiece(p Piece, spans []safetensors.Span) tensorEntry {
	t := tensorEntry{Name: p.Name, DType: p.DType, Shape: p.Slice.Whole}
	done := 0
	for _, span := range spans {
		n := span.Len / p.bytes(1)
		t.Pieces = append(t.Pieces, newPieceEntry(p.Slice.Range(done, done+n), int64(span.At)))
		done += n
	}
	return t
}

// chunkHasher hashes what passes through while it is in the cache, chunk by chunk, and stops when ctx is done.
type chunkHasher struct {
	ctx   context.Context
	w     io.Writer
	sum   hash.Hash // of the chunk that is begun
	done  []byte    // the checksums of those before
	size  int
	chunk int
	pace  *pace
}

func (h *chunkHasher) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if h.ctx.Err() != nil {
			return done, context.Cause(h.ctx)
		}
		n, err := h.w.Write(p[done:min(len(p), done+h.chunk-h.size%h.chunk)])
		h.sum.Write(p[done : done+n])
		h.size += n
		done += n
		if err != nil {
			return done, err
		}
		if h.size%h.chunk == 0 {
			h.done = h.sum.Sum(h.done)
			h.sum.Reset()
			if h.pace != nil {
				h.pace.rest(h.ctx, h.size)
			}
		}
	}
	return done, nil
}

// sums returns the checksums of all chunks.
func (h *chunkHasher) sums() []byte {
	if h.size%h.chunk == 0 && h.size > 0 {
		return h.done
	}
	return h.sum.Sum(h.done)
}
