package data

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// appendToken appends id as a number of type t.
func appendToken(b []byte, t tokenType, id float64) []byte {
	le := binary.LittleEndian
	switch t {
	case uint8Tokens, int8Tokens:
		return append(b, byte(int64(id)))
	case int16Tokens, uint16Tokens:
		return le.AppendUint16(b, uint16(int64(id)))
	case int32Tokens:
		return le.AppendUint32(b, uint32(int64(id)))
	case int64Tokens:
		return le.AppendUint64(b, uint64(int64(id)))
	case float32Tokens:
		return le.AppendUint32(b, math.Float32bits(float32(id)))
	}
	return le.AppendUint64(b, math.Float64bits(id))
}

// indexed returns the .bin and .idx files of sequences, each a document.
func indexed(t tokenType, sequences ...[]float64) (bin, idx []byte) {
	le := binary.LittleEndian
	idx = le.AppendUint64([]byte(indexMagic), indexVersion)
	idx = append(idx, byte(t))
	idx = le.AppendUint64(idx, uint64(len(sequences)))
	idx = le.AppendUint64(idx, uint64(len(sequences)+1))
	var pointers, borders []byte
	for i, s := range sequences {
		idx = le.AppendUint32(idx, uint32(len(s)))
		pointers = le.AppendUint64(pointers, uint64(len(bin)))
		borders = le.AppendUint64(borders, uint64(i))
		for _, id := range s {
			bin = appendToken(bin, t, id)
		}
	}
	borders = le.AppendUint64(borders, uint64(len(sequences)))
	return bin, slices.Concat(idx, pointers, borders)
}

// writePair writes a pair into a new directory and returns its prefix.
func writePair(t *testing.T, bin, idx []byte) string {
	t.Helper()
	dir := writeFiles(t, map[string]string{"tokens.bin": string(bin), "tokens.idx": string(idx)})
	return filepath.Join(dir, "tokens")
}

func mustMegatron(t *testing.T, o Options) *megatronSource {
	t.Helper()
	s, err := openMegatron(o, o.Parts[0].Paths)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestMegatronReadsEveryType(t *testing.T) {
	for code, most := range map[tokenType]float64{
		uint8Tokens: math.MaxUint8, int8Tokens: math.MaxInt8, int16Tokens: math.MaxInt16, int32Tokens: math.MaxInt32,
		int64Tokens: math.MaxInt32, float64Tokens: math.MaxInt32, float32Tokens: 1 << 24, uint16Tokens: math.MaxUint16,
	} {
		bin, idx := indexed(code, []float64{1, 2, most}, nil, []float64{0, 100})
		s := mustMegatron(t, Options{Parts: onePart(writePair(t, bin, idx))})
		if got, want := readAll(t, s), []int32{1, 2, int32(most), 0, 100}; !slices.Equal(got, want) {
			t.Errorf("type %d: tokens %v, want %v", code, got, want)
		}
	}
}

func TestMegatronJoinsPairs(t *testing.T) {
	bin, idx := indexed(uint16Tokens, []float64{1, 2, 3}, []float64{4})
	a := writePair(t, bin, idx)
	bin, idx = indexed(int32Tokens, []float64{70000, 6})
	b := writePair(t, bin, idx)
	empty := writePair(t, nil, slices.Concat([]byte(indexMagic), []byte{1, 0, 0, 0, 0, 0, 0, 0, 8}, make([]byte, 16)))
	s := mustMegatron(t, Options{Parts: onePart(b, empty, a, b)})
	want := []int32{70000, 6, 1, 2, 3, 4, 70000, 6}
	if got := readAll(t, s); !slices.Equal(got, want) {
		t.Errorf("tokens %v, want %v", got, want)
	}
	for at := range want {
		for end := at; end <= len(want); end++ {
			dst := make([]int32, end-at)
			if err := s.ReadTokens(dst, int64(at)); err != nil || !slices.Equal(dst, want[at:end]) {
				t.Errorf("tokens %d to %d are %v (%v), want %v", at, end, dst, err, want[at:end])
			}
		}
	}
	if got, want := s.Summary(), "4 pairs, 0.0 MB, 4 sequences, 8 tokens"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if s.ReadTokens(make([]int32, 9), 0) == nil || s.ReadTokens(make([]int32, 1), -1) == nil {
		t.Error("tokens beyond the ends can be read")
	}
	s = mustMegatron(t, Options{Parts: onePart(b, a), Exclude: []string{b}})
	if got := readAll(t, s); !slices.Equal(got, []int32{1, 2, 3, 4}) {
		t.Errorf("without the validation pair: tokens %v", got)
	}
	if _, err := openMegatron(Options{Exclude: []string{a}}, []string{a}); err == nil {
		t.Error("no error where validation takes all the data")
	}
}

func TestMegatronRefusesWrongTokens(t *testing.T) {
	for want, test := range map[string]struct {
		code   tokenType
		tokens []float64
		vocab  int
	}{
		"token 2 is 300, outside the vocabulary of 0 to 299":   {uint16Tokens, []float64{0, 299, 300}, 300},
		"token 1 is -1, outside the vocabulary of 0 to 299":    {int16Tokens, []float64{0, -1}, 300},
		"token 0 is 2147483648, outside the vocabulary of 0 ":  {int64Tokens, []float64{1 << 31}, 0},
		"token 0 is 4294967296, outside the vocabulary of 0 ":  {float64Tokens, []float64{1 << 32}, 0},
		"token 1 is 1.5, not a whole number":                   {float32Tokens, []float64{1, 1.5}, 0},
		"token 0 is NaN, not a whole number":                   {float64Tokens, []float64{math.NaN()}, 0},
		"token 0 is +Inf, not a whole number":                  {float32Tokens, []float64{math.Inf(1)}, 0},
		"token 0 is 1e+300, not a whole number":                {float64Tokens, []float64{1e300}, 0},
		"token 0 is -9.3e+18, not a whole number; write the p": {float64Tokens, []float64{-9.3e18}, 0},
	} {
		bin, idx := indexed(test.code, test.tokens)
		prefix := writePair(t, bin, idx)
		s := mustMegatron(t, Options{Parts: onePart(prefix), VocabSize: test.vocab})
		err := s.ReadTokens(make([]int32, len(test.tokens)), 0)
		if err == nil || !strings.Contains(err.Error(), prefix+".bin: "+want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestMegatronPairErrors(t *testing.T) {
	bin, idx := indexed(uint16Tokens, []float64{1, 2, 3}, []float64{4})
	good := writePair(t, bin, idx)
	onlyBin := writeFiles(t, map[string]string{"x.bin": string(bin)}) + "/x"
	onlyIdx := writeFiles(t, map[string]string{"x.idx": string(idx)}) + "/x"
	for want, prefix := range map[string]string{
		`gone.idx: no such file or directory; a path of format megatron is what the names`: "gone",
		`write "` + good + `"`:                good + ".bin",
		`have in common; write "` + good:      good + ".idx",
		"x.idx: no such file":                 onlyBin,
		"x.bin: no such file":                 onlyIdx,
		"has 6 bytes, its index describes 4 ": writePair(t, bin[:6], idx),
		"in all; the files belong to differe": writePair(t, append(bin[:8:8], 0, 0), idx),
		"tokens.idx: byte 9: version 2; only": writePair(t, bin, slices.Concat(idx[:9], []byte{2}, idx[10:])),
	} {
		if _, err := openMegatron(Options{}, []string{good, prefix}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if _, err := openMegatron(Options{Exclude: []string{"gone"}}, []string{good}); err == nil {
			t.Error("no error for validation data that does not exist")
		}
	}
}

// A .bin file that is cut short while it is mapped must not take the process down.
func TestMegatronSurvivesTruncation(t *testing.T) {
	bin, idx := indexed(uint8Tokens, make([]float64, 3*os.Getpagesize()))
	prefix := writePair(t, bin, idx)
	s := mustMegatron(t, Options{Parts: onePart(prefix)})
	if err := os.Truncate(prefix+".bin", 10); err != nil {
		t.Fatal(err)
	}
	err := s.ReadTokens(make([]int32, 10), int64(2*os.Getpagesize()))
	if err == nil || !strings.Contains(err.Error(), prefix+".bin can no longer be read") {
		t.Errorf("error %v, want one that names the file", err)
	}
}

func TestMegatronFingerprint(t *testing.T) {
	fingerprint := func(bin, idx []byte) string {
		f, err := mustMegatron(t, Options{Parts: onePart(writePair(t, bin, idx))}).Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	tokens := make([]float64, 1<<20)
	for i := range tokens {
		tokens[i] = float64(i % 251)
	}
	bin, idx := indexed(uint8Tokens, tokens)
	base := fingerprint(bin, idx)
	if again := fingerprint(bin, idx); again != base {
		t.Error("the same content elsewhere has another fingerprint")
	}
	for _, at := range []int{0, len(bin) - 1} { // the first and the last block are sampled
		changed := slices.Clone(bin)
		changed[at] ^= 1
		if fingerprint(changed, idx) == base {
			t.Errorf("a change of byte %d leaves the fingerprint as it is", at)
		}
	}
	bin2, idx2 := indexed(uint8Tokens, tokens[:1<<19], tokens[1<<19:])
	if !slices.Equal(bin, bin2) || fingerprint(bin2, idx2) == base {
		t.Error("other sequences leave the fingerprint as it is")
	}
	short, shortIdx := indexed(uint8Tokens, []float64{1, 2, 3}) // less than a block
	if f := fingerprint(short, shortIdx); f == base {
		t.Error("two data sets have the same fingerprint")
	}
}
