package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// maxChecked is the size up to which a file's contents are compared across hosts. Programs and configurations are smaller;
// of what is larger, data, only the size is compared.
const maxChecked = 256 << 20

// comparedFiles returns the files that must be the same on all hosts: the program and what its arguments name.
func comparedFiles(program string, args []string) []string {
	files := []string{program}
	for _, name := range args {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && !slices.Contains(files, name) {
			files = append(files, name)
		}
	}
	return files
}

// checksums describes the contents of files: a checksum, the size of a large one, or why it cannot be read.
func checksums(files []string) map[string]string {
	sums := map[string]string{}
	for _, name := range files {
		sum, err := checksum(name)
		if err != nil {
			sum = err.Error()
		}
		sums[name] = sum
	}
	return sums
}

func checksum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() > maxChecked {
		return fmt.Sprintf("%d bytes", info.Size()), nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256 %x", h.Sum(nil)[:8]), nil
}

// differences compares a host's checksums with this one's, a line for each file that differs.
func differences(host string, here, there map[string]string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(here)) {
		if here[name] != there[name] {
			lines = append(lines, fmt.Sprintf("%s differs on %s: %s, here %s; copy it there, or use a directory that both share", name, host, there[name], here[name]))
		}
	}
	return lines
}
