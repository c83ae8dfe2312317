package mindspore

import (
	"fmt"
	"io"
	"unicode/utf8"

	"lockstep/spmd/checkpoint/safetensors"
)

// Write writes a .ckpt file with the tensors in the given order, as mindspore.save_checkpoint would. The bytes are a function
// of the arguments alone. A tensor whose Data writes more or fewer bytes than its shape says is an error.
func Write(w io.Writer, tensors []safetensors.Tensor) error { return write(w, tensors, sliceBytes) }

func write(w io.Writer, tensors []safetensors.Tensor, sliceBytes int) error {
	seen := map[string]bool{}
	for _, t := range tensors {
		size, err := t.Size()
		switch {
		case err != nil:
			return err
		case seen[t.Name]:
			return fmt.Errorf("tensor %q occurs twice", t.Name)
		case len(t.Name) > maxNameBytes || !utf8.ValidString(t.Name) || len(t.Shape) > maxDims:
			return fmt.Errorf("no tensor can be called %q, or have %d dimensions", t.Name, len(t.Shape))
		case typeName(t.DType) == "":
			return fmt.Errorf("tensor %q: MindSpore has no type for %s", t.Name, t.DType)
		}
		seen[t.Name] = true
		s := &slicer{w: w, tensor: t, remaining: size, limit: sliceBytes}
		if size == 0 {
			err = s.begin()
		}
		if err == nil {
			err = t.Data(s)
		}
		if err != nil {
			return fmt.Errorf("writing tensor %q: %w", t.Name, err)
		}
		if s.left+s.remaining != 0 {
			return fmt.Errorf("writing tensor %q: %s%v takes %d bytes, %d were given", t.Name, t.DType, t.Shape, size, size-s.left-s.remaining)
		}
	}
	return nil
}

// A slicer cuts a tensor's elements, as they come, into Values.
type slicer struct {
	w      io.Writer
	tensor safetensors.Tensor
	// left is what the Value that is begun still lacks, remaining what comes after it.
	left, remaining, limit int
}

func (s *slicer) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		if s.left == 0 && s.remaining == 0 {
			return done, fmt.Errorf("%d bytes too many for the shape", len(p))
		}
		if s.left == 0 {
			if err := s.begin(); err != nil {
				return done, err
			}
		}
		n, err := s.w.Write(p[:min(len(p), s.left)])
		done, s.left, p = done+n, s.left-n, p[n:]
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// begin writes everything of the next Value that comes before its elements.
func (s *slicer) begin() error {
	n := min(s.remaining, s.limit)
	s.left, s.remaining = n, s.remaining-n
	_, err := s.w.Write(encodeValue(s.tensor, n))
	return err
}

// encodeValue returns everything of a Value with n bytes of a tensor's elements that comes before them.
func encodeValue(t safetensors.Tensor, n int) []byte {
	typ := typeName(t.DType)
	var tensor []byte
	for _, d := range t.Shape {
		tensor = appendNumber(tensor, tensorDims, uint64(d))
	}
	tensor = append(appendLength(tensor, tensorType, len(typ)), typ...)
	tensor = appendLength(tensor, tensorContent, n)

	value := append(appendLength(nil, valueTag, len(t.Name)), t.Name...)
	value = append(appendLength(value, valueTensor, len(tensor)+n), tensor...)
	return append(appendLength(nil, checkpointValue, len(value)+n), value...)
}

// Spans returns where the elements of each tensor lie in the file that Write makes: in one place for each Value.
func Spans(tensors []safetensors.Tensor) ([][]safetensors.Span, error) {
	return spans(tensors, sliceBytes)
}

func spans(tensors []safetensors.Tensor, sliceBytes int) ([][]safetensors.Span, error) {
	list, at := make([][]safetensors.Span, len(tensors)), 0
	for i, t := range tensors {
		left, err := t.Size()
		if err != nil {
			return nil, err
		}
		for first := true; first || left > 0; first = false {
			n := min(left, sliceBytes)
			at += len(encodeValue(t, n))
			list[i] = append(list[i], safetensors.Span{At: at, Len: n})
			at, left = at+n, left-n
		}
	}
	return list, nil
}
