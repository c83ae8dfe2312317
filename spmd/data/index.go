package data

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

// The .idx file of an indexed data set, all little-endian:
//
//	"MMIDIDX\x00\x00"          9 bytes
//	version                    uint64, 1
//	token type                 uint8, a tokenType
//	sequences                  uint64
//	documents                  uint64, the number of document borders
//	lengths[sequences]         int32, tokens in a sequence
//	pointers[sequences]        int64, byte of the .bin file at which a sequence begins
//	borders[documents]         int64, number of the sequence with which a document begins; the last one ends the list
//
// The .bin file is the sequences' tokens, one after the other. The format is that of Megatron-LM's IndexedDataset.
const (
	indexMagic   = "MMIDIDX\x00\x00"
	indexVersion = 1
	indexHeader  = len(indexMagic) + 8 + 1 + 8 + 8
	// Bytes per sequence and per document border.
	sequenceBytes, borderBytes = 4 + 8, 8
	// maxTokens keeps the sizes of .bin files within int64.
	maxTokens = 1 << 56
)

// A tokenType is the type of the numbers in a .bin file, by the code in its .idx file.
type tokenType uint8

// The token types. Those of floating point hold whole numbers.
const (
	uint8Tokens tokenType = iota + 1
	int8Tokens
	int16Tokens
	int32Tokens
	int64Tokens
	float64Tokens
	float32Tokens
	uint16Tokens
)

// size returns the bytes of one token, 0 for an unknown type.
func (t tokenType) size() int {
	switch t {
	case uint8Tokens, int8Tokens:
		return 1
	case int16Tokens, uint16Tokens:
		return 2
	case int32Tokens, float32Tokens:
		return 4
	case int64Tokens, float64Tokens:
		return 8
	}
	return 0
}

// token returns the number that begins b, and whether it is whole and within int64.
func (t tokenType) token(b []byte) (int64, bool) {
	switch t {
	case uint8Tokens:
		return int64(b[0]), true
	case int8Tokens:
		return int64(int8(b[0])), true
	case int16Tokens:
		return int64(int16(binary.LittleEndian.Uint16(b))), true
	case uint16Tokens:
		return int64(binary.LittleEndian.Uint16(b)), true
	case int32Tokens:
		return int64(int32(binary.LittleEndian.Uint32(b))), true
	case int64Tokens:
		return int64(binary.LittleEndian.Uint64(b)), true
	}
	x := t.float(b)
	if x != math.Trunc(x) || math.Abs(x) >= 1<<63 { // not for NaN: it differs from itself
		return 0, false
	}
	return int64(x), true
}

// float returns the number of floating point that begins b.
func (t tokenType) float(b []byte) float64 {
	if t == float32Tokens {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// An index is what reading the .bin file needs of its .idx file.
type index struct {
	tokenType tokenType
	sequences int64
	documents int64 // borders
	tokens    int64
}

// parseIndex reads and checks an .idx file. The sequences must lie in the .bin file one after the other without gaps,
// as every writer puts them: the tokens are then simply those of the .bin file, and no index need be held.
func parseIndex(data []byte) (index, error) {
	if len(data) < indexHeader {
		return index{}, fmt.Errorf("the file has %d bytes, too few for the header of an index; it was cut short, or is no index", len(data))
	}
	if !bytes.HasPrefix(data, []byte(indexMagic)) {
		return index{}, fmt.Errorf("byte 0: the file begins with %q, not with %q; it is no index of a .bin file", data[:len(indexMagic)], indexMagic)
	}
	at := len(indexMagic)
	if version := binary.LittleEndian.Uint64(data[at:]); version != indexVersion {
		return index{}, fmt.Errorf("byte %d: version %d; only version %d is known", at, version, indexVersion)
	}
	at += 8
	x := index{tokenType: tokenType(data[at])}
	if x.tokenType.size() == 0 {
		return index{}, fmt.Errorf("byte %d: token type %d; the known ones are 1 to 8", at, x.tokenType)
	}
	at++
	sequences, documents := binary.LittleEndian.Uint64(data[at:]), binary.LittleEndian.Uint64(data[at+8:])
	at += 16
	body := uint64(len(data) - at)
	// Divisions, as products of numbers from the file might overflow.
	if sequences > body/sequenceBytes || documents > body/borderBytes || sequences*sequenceBytes+documents*borderBytes != body {
		return index{}, fmt.Errorf("byte %d: %d sequences and %d document borders do not make the file's %d bytes; "+
			"it was cut short, or has parts of another kind, such as those of multimodal data", at-16, sequences, documents, len(data))
	}
	x.sequences, x.documents = int64(sequences), int64(documents)
	if err := x.checkSequences(data, at); err != nil {
		return index{}, err
	}
	if err := x.checkBorders(data, at+int(sequences)*sequenceBytes); err != nil {
		return index{}, err
	}
	return x, nil
}

// checkSequences checks the lengths and pointers, which begin at byte at, and counts the tokens.
func (x *index) checkSequences(data []byte, at int) error {
	pointers := at + int(x.sequences)*4
	size := int64(x.tokenType.size())
	for i := range int(x.sequences) {
		length := int32(binary.LittleEndian.Uint32(data[at+4*i:]))
		if length < 0 {
			return fmt.Errorf("byte %d: sequence %d has length %d", at+4*i, i, length)
		}
		pointer := int64(binary.LittleEndian.Uint64(data[pointers+8*i:]))
		if pointer != x.tokens*size {
			return fmt.Errorf("byte %d: sequence %d begins at byte %d of the .bin file, but the ones before it end at %d; write the pair anew",
				pointers+8*i, i, pointer, x.tokens*size)
		}
		if x.tokens += int64(length); x.tokens > maxTokens {
			return fmt.Errorf("byte %d: sequence %d ends beyond %d tokens, more than a file can hold", at+4*i, i, int64(maxTokens))
		}
	}
	return nil
}

// checkBorders checks the document borders, which begin at byte at.
func (x *index) checkBorders(data []byte, at int) error {
	previous := int64(0)
	for i := range int(x.documents) {
		border := int64(binary.LittleEndian.Uint64(data[at+8*i:]))
		if border < previous || border > x.sequences {
			return fmt.Errorf("byte %d: document border %d is at sequence %d, the one before it at %d of %d sequences; write the pair anew",
				at+8*i, i, border, previous, x.sequences)
		}
		previous = border
	}
	return nil
}
