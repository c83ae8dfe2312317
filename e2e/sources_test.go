package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSources looks at every source file of the programs. The go command notes which files a test has looked at, and runs
// the tests of this package again once one has changed: it does not see that they build the programs.
func TestSources(t *testing.T) {
	files := 0
	for _, dir := range []string{"launch", "spmd", "collective", "kernels", "configs"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files++
			_, err = os.Stat(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 100 {
		t.Errorf("only %d source files were found", files)
	}
}
