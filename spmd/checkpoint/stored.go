package checkpoint

import (
	"fmt"
	"io"

	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
)

// A tensorFile is a mapped file of tensors.
type tensorFile interface {
	Path() string
	Bytes() []byte
	Close() error
}

// stored is a tensor in files. Its elements, row-major and little-endian, are those of parts, one after the other.
type stored struct {
	name  string
	path  string // of the file, for error messages
	dtype safetensors.DType
	shape []int
	parts []extent
}

// An extent is a stretch of bytes of a source, which holds whole elements.
type extent struct {
	from    source
	at, len int
}

// A source has the elements of tensors.
type source interface {
	// readAt fills p with the bytes from at on.
	readAt(p []byte, at int) error
}

// mapped is a tensorFile as a source.
type mapped struct{ tensorFile }

func (m mapped) readAt(p []byte, at int) error {
	copy(p, m.Bytes()[at:])
	return nil
}

// extents are the spans of a file.
func extents(f tensorFile, spans ...safetensors.Span) []extent {
	var list []extent
	for _, s := range spans {
		list = append(list, extent{mapped{f}, s.At, s.Len})
	}
	return list
}

// storedSafetensors lists the tensors of a safetensors file.
func storedSafetensors(f *safetensors.File) []stored {
	var list []stored
	for _, t := range f.Tensors() {
		span, _ := f.Span(t.Name)
		list = append(list, stored{name: t.Name, path: f.Path(), dtype: t.DType, shape: t.Shape, parts: extents(f, span)})
	}
	return list
}

// storedMindSpore lists the tensors of a MindSpore checkpoint.
func storedMindSpore(f *mindspore.File) []stored {
	var list []stored
	for _, t := range f.Tensors() {
		list = append(list, stored{name: t.Name, path: f.Path(), dtype: t.DType, shape: t.Shape, parts: extents(f, t.Spans...)})
	}
	return list
}

// slice returns where the n bytes from byte from on are.
func (t stored) slice(from, n int) []extent {
	var parts []extent
	for _, p := range t.parts {
		if from >= p.len {
			from -= p.len
			continue
		}
		if n == 0 {
			break
		}
		piece := extent{p.from, p.at + from, min(p.len-from, n)}
		parts, from, n = append(parts, piece), 0, n-piece.len
	}
	return parts
}

// rows returns where the rows [from, to) are. A row is what one index of the first dimension selects.
func (t stored) rows(from, to int) []extent {
	width := elements(t.shape[1:]) * t.dtype.Bits() / 8
	return t.slice(from*width, (to-from)*width)
}

// readAt converts len(dst) elements from element first on.
func (t stored) readAt(first int, dst []float32) error {
	size := t.dtype.Bits() / 8
	if size == 0 { // types of less than a byte are refused by the conversion
		return t.fail(safetensors.ToFloat32(dst, nil, t.dtype))
	}
	err := t.eachPiece(first*size, len(dst)*size, func(piece []byte) error {
		n := len(piece) / size
		err := safetensors.ToFloat32(dst[:n], piece, t.dtype)
		dst = dst[n:]
		return err
	})
	if err != nil {
		return t.fail(err)
	}
	return nil
}

// eachPiece calls f with the n bytes from byte from on, a piece at a time. A piece is gone when f returns.
func (t stored) eachPiece(from, n int, f func(piece []byte) error) error {
	buffer := make([]byte, min(n, chunkBytes))
	for _, p := range t.slice(from, n) {
		for at := 0; at < p.len; at += len(buffer) {
			piece := buffer[:min(len(buffer), p.len-at)]
			if err := p.from.readAt(piece, p.at+at); err != nil {
				return err
			}
			if err := f(piece); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t stored) fail(err error) error {
	return fmt.Errorf("%s: tensor %q: %w", t.path, t.name, err)
}

// as returns the tensor to be written with elements of type d. Where that is its own type, the bytes are kept.
func (t stored) as(d safetensors.DType) safetensors.Tensor {
	return safetensors.Tensor{Name: t.name, DType: d, Shape: t.shape, Data: func(w io.Writer) error {
		if d == t.dtype {
			return t.copyTo(w)
		}
		return t.convert(w, d)
	}}
}

// copyTo writes the elements as they are.
func (t stored) copyTo(w io.Writer) error {
	return t.eachPiece(0, t.bytes(), func(piece []byte) error {
		_, err := w.Write(piece)
		return err
	})
}

// bytes returns the size of all elements.
func (t stored) bytes() int { return elements(t.shape) * t.dtype.Bits() / 8 }

// convert writes the elements as type d, a chunk at a time.
func (t stored) convert(w io.Writer, d safetensors.DType) error {
	values := make([]float32, min(elements(t.shape), chunkBytes/4))
	out := make([]byte, len(values)*d.Bits()/8)
	for first, end := 0, elements(t.shape); first < end; first += len(values) {
		values = values[:min(len(values), end-first)]
		if err := t.readAt(first, values); err != nil {
			return err
		}
		out = out[:len(values)*d.Bits()/8]
		if err := safetensors.FromFloat32(out, values, d); err != nil {
			return t.fail(err)
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
	}
	return nil
}

// elements returns the number of elements of a shape.
func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
