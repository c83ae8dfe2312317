package pipeline

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestCSVReadsBack(t *testing.T) {
	for name, g := range Generators() {
		s := g.Make(Shape{Ranks: 3, Virtual: max(1, g.Virtual), MicroBatches: 7})
		var file bytes.Buffer
		if err := s.WriteCSV(&file); err != nil {
			t.Fatal(err)
		}
		if got, err := parseCSV(&file); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s: read back %v, %v", name, got, err)
		}
	}
}

// TestTorchCSV reads a file as PyTorch writes it: idle cells are empty.
func TestTorchCSV(t *testing.T) {
	path := filepath.Join(t.TempDir(), "schedule.csv")
	if err := os.WriteFile(path, []byte("0F0,0F1,,,0I0,0W0,0B1\r\n,1F0,1B0, 1F1 ,(1F2;1B1)OVERLAP_F_B\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := Schedule{
		{{Kind: Forward}, {Kind: Forward, MicroBatch: 1}, {Kind: BackwardInput}, {Kind: BackwardWeight}, {Kind: Backward, MicroBatch: 1}},
		{{Kind: Forward, Chunk: 1}, {Kind: Backward, Chunk: 1}, {Kind: Forward, MicroBatch: 1, Chunk: 1},
			{Kind: Forward, MicroBatch: 2, Chunk: 1, Overlapped: true}, {Kind: Backward, MicroBatch: 1, Chunk: 1}},
	}
	if got, err := ReadCSV(path); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                                 "no row",
		"0F0\n0F1,2X3":                     `row 2, column 2: "2X3" has a pass other than`,
		"0F0,1SEND_F0":                     "row 1, column 2",
		"0F0,F1":                           `"F1" is no action`,
		"0F":                               `"0F" does not have a chunk and a micro batch`,
		"0F99999999999999999999":           "does not have a chunk",
		"0F2097152":                        "up to 1048576",
		"(0B0;0F1)OVERLAP_F_B":             "not a forward and a whole backward pass",
		"(0F0)OVERLAP_F_B":                 `"" is no action`,
		"\"0F0\n":                          "quote",
		strings.Repeat("\n0F0", 4097):      "more than 4096 rows",
		"0F0," + strings.Repeat("x", 1000): "...",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err := ReadCSV(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.40q: %v, %v; want %q", text, s, err, want)
		}
	}
}

func FuzzCSV(f *testing.F) {
	for _, seed := range []string{"0F0,0B0\n", "0F0,0F1,,0I0,0W0,0B1\n1F0,1B0,1F1,1B1", "(0F0;0B0)OVERLAP_F_B", "1SEND_F0", "0F\"", ",,\n;"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseCSV(bytes.NewReader(text))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := s.WriteCSV(&again); err != nil {
			t.Fatal(err)
		}
		if n := s.NumChunks(); n < 1<<10 && s.NumMicroBatches() < 1<<10 {
			_, _ = Simulate(s, n, s.NumMicroBatches(), UnitCosts(n)) // must not panic
		}
	})
}
