package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPreprocess writes a pair from JSON lines, killed halfway and started again: the bytes are those of a command that nobody
// disturbed, a run trains on them, and the text comes back.
func TestPreprocess(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	var text strings.Builder
	for i := 0; text.Len() < 40<<20; i++ {
		fmt.Fprintf(&text, "{\"text\": \"%s%d\"}\n", strings.Repeat("all work and no play ", 200), i)
	}
	w.write("lines.jsonl", text.String())
	command := func(output string) []string {
		return []string{"preprocess", "lines.jsonl", "--tokenizer", "bytes", "--workers", "1", "--output", output}
	}
	w.spmd(command("whole")...).expect(0)

	killed := start(t, w.dir, programs.spmd, command("parts")...)
	journal := filepath.Join(w.dir, "parts.journal")
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(journal); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the command writes nothing")
		}
	}
	killed.signal(syscall.SIGKILL)
	killed.wait()
	if _, err := os.Stat(filepath.Join(w.dir, "parts.idx")); err == nil {
		t.Skip("the command was done before it could be killed")
	}
	w.spmd(command("parts")...).expect(0)
	for _, suffix := range []string{".bin", ".idx"} {
		want, err := os.ReadFile(filepath.Join(w.dir, "whole"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(w.dir, "parts"+suffix))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs after the kill, %v", suffix, err)
		}
	}
	w.spmd("preprocess", "--decode", "parts", "--tokenizer", "bytes", "--output", "back.jsonl").expect(0)
	back, err := os.ReadFile(filepath.Join(w.dir, "back.jsonl"))
	if err != nil || string(back) != strings.ReplaceAll(text.String(), "\"text\": ", "\"text\":") {
		t.Errorf("the text comes back as %.100q, %v", back, err)
	}
	// A run on the pair, and one that makes the tokens itself, on two ranks and interrupted.
	common := []string{"data.validation_paths=[]", "data.validation_interval=0", "data.packing=best-fit", "data.overlong=split", "train.steps=6"}
	w.spmd(append([]string{"run.toml", "run.output_dir=pair", "data.format=megatron", "data.paths=parts", "data.tokenizer=bytes"}, common...)...).expect(0)
	lines := append([]string{"data.format=jsonl", "data.paths=lines.jsonl", "data.tokenizer=bytes"}, common...)
	w.launch(2, "lines", append(lines, "run.stop_step=3")...).expect(0)
	w.launch(2, "lines", lines...).expect(0)
	w.sameMetrics("pair", "lines")
	w.sameFiles("pair/model", "lines/model")
}
