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
	var lines strings.Builder
	for i := 0; lines.Len() < 40<<20; i++ {
		fmt.Fprintf(&lines, "{\"text\": \"%s%d\"}\n", strings.Repeat("all work and no play ", 200), i)
	}
	w.write("lines.jsonl", lines.String())
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
	if err != nil || string(back) != strings.ReplaceAll(lines.String(), "\"text\": ", "\"text\":") {
		t.Errorf("the text comes back as %.100q, %v", back, err)
	}
	w.spmd("run.toml", "data.format=megatron", "data.paths=parts", "data.tokenizer=bytes", "data.validation_paths=[]",
		"data.validation_interval=0", "train.steps=4").expect(0)
}
