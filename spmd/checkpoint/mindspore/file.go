package mindspore

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A File is a memory-mapped .ckpt file. Reading is safe from any number of goroutines, until Close.
type File struct {
	path    string
	mapping []byte
	tensors []Tensor
}

// Open maps the file at path and finds its tensors. Errors name the file, the tensor and the remedy.
func Open(path string) (*File, error) {
	// Asking first keeps a named pipe from blocking the opening for ever.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("opening a MindSpore checkpoint: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("opening a MindSpore checkpoint: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening a MindSpore checkpoint: %w", err)
	}
	defer f.Close()
	return Map(f)
}

// Map is Open for a file that is open already. f may be closed afterwards.
func Map(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening a MindSpore checkpoint: %w", err)
	}
	size := info.Size()
	if size < 1 || size > int64(maxInt) {
		return nil, damaged(f.Name(), fmt.Errorf("%d bytes are none, or too many to be mapped", size))
	}
	mapping, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s (%d bytes): %w", f.Name(), size, err)
	}
	tensors, err := parse(mapping)
	if err != nil {
		unix.Munmap(mapping)
		return nil, damaged(f.Name(), err)
	}
	return &File{path: f.Name(), mapping: mapping, tensors: tensors}, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%s: %w; the file is damaged, encrypted or no MindSpore checkpoint: copy it again, or save it without enc_key", path, err)
}

// Path returns the file's path.
func (f *File) Path() string { return f.path }

// Tensors returns the file's tensors in their order.
func (f *File) Tensors() []Tensor { return f.tensors }

// Close unmaps the file.
func (f *File) Close() error {
	if f.mapping == nil {
		return nil
	}
	mapping := f.mapping
	f.mapping, f.tensors = nil, nil
	if err := unix.Munmap(mapping); err != nil {
		return fmt.Errorf("unmapping %s: %w", f.path, err)
	}
	return nil
}
