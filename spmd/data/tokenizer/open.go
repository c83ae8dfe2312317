package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of a tokenizer's files in a model directory.
const (
	fileName   = "tokenizer.json"
	configName = "tokenizer_config.json"
)

// ChatTemplateName is the file of a model directory with the template that turns conversations into text.
const ChatTemplateName = "chat_template.jinja"

// otherNames are the files that may stand beside them and belong to the tokenizer.
var otherNames = [...]string{
	"special_tokens_map.json", "added_tokens.json", ChatTemplateName, "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model",
}

// maxFileBytes limits a file; the largest known tokenizer.json have about 35 MB.
const maxFileBytes = 128 << 20

// Open reads the tokenizer.json at path, or in the directory path. tokenizer_config.json beside it says which tokens begin a
// text and end a document. A type of normalizer, pre-tokenizer, model, post-processor or decoder that is not implemented is
// refused by name; a directory without a tokenizer is fs.ErrNotExist.
func Open(path string) (Tokenizer, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, fileName)
	}
	dir := filepath.Dir(path)
	content, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "tokenizer.model")); err == nil {
			return nil, fmt.Errorf("%s has a SentencePiece tokenizer.model and no %s; save the tokenizer with Transformers, which writes one", dir, fileName)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the tokenizer: %w", err)
	}
	f, err := parseFile(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := newHuggingFace(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t.path, t.content = path, sha256.Sum256(content)
	return t, t.readConfig(filepath.Join(dir, configName))
}

// readFile reads a file that is not too large.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has more than %d MiB, the limit of a tokenizer's file", path, maxFileBytes>>20)
	}
	content := make([]byte, info.Size())
	_, err = io.ReadFull(file, content)
	return content, err
}

// A specialToken is written as a string or as an object.
type specialToken struct{ Content string }

// UnmarshalJSON implements json.Unmarshaler.
func (s *specialToken) UnmarshalJSON(content []byte) error {
	if len(content) > 0 && content[0] == '{' {
		var token struct{ Content string }
		err := json.Unmarshal(content, &token)
		s.Content = token.Content
		return err
	}
	return json.Unmarshal(content, &s.Content) // null leaves it empty
}

// readConfig reads tokenizer_config.json, if there is one.
func (t *huggingFace) readConfig(path string) error {
	content, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the tokenizer: %w", err)
	}
	var config struct {
		BOS specialToken `json:"bos_token"`
		EOS specialToken `json:"eos_token"`
	}
	if err := json.Unmarshal(content, &config); err != nil {
		return fmt.Errorf("%s: %w", path, jsonError(content, err))
	}
	for _, token := range []struct {
		key, name string
		id        *int32
	}{{"bos_token", config.BOS.Content, &t.bos}, {"eos_token", config.EOS.Content, &t.eod}} {
		if token.name == "" {
			continue
		}
		id, ok := t.ID(token.name)
		if !ok {
			return fmt.Errorf("%s: %s: %q is not in %s", path, token.key, token.name, fileName)
		}
		*token.id = id
	}
	return nil
}

// Fingerprint implements Tokenizer.
func (t *huggingFace) Fingerprint() string { return "sha256:" + hex.EncodeToString(t.content[:]) }

// Files implements Tokenizer: the same bytes that were read.
func (t *huggingFace) Files() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range append([]string{fileName, configName}, otherNames[:]...) {
		path := filepath.Join(filepath.Dir(t.path), name)
		if name == fileName {
			path = t.path // which may have another name
		}
		content, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the tokenizer: %w", err)
		}
		files[name] = content
	}
	if sha256.Sum256(files[fileName]) != t.content {
		return nil, fmt.Errorf("%s has changed since it was read; a tokenizer must not change during a run", t.path)
	}
	return files, nil
}
