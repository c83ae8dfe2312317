package safetensors

import (
	"errors"
	"fmt"

	"lockstep/spmd/checkpoint/mapping"
)

// A File is a memory-mapped safetensors file, see mapping.File. Reading is safe from any number of goroutines, until Close.
type File struct {
	*mapping.File
	header *header
	byName map[string]int
}

// Open maps the file at path and checks its header against its size. Errors name the file, the tensor and the remedy.
func Open(path string) (*File, error) {
	m, err := mapping.Open(path)
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(m.Bytes())
	if err != nil {
		err = fmt.Errorf("%s: %w; the file is damaged or no safetensors file, copy or download it again", path, err)
		return nil, errors.Join(err, m.Close())
	}
	file := &File{File: m, header: h, byName: make(map[string]int, len(h.tensors))}
	for i, t := range h.tensors {
		file.byName[t.Name] = i
	}
	return file, nil
}

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

// Span returns where the named tensor's elements, row-major and little-endian, lie in the file's bytes, aligned to nothing. ok is
// false when the file does not have it.
func (f *File) Span(name string) (s Span, ok bool) {
	t, ok := f.Info(name)
	return Span{f.header.dataAt + t.Start, t.End - t.Start}, ok
}

// Close unmaps the file.
func (f *File) Close() error {
	f.header, f.byName = &header{}, nil
	return f.File.Close()
}
