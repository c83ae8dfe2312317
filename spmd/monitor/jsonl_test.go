package monitor

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestJSONL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	for _, records := range [][]Step{ // the second run is resumed from step 1 and writes step 2 again
		{{Step: 1, Loss: 5.5961, GradNorm: 1.0 / 3, Tokens: 8192, Time: 812_500 * time.Microsecond},
			{Step: 2, Loss: math.NaN(), GradNorm: math.Inf(1), LR: 1e-5, Tokens: 8192}},
		{{Step: 2, Loss: math.SmallestNonzeroFloat64, GradNorm: math.MaxFloat64, LR: 2.9999999999999997e-05, Tokens: 1 << 40, Time: time.Second, Exposed: time.Millisecond / 2}},
	} {
		j, err := OpenJSONL(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if err := j.Step(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(j.Validation(Validation{Step: 2, Loss: 2.5}), j.Checkpoint(Checkpoint{Step: 2, Stall: 41_800 * time.Microsecond}), j.Close()); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"step":1,"loss":5.5961,"grad_norm":0.3333333333333333,"lr":0,"tokens":8192,"step_time_ms":812.5,"tokens_per_second":10082.461538461539}
{"step":2,"loss":null,"grad_norm":null,"lr":1e-05,"tokens":8192,"step_time_ms":0,"tokens_per_second":0}
{"step":2,"validation_loss":2.5,"validation_perplexity":12.182493960703473}
{"step":2,"checkpoint_stall_ms":41.8}
{"step":2,"loss":5e-324,"grad_norm":1.7976931348623157e+308,"lr":2.9999999999999997e-05,"tokens":1099511627776,"step_time_ms":1000,"tokens_per_second":1.099511627776e+12,"exposed_communication_ms":0.5}
{"step":2,"validation_loss":2.5,"validation_perplexity":12.182493960703473}
{"step":2,"checkpoint_stall_ms":41.8}
`
	if got := readFile(t, path); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestJSONLNumbersReadBackExactly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	j, err := OpenJSONL(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var want []float64
	for len(want) < 2000 {
		x := math.Float64frombits(random.Uint64())
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		want = append(want, x)
		if err := j.Validation(Validation{Step: len(want), Loss: x}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(readFile(t, path), "\n"), "\n") {
		var row struct {
			Step int
			Loss float64 `json:"validation_loss"`
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if row.Step != i+1 || math.Float64bits(row.Loss) != math.Float64bits(want[i]) {
			t.Errorf("%s, want %v", line, want[i])
		}
	}
}

// A file cut at any byte must be valid JSON lines again after it has been opened, and lose no whole line.
func TestOpenJSONLRepairsTornLines(t *testing.T) {
	dir := t.TempDir()
	whole := `{"step":1,"loss":5.5}` + "\n" + `{"step":2,"loss":null}` + "\n"
	open := func(content string) (string, error) {
		path := filepath.Join(dir, "metrics.jsonl")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJSONL(path)
		if err != nil {
			return readFile(t, path), err
		}
		if err := errors.Join(j.Validation(Validation{Step: 3, Loss: 0}), j.Close()); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(readFile(t, path), `{"step":3,"validation_loss":0,"validation_perplexity":1}`+"\n"), nil
	}
	first := strings.Index(whole, "\n") + 1
	for cut := range len(whole) + 1 {
		want := whole[:0]
		if cut >= first-1 { // one byte short, only the end of the line is missing
			want = whole[:first]
		}
		if cut >= len(whole)-1 {
			want = whole
		}
		if got, err := open(whole[:cut]); err != nil || got != want {
			t.Errorf("cut at byte %d: %q (%v), want %q", cut, got, err, want)
		}
	}
	// A machine that lost power may leave zeros, and a number alone is no line of ours.
	for _, tail := range []string{"\x00\x00\x00", "17", "null"} {
		if got, err := open(whole + tail); err != nil || got != whole {
			t.Errorf("tail %q: %q (%v)", tail, got, err)
		}
	}
	// Another file is left as it is.
	other := strings.Repeat("x", maxLine+1)
	if got, err := open(other); err == nil || got != other {
		t.Errorf("a file without lines: error %v, and it has %d bytes of %d", err, len(got), len(other))
	}
}

// FuzzOpenJSONL: whatever is in the file, its whole lines stay, and a line written next stands alone.
func FuzzOpenJSONL(f *testing.F) {
	f.Add([]byte("{}\n{"))
	f.Add([]byte(`{"step":1}`))
	f.Add([]byte("\n\n"))
	f.Add([]byte{0})
	path := filepath.Join(f.TempDir(), "metrics.jsonl")
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > maxLine {
			t.Skip("might be refused as another kind of file")
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJSONL(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.Validation(Validation{Step: 1, Loss: 0}), j.Close()); err != nil {
			t.Fatal(err)
		}
		got := readFile(t, path)
		lines := string(content[:strings.LastIndex(string(content), "\n")+1])
		rest, ok := strings.CutSuffix(got, `{"step":1,"validation_loss":0,"validation_perplexity":1}`+"\n")
		if !ok || !strings.HasPrefix(rest, lines) || rest != "" && !strings.HasSuffix(rest, "\n") {
			t.Errorf("%q became %q", content, got)
		}
	})
}

func TestOpenJSONLErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenJSONL(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v", err)
	}
	j, err := OpenJSONL(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Step(Step{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed file: %v", err)
	}
}

// One sink that fails keeps no record from the others.
func TestSinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	j, err := OpenJSONL(path)
	if err != nil {
		t.Fatal(err)
	}
	s := Sinks{failing{}, j, failing{}}
	for _, err := range []error{s.Step(Step{Step: 1}), s.Validation(Validation{Step: 1}), s.Checkpoint(Checkpoint{Step: 1}), s.Close()} {
		if !errors.Is(err, errFull) {
			t.Errorf("error %v", err)
		}
	}
	if got := strings.Count(readFile(t, path), "\n"); got != 3 {
		t.Errorf("%d lines, want 3", got)
	}
	if err := (Sinks{}).Step(Step{}); err != nil {
		t.Errorf("no sinks: %v", err)
	}
}
