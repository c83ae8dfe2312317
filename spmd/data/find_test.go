package data

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/spmd/data/tokenizer"
)

func TestFindFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"src/a.go": "", "src/b.txt": "", "src/.hidden.go": "", "src/.git/c.go": "", "src/sub/d.go": "", "src/sub/deep/e.go": "",
		"src/sub.go": "", "src/empty/": "", "odd/[1].go": "", "other/a.go": "",
		"links/file.go": "-> ../src/a.go", "links/dir": "-> ../src", "links/loop": "-> .", "links/loop2": "-> ../links",
		"broken/x": "-> nowhere",
	})
	goroot := func() (string, error) { return dir, nil }
	for _, test := range []struct {
		name           string
		paths, exclude string // separated by blanks, relative to dir
		want           string
	}{
		{"a file", "src/a.go", "", "src/a.go"},
		{"a hidden file by name", "src/.hidden.go", "", "src/.hidden.go"},
		{"a directory", "src", "", "src/a.go src/b.txt src/sub.go src/sub/d.go src/sub/deep/e.go"},
		{"a glob", "src/*.go", "", "src/a.go src/sub.go"},
		{"a glob of all depths", "src/**/*.go", "", "src/a.go src/sub.go src/sub/d.go src/sub/deep/e.go"},
		{"all below", "src/sub/**", "", "src/sub/d.go src/sub/deep/e.go"},
		{"alternatives", "src/{a.go,b.*}", "", "src/a.go src/b.txt"},
		{"a hidden glob", "src/.*.go", "", "src/.hidden.go"},
		{"a name like a glob", "odd/[1].go", "", "odd/[1].go"},
		{"duplicates", "src/sub src/**/d.go src/sub/../sub/d.go", "", "src/sub/d.go src/sub/deep/e.go"},
		{"two directories, sorted", "src/sub other", "", "other/a.go src/sub/d.go src/sub/deep/e.go"},
		{"links to files, loops", "links", "", "links/file.go"},
		{"loops in a glob", "links/**", "", "links/file.go"},
		{"a link by name", "links/dir", "", "links/dir/a.go links/dir/b.txt links/dir/sub.go links/dir/sub/d.go links/dir/sub/deep/e.go"},
		{"a file twice through links", "links src/*.go", "", "links/file.go src/sub.go"},
		{"without some", "src", "src/sub src/b.*", "src/a.go src/sub.go"},
		{"without a link's file", "src/*.go", "links", "src/sub.go"},
		{"GOROOT", "$GOROOT/src/*.go", "$GOROOT/src/a.go", "src/sub.go"},
	} {
		split := func(list string) []string {
			fields := strings.Fields(list)
			for i, f := range fields {
				if !strings.HasPrefix(f, "$") {
					fields[i] = dir + "/" + f
				}
			}
			return fields
		}
		got, err := findFiles(split(test.paths), split(test.exclude), goroot)
		if want := split(test.want); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", test.name, got, err, want)
		}
	}
}

func TestFindFilesErrors(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a/x.go": "", "a/sub/": "", "hidden/.x": "", "empty/": "", "broken/x": "-> nowhere"})
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	noGo := func() (string, error) { return "", errors.New("no go command") }
	for _, test := range []struct{ paths, exclude, want string }{
		{"gone", "", "there is no " + dir + "/gone"},
		{"a/*.txt", "", "no file matches " + dir + "/a/*.txt"},
		{"a/s*", "", "matches only directories; add /**"},
		{"a/[", "", "syntax error in pattern"},
		{"hidden", "", "the directory holds no files"},
		{"empty", "", "the directory holds no files"},
		{"broken", "", "broken/x: no such file"},
		{"broken/*", "", "broken/x: no such file"},
		{"fifo", "", "fifo is neither a file nor a directory"},
		{"a", "a/x.go", "no file is left for training"},
		{"a", "gone", "gone"},
		{"$GOROOT/src", "", "finding $GOROOT: no go command"},
		{"$GOROOTS/src", "", "there is no " + dir + "/$GOROOTS/src"},
		{"$HOME/x", "", "there is no " + dir + "/$HOME/x"},
	} {
		t.Chdir(dir) // relative paths are relative to the working directory
		var exclude []string
		if test.exclude != "" {
			exclude = []string{test.exclude}
		}
		if _, err := findFiles([]string{test.paths}, exclude, noGo); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s without %q: error %v, want one with %q", test.paths, test.exclude, err, test.want)
		}
	}
	if _, err := findFiles([]string{""}, nil, nil); err == nil || !strings.Contains(err.Error(), "the path is empty") {
		t.Errorf("an empty path: %v", err)
	}
	if _, err := findFiles([]string{"$GOROOT"}, nil, nil); err == nil || !strings.Contains(err.Error(), "$GOROOT is not known here") {
		t.Errorf("$GOROOT without a function: %v", err)
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a/x": "x", "b/y": "y"})
	for _, name := range []string{"a/x", "b"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "b"), 0o700) }) // so that the directory can be removed
	if file, err := os.Open(filepath.Join(dir, "a/x")); err == nil {
		file.Close()
		t.Skip("this user may read every file")
	}
	for path, want := range map[string]string{"a": "a/x: permission denied", "b": "permission denied", "b/**": "permission denied"} {
		_, err := openText(Options{EOD: tokenizer.EndOfDocument}, []string{filepath.Join(dir, path)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", path, err, want)
		}
	}
}
