package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	// maxHeaderBytes is the reference implementation's limit, far above any real header: it keeps eight damaged bytes
	// from asking for all of memory.
	maxHeaderBytes = 100_000_000
	// maxDims bounds the dimensions of one tensor. No framework goes beyond 64.
	maxDims = 64
	// metadataKey is the one key of the header that names no tensor.
	metadataKey = "__metadata__"
	// maxInt is the largest size in bytes, and the largest dimension.
	maxInt = int(^uint(0) >> 1)
)

// header is what the first part of a file says.
type header struct {
	tensors  []Info // in the order of their bytes
	metadata map[string]string
	dataAt   int // where the tensors' bytes begin in the file
}

// parseHeader reads and checks the header of a file whose whole contents are data. Errors name the tensor, or the byte of
// the file at which the header stops making sense; the caller adds the file's name and the remedy.
func parseHeader(data []byte) (*header, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("%d bytes are too few for a header", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if n > maxHeaderBytes {
		return nil, fmt.Errorf("the first 8 bytes give a header of %d bytes, more than the format's limit of %d", n, maxHeaderBytes)
	}
	if n > uint64(len(data)-8) {
		return nil, fmt.Errorf("the header has %d bytes, but only %d follow: the file is cut short", n, len(data)-8)
	}
	h := &header{dataAt: 8 + int(n)}
	text := data[8:h.dataAt]
	if !utf8.Valid(text) {
		return nil, errors.New("the header is not UTF-8")
	}
	p := &headerParser{dec: json.NewDecoder(bytes.NewReader(text)), header: h, seen: map[string]bool{}}
	p.dec.UseNumber()
	if err := p.parse(); err != nil {
		return nil, fmt.Errorf("header, byte %d of the file: %w", 8+p.dec.InputOffset(), err)
	}
	slices.SortStableFunc(h.tensors, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	return h, h.check(len(data) - h.dataAt)
}

// check makes sure that the tensors cover the size bytes after the header exactly once.
func (h *header) check(size int) error {
	at := 0
	for _, t := range h.tensors {
		if want, err := byteSize(t.DType, t.Shape); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		} else if t.End-t.Start != want {
			return fmt.Errorf("tensor %q: %s%v takes %d bytes, data_offsets [%d, %d] hold %d", t.Name, t.DType, t.Shape, want, t.Start, t.End, t.End-t.Start)
		}
		switch {
		case t.End > size:
			return fmt.Errorf("tensor %q: ends at byte %d of the data, but there are only %d: the file is cut short", t.Name, t.End, size)
		case t.Start < at:
			return fmt.Errorf("tensor %q: starts at byte %d of the data, inside the tensor before it, which ends at %d", t.Name, t.Start, at)
		case t.Start > at:
			return fmt.Errorf("tensor %q: starts at byte %d of the data, leaving a hole from %d", t.Name, t.Start, at)
		}
		at = t.End
	}
	if at != size {
		return fmt.Errorf("the tensors end at byte %d of the data, but the file has %d", at, size)
	}
	return nil
}

// byteSize returns the bytes that a tensor takes.
func byteSize(d DType, shape []int) (int, error) {
	if d.Bits() == 0 {
		return 0, fmt.Errorf("the format has no dtype %q", string(d))
	}
	total := uint64(d.Bits())
	for _, n := range shape {
		high, low := bits.Mul64(total, uint64(n))
		if n < 0 || high != 0 || low > uint64(maxInt) {
			return 0, fmt.Errorf("shape %v is impossible", shape)
		}
		total = low
	}
	if total%8 != 0 {
		return 0, fmt.Errorf("%s%v does not fill whole bytes", d, shape)
	}
	return int(total / 8), nil
}

// headerParser walks through the header token by token. It knows what may come next at every point, so nesting is
// bounded, and keys that occur twice, which ordinary decoding would let pass, are seen.
type headerParser struct {
	dec    *json.Decoder
	header *header
	seen   map[string]bool
}

func (p *headerParser) parse() error {
	err := p.object("the header", func(key string) error {
		if p.seen[key] {
			return fmt.Errorf("%q occurs twice", key)
		}
		p.seen[key] = true
		if key == metadataKey {
			return p.metadata()
		}
		return p.tensor(key)
	})
	if err != nil {
		return err
	}
	if _, err := p.dec.Token(); err != io.EOF {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func (p *headerParser) metadata() error {
	m := map[string]string{}
	p.header.metadata = m
	return p.object(metadataKey, func(key string) error {
		if _, ok := m[key]; ok {
			return fmt.Errorf("%s: %q occurs twice", metadataKey, key)
		}
		value, err := p.string(metadataKey)
		m[key] = value
		return err
	})
}

func (p *headerParser) tensor(name string) error {
	t := Info{Name: name, Shape: []int{}}
	var hasDType, hasShape, hasOffsets bool
	what := fmt.Sprintf("tensor %q", name)
	err := p.object(what, func(key string) error {
		once := func(has *bool) error {
			if *has {
				return fmt.Errorf("%s: %q occurs twice", what, key)
			}
			*has = true
			return nil
		}
		switch key {
		case "dtype":
			d, err := p.string(what + ", dtype")
			t.DType = DType(d)
			return errors.Join(once(&hasDType), err)
		case "shape":
			var err error
			t.Shape, err = p.integers(what+", shape", maxDims)
			return errors.Join(once(&hasShape), err)
		case "data_offsets":
			offsets, err := p.integers(what+", data_offsets", 2)
			if err == nil && (len(offsets) != 2 || offsets[0] > offsets[1]) {
				err = fmt.Errorf("%s: data_offsets are %v, expected [start, end]", what, offsets)
			}
			if err != nil {
				return err
			}
			t.Start, t.End = offsets[0], offsets[1]
			return once(&hasOffsets)
		}
		return fmt.Errorf("%s: unknown key %q", what, key)
	})
	if err == nil && !(hasDType && hasShape && hasOffsets) {
		err = fmt.Errorf("%s: needs dtype, shape and data_offsets", what)
	}
	p.header.tensors = append(p.header.tensors, t)
	return err
}

// object reads an object, calling value for each key to read the value that follows it.
func (p *headerParser) object(what string, value func(key string) error) error {
	if err := p.delim('{', what); err != nil {
		return err
	}
	for p.dec.More() {
		key, err := p.string(what)
		if err != nil {
			return err
		}
		if err := value(key); err != nil {
			return err
		}
	}
	return p.delim('}', what)
}

// integers reads an array of at most limit integers that are not negative.
func (p *headerParser) integers(what string, limit int) ([]int, error) {
	if err := p.delim('[', what); err != nil {
		return nil, err
	}
	list := []int{}
	for p.dec.More() {
		t, err := p.token(what)
		if err != nil {
			return nil, err
		}
		text, _ := t.(json.Number)
		n, err := strconv.ParseUint(string(text), 10, strconv.IntSize-1)
		if err != nil {
			return nil, fmt.Errorf("%s: %v is not an integer from 0 to %d", what, t, maxInt)
		}
		if len(list) == limit {
			return nil, fmt.Errorf("%s: more than %d entries", what, limit)
		}
		list = append(list, int(n))
	}
	return list, p.delim(']', what)
}

func (p *headerParser) string(what string) (string, error) {
	t, err := p.token(what)
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%s: %v is not a string", what, t)
	}
	return s, nil
}

func (p *headerParser) delim(want json.Delim, what string) error {
	t, err := p.token(what)
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("%s: found %v, expected %v", what, t, want)
	}
	return nil
}

func (p *headerParser) token(what string) (json.Token, error) {
	t, err := p.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return t, nil
}
