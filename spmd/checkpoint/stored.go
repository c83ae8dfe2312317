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
	Close() error
}

// stored is a tensor in mapped files. Its elements, row-major and little-endian, are those of parts, one after the other.
type stored struct {
	name  string
	path  string // of the file, for error messages
	dtype safetensors.DType
	shape []int
	parts [][]byte
}

// storedSafetensors lists the tensors of a safetensors file.
func storedSafetensors(f *safetensors.File) []stored {
	var list []stored
	for _, t := range f.Tensors() {
		list = append(list, stored{name: t.Name, path: f.Path(), dtype: t.DType, shape: t.Shape, parts: [][]byte{f.Bytes(t.Name)}})
	}
	return list
}

// storedMindSpore lists the tensors of a MindSpore checkpoint.
func storedMindSpore(f *mindspore.File) []stored {
	var list []stored
	for _, t := range f.Tensors() {
		list = append(list, stored{name: t.Name, path: f.Path(), dtype: t.DType, shape: t.Shape, parts: t.Slices})
	}
	return list
}

// bytes returns all elements: the mapping itself where they lie together, else a copy.
func (t stored) bytes() []byte {
	if len(t.parts) == 1 {
		return t.parts[0]
	}
	var all []byte
	for _, p := range t.parts {
		all = append(all, p...)
	}
	return all
}

// slice returns the parts of the n bytes from byte from on.
func (t stored) slice(from, n int) [][]byte {
	var parts [][]byte
	for _, p := range t.parts {
		if from >= len(p) {
			from -= len(p)
			continue
		}
		if n == 0 {
			break
		}
		piece := p[from:min(len(p), from+n)]
		parts, from, n = append(parts, piece), 0, n-len(piece)
	}
	return parts
}

// rows returns the parts of the rows [from, to). A row is what one index of the first dimension selects.
func (t stored) rows(from, to int) [][]byte {
	width := elements(t.shape[1:]) * t.dtype.Bits() / 8
	return t.slice(from*width, (to-from)*width)
}

// readAt converts len(dst) elements from element first on.
func (t stored) readAt(first int, dst []float32) error {
	size := t.dtype.Bits() / 8
	if size == 0 { // types of less than a byte are refused by the conversion
		return t.fail(safetensors.ToFloat32(dst, nil, t.dtype))
	}
	for _, part := range t.slice(first*size, len(dst)*size) {
		n := len(part) / size
		if err := safetensors.ToFloat32(dst[:n], part, t.dtype); err != nil {
			return t.fail(err)
		}
		dst = dst[n:]
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
			for _, p := range t.parts {
				if _, err := w.Write(p); err != nil {
					return err
				}
			}
			return nil
		}
		return t.convert(w, d)
	}}
}

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
