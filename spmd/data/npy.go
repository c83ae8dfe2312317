package data

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// An array is a table of integers in a .npy file of version 1.0, mapped into memory; numpy.load reads it too.
type array struct {
	path    string
	mapped  []byte
	numbers []byte
	width   int // bytes of a number
	signed  bool
}

// npyMagic begins a .npy file of version 1.0.
const npyMagic = "\x93NUMPY\x01\x00"

// writeArray writes numbers as numpy.save does, with the given shape.
func writeArray[T int16 | int32 | int64 | uint32](path string, numbers []T, shape ...int) error {
	return replaceFile(path, func(w io.Writer) error {
		if _, err := w.Write(npyHeader(descriptorOf(numbers), shape)); err != nil {
			return err
		}
		const chunk = 1 << 14
		for len(numbers) > 0 {
			n := min(len(numbers), chunk)
			if err := binary.Write(w, binary.LittleEndian, numbers[:n]); err != nil {
				return err
			}
			numbers = numbers[n:]
		}
		return nil
	})
}

// descriptorOf returns numpy's name of a type.
func descriptorOf[T int16 | int32 | int64 | uint32](numbers []T) string {
	switch any(numbers).(type) {
	case []int16:
		return "<i2"
	case []int32:
		return "<i4"
	case []uint32:
		return "<u4"
	}
	return "<i8"
}

// npyHeader returns what stands before the numbers; its length is a multiple of 64.
func npyHeader(descriptor string, shape []int) []byte {
	dimensions := make([]string, len(shape))
	for i, n := range shape {
		dimensions[i] = strconv.Itoa(n)
	}
	tuple := strings.Join(dimensions, ", ")
	if len(shape) == 1 {
		tuple += ","
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descriptor, tuple)
	size := len(npyMagic) + 2 + len(text) + 1
	text += strings.Repeat(" ", (64-size%64)%64) + "\n"
	head := binary.LittleEndian.AppendUint16([]byte(npyMagic), uint16(len(text)))
	return append(head, text...)
}

// openArray maps a file of n numbers that writeArray wrote.
func openArray(path string, n int64) (*array, error) {
	mapped, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	a := &array{path: path, mapped: mapped}
	if err := a.parse(n); err != nil {
		_ = unmap(mapped)
		return nil, fmt.Errorf("%s: %w; remove it, it is made again", path, err)
	}
	return a, nil
}

// parse checks the header.
func (a *array) parse(n int64) error {
	head := len(npyMagic) + 2
	if len(a.mapped) < head || !bytes.HasPrefix(a.mapped, []byte(npyMagic)) {
		return fmt.Errorf("byte 0: no .npy file of version 1.0")
	}
	end := head + int(binary.LittleEndian.Uint16(a.mapped[len(npyMagic):]))
	if len(a.mapped) < end {
		return fmt.Errorf("byte %d: the header is cut short", len(a.mapped))
	}
	for descriptor, width := range map[string]int{"<i2": 2, "<i4": 4, "<u4": 4, "<i8": 8} {
		if bytes.Contains(a.mapped[head:end], []byte("'descr': '"+descriptor+"'")) {
			a.width, a.signed = width, descriptor[1] == 'i'
		}
	}
	if a.numbers = a.mapped[end:]; a.width == 0 || int64(len(a.numbers)) != n*int64(a.width) {
		return fmt.Errorf("byte %d: %d bytes are no %d numbers", end, len(a.numbers), n)
	}
	return nil
}

// at returns number i.
func (a *array) at(i int64) int64 {
	b := a.numbers[i*int64(a.width):]
	switch {
	case a.width == 2:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case a.width == 8:
		return int64(binary.LittleEndian.Uint64(b))
	case a.signed:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	}
	return int64(binary.LittleEndian.Uint32(b))
}

func (a *array) close() error {
	if a == nil {
		return nil
	}
	return unmap(a.mapped)
}

// fitsInt32 tells whether a number can be stored in 32 bits.
func fitsInt32(n int64) bool { return n <= math.MaxInt32 }
