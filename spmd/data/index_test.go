package data

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestParseIndex(t *testing.T) {
	_, idx := indexed(float32Tokens, []float64{1, 2, 3}, nil, []float64{4})
	x, err := parseIndex(idx)
	if want := (index{tokenType: float32Tokens, sequences: 3, documents: 4, tokens: 4}); err != nil || x != want {
		t.Errorf("%+v (%v), want %+v", x, err, want)
	}
}

func TestParseIndexErrors(t *testing.T) {
	_, good := indexed(uint16Tokens, []float64{1, 2, 3}, []float64{4}, []float64{5, 6})
	const lengths, pointers, borders = 34, 34 + 3*4, 34 + 3*12
	put := func(at int, size int, v int64) []byte {
		b := slices.Clone(good)
		if size == 4 {
			binary.LittleEndian.PutUint32(b[at:], uint32(v))
		} else {
			binary.LittleEndian.PutUint64(b[at:], uint64(v))
		}
		return b
	}
	for want, content := range map[string][]byte{
		"the file has 0 bytes, too few for the header":                                           nil,
		"the file has 33 bytes":                                                                  good[:33],
		`byte 0: the file begins with "NNIDIDX\x00\x00", not with "MMI`:                          slices.Concat([]byte("NN"), good[2:]),
		"byte 9: version 7; only version 1 is known":                                             put(9, 8, 7),
		"byte 17: token type 9; the known ones are 1 to 8":                                       slices.Concat(good[:17], []byte{9}, good[18:]),
		"byte 17: token type 0":                                                                  slices.Concat(good[:17], []byte{0}, good[18:]),
		"byte 18: 4 sequences and 4 document borders do not make the f":                          put(18, 8, 4),
		"byte 18: 3 sequences and 5 document borders":                                            put(26, 8, 5),
		"byte 18: 18446744073709551615 sequences":                                                put(18, 8, -1),
		"byte 18: 1537228672809129304 sequences":                                                 put(18, 8, 1537228672809129304), // 12 times that overflows
		"document borders do not make the file's 101 bytes; it was cut":                          good[:len(good)-1],
		"such as those of multimodal data":                                                       append(slices.Clone(good), 0, 0, 0),
		"byte 38: sequence 1 has length -1":                                                      put(lengths+4, 4, -1),
		"byte 46: sequence 0 begins at byte 2 of the .bin file, but th":                          put(pointers, 8, 2),
		"byte 54: sequence 1 begins at byte 8 of the .bin file, but the ones before it end at 6": put(pointers+8, 8, 8),
		"byte 62: sequence 2 begins at byte -8":                                                  put(pointers+16, 8, -8),
		"byte 78: document border 1 is at sequence 4, the one before it at 0 of 3":               put(borders+8, 8, 4),
		"byte 86: document border 2 is at sequence 0, the one before it at 1 of 3":               put(borders+16, 8, 0),
		"byte 70: document border 0 is at sequence -9223372036854775808":                         put(borders, 8, math.MinInt64),
	} {
		if _, err := parseIndex(content); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// FuzzParseIndex: what parses accounts for each byte of the file, and has no more tokens than its lengths can say.
func FuzzParseIndex(f *testing.F) {
	for code := range tokenType(10) {
		_, idx := indexed(code, []float64{1, 2, 3}, nil, []float64{4})
		f.Add(idx)
		f.Add(idx[:len(idx)-8])
	}
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		x, err := parseIndex(content)
		if err != nil {
			return
		}
		if int64(indexHeader)+x.sequences*sequenceBytes+x.documents*borderBytes != int64(len(content)) {
			t.Errorf("%+v from %d bytes", x, len(content))
		}
		var tokens int64
		for i := range x.sequences {
			tokens += int64(int32(binary.LittleEndian.Uint32(content[int64(indexHeader)+4*i:])))
		}
		if tokens != x.tokens || x.tokenType.size() == 0 {
			t.Errorf("%+v, but the lengths add up to %d", x, tokens)
		}
	})
}
