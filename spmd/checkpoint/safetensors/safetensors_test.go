package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lockstep/kernels/device"
)

// raw returns a file with the given header text and size bytes of data.
func raw(text string, size int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	b = append(b, text...)
	return append(b, make([]byte, size)...)
}

// encode writes tensors to memory.
func encode(t testing.TB, tensors []Tensor, metadata map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, tensors, metadata); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample() []Tensor {
	return []Tensor{
		{"b.weight", F32, []int{2, 3}, Bytes(device.BytesOf([]float32{1, 2, 3, 4, 5, 6}))},
		{"a <&> \"µ\"", BF16, []int{3}, Bytes([]byte{0x80, 0x3f, 0, 0xc0, 1, 0})},
		{"empty", U8, []int{0, 7}, Bytes(nil)},
		{"scalar", I64, nil, Bytes([]byte{1, 2, 3, 4, 5, 6, 7, 8})},
		{"byte", U8, []int{1}, Bytes([]byte{9})},
		{"odd", F32, []int{1}, Bytes([]byte{0, 0, 0x28, 0x42})}, // not aligned: 42 at an odd byte
	}
}

// elements returns those of a tensor.
func elements(f *File, name string) []byte {
	s, _ := f.Span(name)
	return f.Bytes()[s.At : s.At+s.Len]
}

func TestFileReadsBackWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	metadata := map[string]string{"format": "pt", "a": "b"}
	var text bytes.Buffer
	if err := Write(&text, sample(), metadata); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Metadata(), metadata) || f.Path() != path || len(f.Tensors()) != len(sample()) {
		t.Errorf("metadata %v, path %s, %d tensors", f.Metadata(), f.Path(), len(f.Tensors()))
	}
	for _, want := range sample() {
		info, ok := f.Info(want.Name)
		var data bytes.Buffer
		want.Data(&data)
		if !ok || info.DType != want.DType || fmt.Sprint(info.Shape) != fmt.Sprint(want.Shape) || !bytes.Equal(elements(f, want.Name), data.Bytes()) {
			t.Errorf("%q: %v, bytes %v", want.Name, info, elements(f, want.Name))
		}
	}
	var odd [1]float32
	if err := ToFloat32(odd[:], elements(f, "odd"), F32); err != nil || odd[0] != 42 {
		t.Errorf("the tensor that is not aligned: %v, %v", odd, err)
	}
	if _, ok := f.Span("none"); ok {
		t.Error("found a tensor that is not there")
	}
	if err := f.Close(); err != nil || f.Close() != nil {
		t.Error(err)
	}
}

// The reference implementation writes these bytes, up to how many spaces end the header.
func TestWriteIsTheReferencesForm(t *testing.T) {
	got := encode(t, []Tensor{{"w", F32, []int{1, 2}, Bytes(make([]byte, 8))}}, map[string]string{"format": "pt"})
	text := `{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}`
	for (8+len(text))%headerAlign != 0 {
		text += " "
	}
	if want := raw(text, 8); !bytes.Equal(got, want) {
		t.Errorf("got\n%q, expected\n%q", got, want)
	}
	if again := encode(t, sample(), map[string]string{"x": "1", "y": "2"}); !bytes.Equal(again, encode(t, sample(), map[string]string{"y": "2", "x": "1"})) {
		t.Error("the same contents gave other bytes")
	}
}

func TestWriteRefuses(t *testing.T) {
	failing := func(io.Writer) error { return io.ErrClosedPipe }
	var huge []Tensor // each possible, their sum not
	for i := range 9 {
		huge = append(huge, Tensor{strconv.Itoa(i), U8, []int{maxInt / 8}, Bytes(nil)})
	}
	for want, tensors := range map[string][]Tensor{
		`"w" occurs twice`:                      {{"w", U8, nil, Bytes([]byte{1})}, {"w", U8, nil, Bytes([]byte{1})}},
		`no tensor can be called "__metadata`:   {{"__metadata__", U8, nil, Bytes([]byte{1})}},
		`no tensor can be called "\xff"`:        {{"\xff", U8, nil, Bytes([]byte{1})}},
		`no dtype "F31"`:                        {{"w", "F31", nil, Bytes(nil)}},
		`shape [-1] is impossible`:              {{"w", U8, []int{-1}, Bytes(nil)}},
		`F32[2] takes 8 bytes, 4 were given`:    {{"w", F32, []int{2}, Bytes(make([]byte, 4))}},
		`1 bytes too many for the shape`:        {{"w", F32, []int{2}, Bytes(make([]byte, 9))}},
		`does not fill whole bytes`:             {{"w", "F4", []int{3}, Bytes(nil)}},
		`writing tensor "w": io: read/write on`: {{"w", F32, []int{2}, failing}},
		`1 1 1] is too large`:                   {{"w", U8, slices.Repeat([]int{1}, 65), Bytes([]byte{1})}},
		`tensor "8": shape`:                     huge,
	} {
		if err := Write(io.Discard, tensors, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected %s", err, want)
		}
	}
}

var badHeaders = []struct {
	data []byte
	want string
}{
	{nil, "too few"},
	{[]byte("1234567"), "too few"},
	{binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "limit of 100000000"},
	{binary.LittleEndian.AppendUint64(nil, 9), "cut short"},
	{raw("\xff", 0), "not UTF-8"},
	{raw("", 0), "unexpected EOF"},
	{raw("[]", 0), "found [, expected {"},
	{raw("{", 0), "unexpected"},
	{raw("{}x", 0), "something follows"},
	{raw("{}{}", 0), "something follows"},
	{raw(`{"a":1}`, 0), `tensor "a": found 1, expected {`},
	{raw(`{"a":`+strings.Repeat(`[`, 100000), 0), `tensor "a": found [, expected {`},
	{raw(`{"a":{"dtype":`+strings.Repeat(`{"a":`, 100000), 0), `dtype: { is not a string`},
	{raw(`{"a":{"dtype":"U8","shape":[1]}}`, 1), "needs dtype, shape and data_offsets"},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}`, 1), `unknown key "x"`},
	{raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), `"dtype" occurs twice`},
	{raw(`{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}`, 1), `"shape" occurs twice`},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}}`, 1), `"data_offsets" occurs twice`},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), `"a" occurs twice`},
	{raw(`{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, 1), "1.0 is not an integer"},
	{raw(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1), "-1 is not an integer"},
	{raw(`{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}`, 1), "is not an integer"},
	{raw(`{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]}}`, 1), "is not an integer"},
	{raw(`{"a":{"dtype":"U8","shape":[`+strings.Repeat("1,", 64)+`1],"data_offsets":[0,1]}}`, 1), "more than 64 entries"},
	{raw(`{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}}`, 1), "is impossible"},
	{raw(`{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}`, 0), "is impossible"},
	{raw(`{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}}`, 1), `no dtype "Q4"`},
	{raw(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1), "whole bytes"},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1), "data_offsets are [1 0]"},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}`, 1), "data_offsets are [0]"},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}`, 1), "more than 2 entries"},
	{raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}`, 1), "takes 2 bytes"},
	{raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 1), "cut short"},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "leaving a hole"},
	{raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2), "but the file has 2"},
	{raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), `tensor "b": starts at byte 1 of the data, inside`},
	{raw(`{"__metadata__":{"a":1}}`, 0), "1 is not a string"},
	{raw(`{"__metadata__":{"a":"1","a":"2"}}`, 0), `"a" occurs twice`},
	{raw(`{"__metadata__":{},"__metadata__":{}}`, 0), `"__metadata__" occurs twice`},
}

func TestOpenRefusesBadHeaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bad.safetensors")
	for _, c := range badHeaders {
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if err == nil {
			t.Errorf("%.60q was accepted, expected %q", c.data, c.want)
			continue
		}
		for _, part := range []string{c.want, path, "copy or download it again"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%.60q: %v, expected %q", c.data, err, part)
			}
		}
	}
	if _, err := Open(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// Files of the reference implementation have types that Lockstep does not compute with, spaces at the end of the header,
// and keys in any order.
func TestOpenAcceptsTheWholeFormat(t *testing.T) {
	h, err := parseHeader(raw(`{"b":{"data_offsets":[3,5],"shape":[2],"dtype":"F8_E4M3"},"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},"__metadata__":{}}   `, 5))
	if err != nil {
		t.Fatal(err)
	}
	if h.tensors[0].Name != "a" || h.tensors[1].DType != "F8_E4M3" || h.tensors[1].DType.Device() != 0 {
		t.Errorf("%+v", h.tensors)
	}
}

func TestDTypesMatchTheDevices(t *testing.T) {
	for d := device.Float32; d.Size() > 0; d++ {
		name := FromDevice(d)
		if name.Device() != d || name.Bits() != 8*d.Size() {
			t.Errorf("%s: %q of %d bits, back to %s", d, name, name.Bits(), name.Device())
		}
	}
	if FromDevice(0) != "" || DType("BOOL").Device() != 0 {
		t.Error("a type that does not exist was mapped")
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(encode(f, sample(), map[string]string{"format": "pt"}))
	for _, c := range badHeaders {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parseHeader(data)
		if err != nil {
			return
		}
		// What was accepted covers the file exactly, and survives being written again.
		body, at := data[h.dataAt:], 0
		tensors := make([]Tensor, len(h.tensors))
		for i, info := range h.tensors {
			if size, err := byteSize(info.DType, info.Shape); err != nil || info.Start != at || info.End != at+size {
				t.Fatalf("%+v does not follow byte %d: %v", info, at, err)
			}
			at = info.End
			tensors[i] = Tensor{info.Name, info.DType, info.Shape, Bytes(body[info.Start:info.End])}
		}
		if at != len(body) {
			t.Fatalf("the tensors end at %d of %d", at, len(body))
		}
		again, err := parseHeader(encode(t, tensors, h.metadata))
		if err != nil || !reflect.DeepEqual(again.tensors, h.tensors) || len(again.metadata) != len(h.metadata) {
			t.Fatalf("written again: %+v, %v; was %+v", again, err, h)
		}
	})
}
