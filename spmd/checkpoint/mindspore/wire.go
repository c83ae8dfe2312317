package mindspore

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The wire types of protobuf that a checkpoint may have.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// A field is one field of a protobuf message: number for a varint, bytes for what has a length.
type field struct {
	key, wire int
	number    uint64
	bytes     []byte
}

var errCutShort = errors.New("the file is cut short")

// A message is read from front to back. at is the offset of the next field, for error messages counted from the start of
// the file.
type message struct {
	bytes []byte
	at    int
	base  int
}

// next returns the next field. more is false at the end.
func (m *message) next() (f field, more bool, err error) {
	if m.at == len(m.bytes) {
		return f, false, nil
	}
	start := m.at
	fail := func(err error) (field, bool, error) { return f, false, fmt.Errorf("byte %d: %w", m.base+start, err) }
	key, err := m.varint()
	if err != nil {
		return fail(err)
	}
	f.key, f.wire = int(key>>3), int(key&7)
	if f.key < 1 || key>>3 > 1<<29-1 {
		return fail(fmt.Errorf("field number %d is impossible", key>>3))
	}
	size := uint64(0)
	switch f.wire {
	case wireVarint:
		f.number, err = m.varint()
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	case wireBytes:
		size, err = m.varint()
	default:
		err = fmt.Errorf("wire type %d is impossible", f.wire)
	}
	if err == nil && size > uint64(len(m.bytes)-m.at) {
		err = fmt.Errorf("field %d has %d bytes, but only %d follow: %w", f.key, size, len(m.bytes)-m.at, errCutShort)
	}
	if err != nil {
		return fail(err)
	}
	f.bytes = m.bytes[m.at : m.at+int(size) : m.at+int(size)]
	m.at += int(size)
	return f, true, nil
}

// within returns the message that the field just read holds.
func (m *message) within(f field) *message {
	return &message{bytes: f.bytes, base: m.base + m.at - len(f.bytes)}
}

// varint reads a number of seven bits a byte.
func (m *message) varint() (uint64, error) {
	x, n := binary.Uvarint(m.bytes[m.at:])
	switch {
	case n == 0:
		return 0, errCutShort
	case n < 0:
		return 0, errors.New("a number has more than 64 bits")
	}
	m.at += n
	return x, nil
}

// appendNumber appends a varint field.
func appendNumber(b []byte, key int, x uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(key<<3|wireVarint)), x)
}

// appendLength appends the start of a field of n bytes.
func appendLength(b []byte, key, n int) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(key<<3|wireBytes)), uint64(n))
}
