package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// headerAlign is what the header is filled up to with spaces, its length word included. The format asks for 8 bytes; a
// cache line lets a float32 file be used in place.
const headerAlign = 64

// A Tensor is one tensor to be written.
type Tensor struct {
	Name  string
	DType DType
	Shape []int
	// Data writes the elements, row-major and little-endian. It is called once, when the tensor's turn has come, so that
	// a large model need never be in memory as a whole.
	Data func(w io.Writer) error
}

// Bytes returns a Tensor.Data that writes b.
func Bytes(b []byte) func(w io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// Size returns the bytes of the tensor's elements.
func (t Tensor) Size() (int, error) {
	n, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return 0, fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	return n, nil
}

// Write writes a file with the tensors in the given order. The bytes are a function of the arguments alone. A tensor whose
// Data writes more or fewer bytes than its shape says is an error.
func Write(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	head, err := encodeHeader(tensors, metadata)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	for _, t := range tensors {
		size, err := t.Size()
		if err != nil {
			return err
		}
		counter := &limitedWriter{w: w, left: size}
		if err := t.Data(counter); err != nil {
			return fmt.Errorf("writing tensor %q: %w", t.Name, err)
		}
		if counter.left != 0 {
			return fmt.Errorf("writing tensor %q: %s%v takes %d bytes, %d were given", t.Name, t.DType, t.Shape, size, size-counter.left)
		}
	}
	return nil
}

// A Span is where elements lie in a file.
type Span struct{ At, Len int } // in bytes

// Spans returns where the elements of each tensor lie in the file that Write makes.
func Spans(tensors []Tensor, metadata map[string]string) ([][]Span, error) {
	head, err := encodeHeader(tensors, metadata)
	if err != nil {
		return nil, err
	}
	spans, at := make([][]Span, len(tensors)), len(head)
	for i, t := range tensors {
		size, err := t.Size()
		if err != nil {
			return nil, err
		}
		spans[i] = []Span{{at, size}}
		at += size
	}
	return spans, nil
}

// encodeHeader returns everything that comes before the elements.
func encodeHeader(tensors []Tensor, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	if len(metadata) > 0 {
		b.WriteString(quote(metadataKey) + ":{")
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(quote(key) + ":" + quote(metadata[key]))
		}
		b.WriteByte('}')
	}
	at, seen := 0, map[string]bool{}
	for i, t := range tensors {
		size, err := t.Size()
		switch {
		case err != nil:
			return nil, err
		case seen[t.Name]:
			return nil, fmt.Errorf("tensor %q occurs twice", t.Name)
		case t.Name == metadataKey || !utf8.ValidString(t.Name):
			return nil, fmt.Errorf("no tensor can be called %q", t.Name)
		case len(t.Shape) > maxDims || size > maxInt-at:
			return nil, fmt.Errorf("tensor %q: shape %v is too large", t.Name, t.Shape)
		}
		seen[t.Name] = true
		if i > 0 || len(metadata) > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s:{"dtype":%s,"shape":[`, quote(t.Name), quote(string(t.DType)))
		for k, n := range t.Shape {
			if k > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strconv.Itoa(n))
		}
		fmt.Fprintf(&b, `],"data_offsets":[%d,%d]}`, at, at+size)
		at += size
	}
	b.WriteByte('}')
	for b.Len()%headerAlign != 0 {
		b.WriteByte(' ')
	}
	if b.Len()-8 > maxHeaderBytes {
		return nil, fmt.Errorf("%d tensors need a header of %d bytes, more than the format's limit of %d; spread them over several files", len(tensors), b.Len()-8, maxHeaderBytes)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-8))
	return b.Bytes(), nil
}

// quote returns s as JSON, with <, > and & as they are.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(s) // a string into memory: cannot fail
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// limitedWriter refuses more than left bytes.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, fmt.Errorf("%d bytes too many for the shape", len(p)-l.left)
	}
	n, err := l.w.Write(p)
	l.left -= n
	return n, err
}
