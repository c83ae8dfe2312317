package mindspore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unicode/utf8"

	"lockstep/spmd/checkpoint/safetensors"
)

const (
	// maxTensors bounds the tensors of a file and the slices of a tensor, far above any real one.
	maxTensors = 1 << 20
	// maxDims bounds the dimensions of one tensor.
	maxDims = 64
	// maxNameBytes bounds a tensor's name.
	maxNameBytes = 4 << 10
)

// A Tensor is a tensor of a file.
type Tensor struct {
	Name  string
	DType safetensors.DType
	// Shape has one entry per dimension; a scalar has none.
	Shape []int
	// Spans are where the elements, row-major and little-endian, lie in the file's bytes, one span after the other. They are
	// aligned to nothing.
	Spans []safetensors.Span
}

// parse finds the tensors of a file whose whole contents are data. Errors name the tensor, or the byte of the file at which
// it stops making sense; the caller adds the file's name and the remedy. Strings are skipped.
func parse(data []byte) ([]Tensor, error) {
	if len(data) == 0 {
		return nil, errors.New("the file is empty")
	}
	data, err := checkCRC(data)
	if err != nil {
		return nil, err
	}
	var tensors []Tensor
	seen := map[string]bool{}
	entries := 0
	file := &message{bytes: data}
	for {
		f, more, err := file.next()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		if f.key != checkpointValue || f.wire != wireBytes {
			return nil, fmt.Errorf("byte %d: field %d is not part of a MindSpore checkpoint", file.at, f.key)
		}
		t, err := parseValue(file.within(f))
		if err != nil {
			return nil, err
		}
		if t.DType == "" {
			continue
		}
		if entries++; entries > maxTensors {
			return nil, fmt.Errorf("more than %d tensors", maxTensors)
		}
		if last := len(tensors) - 1; last >= 0 && tensors[last].Name == t.Name {
			if err := tensors[last].join(t); err != nil {
				return nil, err
			}
			continue
		}
		if seen[t.Name] {
			return nil, fmt.Errorf("tensor %q occurs twice", t.Name)
		}
		seen[t.Name] = true
		tensors = append(tensors, t)
	}
	for i := range tensors {
		if err := tensors[i].check(); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", tensors[i].Name, err)
		}
	}
	return tensors, nil
}

// checkCRC cuts off the checksum at the end, if there is one, and compares it.
func checkCRC(data []byte) ([]byte, error) {
	end := len(data) - crcBytes
	if end < 0 || string(data[end:end+len(crcMark)]) != crcMark {
		return data, nil
	}
	sum := data[end+len(crcMark):]
	want := binary.BigEndian.Uint64(sum[2:])
	if got := uint64(crc32.ChecksumIEEE(data[:end])); sum[0]|sum[1] != 0 || got != want {
		return nil, fmt.Errorf("the CRC-32 is %08x, the file says %08x", got, want)
	}
	return data[:end], nil
}

// parseValue reads one Value. Its tensor has no type where it is a string.
func parseValue(m *message) (t Tensor, err error) {
	var tensor *message
	hasTag := false
	for {
		f, more, err := m.next()
		if err != nil {
			return t, err
		}
		if !more {
			break
		}
		switch {
		case f.key == valueTag && f.wire == wireBytes && !hasTag:
			if len(f.bytes) > maxNameBytes || !utf8.Valid(f.bytes) {
				return t, fmt.Errorf("byte %d: a tensor's name has %d bytes or is not UTF-8", m.base+m.at, len(f.bytes))
			}
			t.Name, hasTag = string(f.bytes), true
		case f.key == valueTensor && f.wire == wireBytes && tensor == nil:
			tensor = m.within(f)
		case f.key == valueMapTensor:
			return t, fmt.Errorf("tensor %q: a MapParameter (hash table) is not supported", t.Name)
		default:
			return t, fmt.Errorf("byte %d: field %d is not part of a tensor's entry, or occurs twice", m.base+m.at, f.key)
		}
	}
	if !hasTag || tensor == nil {
		return t, fmt.Errorf("byte %d: an entry without a name or a tensor", m.base+m.at)
	}
	if err := t.parse(tensor); err != nil {
		return t, fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	return t, nil
}

// parse reads a TensorProto.
func (t *Tensor) parse(m *message) error {
	typ, hasType := "", false
	for {
		f, more, err := m.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch {
		case f.key == tensorDims && f.wire == wireVarint:
			err = t.addDim(f.number)
		case f.key == tensorDims && f.wire == wireBytes: // packed, as newer protobuf libraries may write it
			for packed := m.within(f); err == nil && packed.at < len(packed.bytes); {
				var n uint64
				if n, err = packed.varint(); err == nil {
					err = t.addDim(n)
				}
			}
		case f.key == tensorType && f.wire == wireBytes && !hasType:
			typ, hasType = string(f.bytes[:min(len(f.bytes), 32)]), true
		case f.key == tensorContent && f.wire == wireBytes && t.Spans == nil:
			t.Spans = []safetensors.Span{{At: m.base + m.at - len(f.bytes), Len: len(f.bytes)}}
		default:
			err = fmt.Errorf("byte %d: field %d is not part of a tensor, or occurs twice", m.base+m.at, f.key)
		}
		if err != nil {
			return err
		}
	}
	t.DType = types[typ]
	switch {
	case !hasType || t.Spans == nil:
		return errors.New("it has no type or no contents")
	case t.DType == "" && typ != textType:
		return fmt.Errorf("type %q is not supported; save it in a float type", typ)
	}
	return nil
}

func (t *Tensor) addDim(n uint64) error {
	if len(t.Shape) == maxDims || n > uint64(maxInt) {
		return fmt.Errorf("a dimension of %d, or more than %d dimensions", n, maxDims)
	}
	t.Shape = append(t.Shape, int(n))
	return nil
}

// maxInt is the largest dimension.
const maxInt = int(^uint(0) >> 1)

// join adds the elements of the entry that follows, of the same name.
func (t *Tensor) join(next Tensor) error {
	if next.DType != t.DType || !slices.Equal(next.Shape, t.Shape) {
		return fmt.Errorf("tensor %q: its slices are %s%v and %s%v", t.Name, t.DType, t.Shape, next.DType, next.Shape)
	}
	t.Spans = append(t.Spans, next.Spans...)
	return nil
}

// check makes sure that the elements are as many as the shape says.
func (t *Tensor) check() error {
	have := 0
	for _, s := range t.Spans {
		if s.Len*8%t.DType.Bits() != 0 {
			return fmt.Errorf("a slice of %d bytes does not hold whole elements of %s", s.Len, t.DType)
		}
		have += s.Len
	}
	if len(t.Shape) == 1 && t.Shape[0] == 0 && have*8 == t.DType.Bits() {
		t.Shape = nil // MindSpore's other form of a scalar
	}
	want, err := safetensors.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape}.Size()
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%s%v takes %d bytes, the file has %d", t.DType, t.Shape, want, have)
	}
	return nil
}
