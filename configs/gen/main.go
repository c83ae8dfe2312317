// Command gen writes configs/README.md: what each recipe needs, and how well its model is verified. It is run by go generate; its
// test fails when the page is not what it writes.
//
// Nobody writes a level by hand. A recipe comes to a set of features (feature.go), the recorded reference curves to another
// (evidence.go), and the level follows from the two (level.go).
package main

import (
	"log"
	"os"
	"path/filepath"
)

//go:generate go run .

// root is the repository's, relative to this directory, where go generate and go test run.
const root = "../.."

func main() {
	page, err := readme(root)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "configs/README.md"), page, 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}
