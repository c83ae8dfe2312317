package safetensors

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A File is a memory-mapped safetensors file. Reading is safe from any number of goroutines, until Close.
//
// The mapping shows the file as it is on the disk: a program that cuts the file short while it is mapped makes readers
// fault. Replacing the file by renaming another over it, as Lockstep itself always does, is harmless.
type File struct {
	path    string
	mapping []byte
	header  *header
	byName  map[string]int
}

// Open maps the file at path and checks its header against its size. Errors name the file, the tensor and the remedy.
func Open(path string) (*File, error) {
	// Asking first keeps a named pipe from blocking the opening for ever.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("opening safetensors: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("opening safetensors: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening safetensors: %w", err)
	}
	defer f.Close()
	return Map(f)
}

// Map is Open for a file that is open already. f may be closed afterwards.
func Map(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening safetensors: %w", err)
	}
	size := info.Size()
	if size < 8 || size > int64(maxInt) {
		return nil, damaged(f.Name(), fmt.Errorf("%d bytes are too few for a header, or too many to be mapped", size))
	}
	mapping, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s (%d bytes): %w", f.Name(), size, err)
	}
	h, err := parseHeader(mapping)
	if err != nil {
		unix.Munmap(mapping)
		return nil, damaged(f.Name(), err)
	}
	file := &File{path: f.Name(), mapping: mapping, header: h, byName: make(map[string]int, len(h.tensors))}
	for i, t := range h.tensors {
		file.byName[t.Name] = i
	}
	return file, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%s: %w; the file is damaged or no safetensors file, copy or download it again", path, err)
}

// Path returns the file's path.
func (f *File) Path() string { return f.path }

// Tensors returns the file's tensors in the order of their bytes.
func (f *File) Tensors() []Info { return f.header.tensors }

// Metadata returns the strings of the header's __metadata__, nil when there are none.
func (f *File) Metadata() map[string]string { return f.header.metadata }

// Info describes the named tensor. ok is false when the file does not have it.
func (f *File) Info(name string) (info Info, ok bool) {
	i, ok := f.byName[name]
	if !ok {
		return Info{}, false
	}
	return f.header.tensors[i], true
}

// Bytes returns the named tensor's elements, row-major and little-endian, nil when the file does not have it. They are the
// mapping itself: read-only, gone after Close, and aligned to nothing.
func (f *File) Bytes(name string) []byte {
	t, ok := f.Info(name)
	if !ok {
		return nil
	}
	data := f.mapping[f.header.dataAt:]
	return data[t.Start:t.End:t.End]
}

// Close unmaps the file.
func (f *File) Close() error {
	if f.mapping == nil {
		return nil
	}
	mapping := f.mapping
	f.mapping, f.header, f.byName = nil, &header{}, nil
	if err := unix.Munmap(mapping); err != nil {
		return fmt.Errorf("unmapping %s: %w", f.path, err)
	}
	return nil
}
