// Package mapping maps files of tensors into memory, so that only what is used of them is read.
package mapping

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A File is a file's contents, mapped read-only.
//
// The mapping shows the file as it is on the disk: a program that cuts the file short while it is mapped makes readers
// fault. Replacing the file by renaming another over it, as Lockstep itself always does, is harmless.
type File struct {
	path  string
	bytes []byte
}

// Open maps the file at path. Errors name it.
func Open(path string) (*File, error) {
	// Asking first keeps a named pipe from blocking the opening for ever.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("opening weights: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("opening weights: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening weights: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening weights: %w", err)
	}
	size := info.Size()
	if size == 0 { // nothing can be mapped, and its format will say what is missing
		return &File{path: path}, nil
	}
	if size != int64(int(size)) {
		return nil, fmt.Errorf("%s has %d bytes, too many to be mapped", path, size)
	}
	bytes, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s (%d bytes): %w", path, size, err)
	}
	return &File{path, bytes}, nil
}

// Path returns the file's path.
func (f *File) Path() string { return f.path }

// Bytes returns the mapping: read-only, and gone after Close.
func (f *File) Bytes() []byte { return f.bytes }

// Close unmaps the file.
func (f *File) Close() error {
	bytes := f.bytes
	if f.bytes = nil; bytes == nil {
		return nil
	}
	if err := unix.Munmap(bytes); err != nil {
		return fmt.Errorf("unmapping %s: %w", f.path, err)
	}
	return nil
}
