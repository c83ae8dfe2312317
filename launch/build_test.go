package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// writeModule makes a module of one file in a new directory and returns the directory.
func writeModule(t *testing.T, source string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hello")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": "module example.test/hello\n", "hello.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBuildOfDirectory(t *testing.T) {
	for _, c := range []struct {
		name, source string
		signal       os.Signal
		status       int
		out, err     string
	}{
		{"main package", "package main\n\nfunc main() { println(\"hello\") }\n", nil, 0, "", "\nhello\n"},
		{"mistake", "package main\n\nfunc main() { x }\n", nil, 2, "", "./hello.go:3:15: undefined: x\n"},
		{"not main", "package hello\n", nil, 2, "", "no main packages"},
		{"interrupted", "package main\n\nfunc main() {}\n", syscall.SIGTERM, 128 + 15, "", "stopped before the start of the ranks: terminated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			dir := writeModule(t, c.source)
			l := start("-n", "1", dir)
			if c.signal != nil {
				l.signals <- c.signal
			}
			if got := l.wait(t); got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
			text := l.err.String()
			if !strings.HasPrefix(text, "launch: building "+dir+" with go build") || !strings.Contains(text, c.err) {
				t.Errorf("got:\n%s\nwant %q", text, c.err)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left in the temporary directory: %v, %v", left, err)
			}
		})
	}
}
