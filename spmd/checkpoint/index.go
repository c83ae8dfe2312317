package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxIndexBytes bounds the index of a sharded model. The largest published one has some ten megabytes.
const maxIndexBytes = 256 << 20

// maxConfigBytes bounds a config.json or adapter_config.json.
const maxConfigBytes = 1 << 20

// readIndex reads a model.safetensors.index.json: tensor name -> file name.
func readIndex(path string) (map[string]string, error) {
	text, err := readSmall(path, maxIndexBytes)
	if err != nil {
		return nil, err
	}
	index, err := parseIndex(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; the file is damaged, download it again", path, err)
	}
	return index, nil
}

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, expected a file of at most %d", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}

// parseIndex decodes an index and makes sure that no file name leads out of the model's directory. Keys beside weight_map
// are the writer's notes (metadata.total_size) and change nothing.
func parseIndex(text []byte) (map[string]string, error) {
	var index map[string]string
	d := json.NewDecoder(bytes.NewReader(text))
	fail := func(err error) error {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("byte %d: %w", d.InputOffset(), err)
	}
	err := eachKey(d, func(key string) error {
		if key != "weight_map" {
			var skipped json.RawMessage
			return d.Decode(&skipped)
		}
		if index != nil {
			return errors.New("weight_map occurs twice")
		}
		index = map[string]string{}
		return eachKey(d, func(tensor string) error {
			var file string
			if err := d.Decode(&file); err != nil {
				return fmt.Errorf("tensor %q: %w", tensor, err)
			}
			if _, ok := index[tensor]; ok {
				return fmt.Errorf("tensor %q occurs twice", tensor)
			}
			if !filepath.IsLocal(filepath.FromSlash(file)) {
				return fmt.Errorf("tensor %q: the file name %q leads out of the directory", tensor, file)
			}
			index[tensor] = file
			return nil
		})
	})
	if err != nil {
		return nil, fail(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fail(errors.New("something follows the JSON object"))
	}
	if index == nil {
		return nil, errors.New("there is no weight_map")
	}
	return index, nil
}

// eachKey reads an object, calling value for each key to read the value that follows it.
func eachKey(d *json.Decoder, value func(key string) error) error {
	if t, err := d.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return fmt.Errorf("found %v, expected {", t)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		if err := value(t.(string)); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// encodeIndex is the inverse of parseIndex, in the form that Transformers writes: keys sorted, two spaces. total is the
// size of all tensors in bytes.
func encodeIndex(index map[string]string, total int) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{
		"metadata":   map[string]int{"total_size": total},
		"weight_map": index,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", indexName, err)
	}
	return b.Bytes(), nil
}
