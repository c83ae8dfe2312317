package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzDecode feeds arbitrary text, and an override, through everything that does not touch files. Whatever comes out
// without a problem must survive Resolved.
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob("testdata/problems/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(paths, "testdata/valid.toml") {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "train.steps=5")
	}
	f.Add([]byte("[model.overrides]\n\"a b\" = [1.5, {x = \"\\u0000\"}]\n"), "model.overrides.x.y=[true]")
	f.Add([]byte("[[data.paths]]\na=1\n[[data.paths]]\na=2\n"), "run.output_dir=\"\x7f")
	f.Add([]byte(strings.Repeat("a.", 100)+"b = 1"), "model.overrides="+strings.Repeat("[", 100)+strings.Repeat("]", 100))
	f.Add([]byte("\xef\xbb\xbf[run]\r\nseed = 0x10\r\n"), "data.paths=a\nb=1")
	f.Fuzz(func(t *testing.T, text []byte, override string) {
		if len(text) > maxFileSize {
			return
		}
		l, problems := decode("c.toml", text, []string{override})
		if l == nil {
			if len(problems) == 0 {
				t.Fatal("neither a configuration nor a problem")
			}
			return
		}
		decoded := len(l.problems)
		l.checkValues(2)
		lines := strings.Count(string(text), "\n") + 1
		for _, p := range l.problems {
			if p.What == "" || p.Line > lines || (p.Line == 0) != (p.File == CommandLine) {
				t.Fatalf("problem %q in %d lines", p, lines)
			}
		}
		if decoded > 0 || l.config.Model.Path != "" && l.config.Model.Config != nil {
			return
		}
		again, problems := decode("c.toml", l.config.Resolved(), nil)
		if again == nil {
			t.Fatalf("%v\n%s", problems, l.config.Resolved())
		}
		l.config.Notes = nil
		if !reflect.DeepEqual(again.config, l.config) {
			// Required keys may be missing; what is there must be the same.
			t.Fatalf("got\n%s\nwant\n%s", again.config.Resolved(), l.config.Resolved())
		}
	})
}
