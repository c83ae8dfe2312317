package mindspore

import (
	"errors"
	"fmt"

	"lockstep/spmd/checkpoint/mapping"
)

// A File is a memory-mapped .ckpt file, see mapping.File. Reading is safe from any number of goroutines, until Close.
type File struct {
	*mapping.File
	tensors []Tensor
}

// Open maps the file at path and finds its tensors. Errors name the file, the tensor and the remedy.
func Open(path string) (*File, error) {
	m, err := mapping.Open(path)
	if err != nil {
		return nil, err
	}
	tensors, err := parse(m.Bytes())
	if err != nil {
		err = fmt.Errorf("%s: %w; the file is damaged, encrypted or no MindSpore checkpoint: copy it again, or save it without enc_key", path, err)
		return nil, errors.Join(err, m.Close())
	}
	return &File{m, tensors}, nil
}

// Tensors returns the file's tensors in their order.
func (f *File) Tensors() []Tensor { return f.tensors }

// Close unmaps the file.
func (f *File) Close() error {
	f.tensors = nil
	return f.File.Close()
}
