package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// EndOfDocument is the id of Bytes that ends a document.
	EndOfDocument = 256
	// endOfDocumentText stands for EndOfDocument in tokenizer.json and in decoded text.
	endOfDocumentText = "<|endoftext|>"
)

// maxTokenizerBytes limits tokenizer.json; the largest known ones have about 35 MB.
const maxTokenizerBytes = 128 << 20

// Bytes is the Tokenizer of ids 0 to 255 for the bytes of the text, and EndOfDocument.
//
// As a Hugging Face tokenizer it is a byte-level BPE without merges: each byte has a printable character of its own (the
// alphabet of GPT-2), and the vocabulary is those 256 characters, in the order of the bytes. Transformers differs in two
// ways: it recognises the end-of-document token where it is written out in a text, while Encode does not, so that no text
// can end a document; and its AutoTokenizer version 5 loads every model of type qwen2 with Qwen2Tokenizer, which puts
// text into normal form C first, whatever the file says.
type Bytes struct{}

// VocabSize implements Tokenizer.
func (Bytes) VocabSize() int { return EndOfDocument + 1 }

// Encode implements Tokenizer. Text is taken as it is, UTF-8 or not.
func (Bytes) Encode(dst []int32, text string) []int32 {
	for i := range len(text) {
		dst = append(dst, int32(text[i]))
	}
	return dst
}

// EncodeSpecial implements Tokenizer: nothing is added.
func (b Bytes) EncodeSpecial(dst []int32, text string) []int32 { return b.Encode(dst, text) }

// Decode implements Tokenizer.
func (Bytes) Decode(ids []int32, skipSpecial bool) string {
	var text strings.Builder
	for _, id := range ids {
		switch {
		case id >= 0 && id < EndOfDocument:
			text.WriteByte(byte(id))
		case id == EndOfDocument && !skipSpecial:
			text.WriteString(endOfDocumentText)
		}
	}
	return validUTF8(text.String())
}

// ID implements Tokenizer. Names are those of the tokenizer.json.
func (Bytes) ID(token string) (int32, bool) {
	if token == endOfDocumentText {
		return EndOfDocument, true
	}
	for b, char := range byteAlphabet() {
		if token == string(char) {
			return int32(b), true
		}
	}
	return 0, false
}

// BOS implements Tokenizer: there is none.
func (Bytes) BOS() int32 { return -1 }

// EOD implements Tokenizer.
func (Bytes) EOD() int32 { return EndOfDocument }

// Fingerprint implements Tokenizer.
func (Bytes) Fingerprint() string { return "bytes" }

// Files implements Tokenizer: a tokenizer.json, and a tokenizer_config.json that names the class for Transformers'
// AutoTokenizer.
func (Bytes) Files() (map[string][]byte, error) {
	tokenizer, err := bytesJSON()
	if err != nil {
		return nil, err
	}
	config, err := bytesConfigJSON()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{fileName: tokenizer, configName: config}, nil
}

// Names of a tokenizer's files in a model directory.
const (
	fileName   = "tokenizer.json"
	configName = "tokenizer_config.json"
)

// byteAlphabet returns the character that stands for each byte in a byte-level vocabulary: itself for a printable
// character of Latin-1 other than the soft hyphen, the characters from U+0100 on for the rest, in order.
func byteAlphabet() [256]rune {
	var alphabet [256]rune
	next := rune(0x100)
	for b := range alphabet {
		if b >= '!' && b <= '~' || b >= 0xA1 && b != 0xAD {
			alphabet[b] = rune(b)
		} else {
			alphabet[b] = next
			next++
		}
	}
	return alphabet
}

// tokenizerFile is what Lockstep writes in a tokenizer.json, and what it must know of others to tell them apart.
type tokenizerFile struct {
	Version       string          `json:"version"`
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    *normalizer     `json:"normalizer"`
	PreTokenizer  *byteLevel      `json:"pre_tokenizer"`
	PostProcessor *postProcessor  `json:"post_processor"`
	Decoder       *byteLevel      `json:"decoder"`
	Model         tokenizerModel  `json:"model"`
}

type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type normalizer struct {
	Type string `json:"type"`
}

type postProcessor struct {
	Type          string                     `json:"type"`
	SpecialTokens map[string]json.RawMessage `json:"special_tokens"`
}

// isIdentity reports whether the post-processor leaves the ids alone, as nil does. Transformers writes a template
// without special tokens when it saves the byte tokenizer.
func (p *postProcessor) isIdentity() bool {
	return p == nil || p.Type == "ByteLevel" || p.Type == "TemplateProcessing" && len(p.SpecialTokens) == 0
}

type byteLevel struct {
	Type           string `json:"type"`
	AddPrefixSpace bool   `json:"add_prefix_space"`
	TrimOffsets    bool   `json:"trim_offsets"`
	UseRegex       bool   `json:"use_regex"`
}

type tokenizerModel struct {
	Type                    string            `json:"type"`
	Dropout                 *float64          `json:"dropout"`
	UnkToken                *string           `json:"unk_token"`
	ContinuingSubwordPrefix *string           `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string           `json:"end_of_word_suffix"`
	FuseUnk                 bool              `json:"fuse_unk"`
	ByteFallback            bool              `json:"byte_fallback"`
	IgnoreMerges            bool              `json:"ignore_merges"`
	Vocab                   json.RawMessage   `json:"vocab"` // an object from token to id, a list in other models
	Merges                  []json.RawMessage `json:"merges"`
}

// bytesJSON returns the tokenizer.json of the byte tokenizer.
func bytesJSON() ([]byte, error) {
	// Written by hand, so that the ids are in order; a Go map would be sorted by its keys.
	var vocab bytes.Buffer
	for b, char := range byteAlphabet() {
		name, err := json.Marshal(string(char))
		if err != nil {
			return nil, fmt.Errorf("writing tokenizer.json: %w", err)
		}
		fmt.Fprintf(&vocab, "%c%s:%d", "{,"[min(b, 1)], name, b)
	}
	vocab.WriteByte('}')
	level := &byteLevel{Type: "ByteLevel", TrimOffsets: true}
	return indented(tokenizerFile{
		Version:      "1.0",
		AddedTokens:  []addedToken{{ID: EndOfDocument, Content: endOfDocumentText, Special: true}},
		PreTokenizer: level,
		Decoder:      level,
		Model:        tokenizerModel{Type: "BPE", Vocab: vocab.Bytes(), Merges: []json.RawMessage{}},
	}, "tokenizer.json")
}

// bytesConfigJSON returns the tokenizer_config.json of the byte tokenizer, which names the class for
// Transformers' AutoTokenizer.
func bytesConfigJSON() ([]byte, error) {
	return indented(struct {
		Class   string `json:"tokenizer_class"`
		EOS     string `json:"eos_token"`
		CleanUp bool   `json:"clean_up_tokenization_spaces"` // would drop spaces when decoding
	}{"PreTrainedTokenizerFast", endOfDocumentText, false}, "tokenizer_config.json")
}

// indented writes v as JSON for people. Characters of HTML are not escaped, so that tokens can be read.
func indented(v any, name string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("writing %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// Open reads the tokenizer of a model directory. Only the byte tokenizer is known: a byte-level tokenizer.json
// without merges. Any other is refused with what it is; a directory without a tokenizer is fs.ErrNotExist.
func Open(dir string) (Tokenizer, error) {
	path := filepath.Join(dir, "tokenizer.json")
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "tokenizer.model")); err == nil {
			return nil, fmt.Errorf("%s has a SentencePiece tokenizer.model and no tokenizer.json; %s", dir, onlyBytes)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the tokenizer: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxTokenizerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(content) > maxTokenizerBytes {
		return nil, fmt.Errorf("%s has more than %s; %s", path, fmt.Sprintf("%d MiB", maxTokenizerBytes>>20), onlyBytes)
	}
	if err := checkTokenizer(content); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return Bytes{}, nil
}

// onlyBytes is the remedy for tokenizers that are not known.
const onlyBytes = "only the byte tokenizer is known, a byte-level BPE without merges; tokenize the text elsewhere and use format megatron"

// checkTokenizer says in which way a tokenizer.json is not the byte tokenizer.
func checkTokenizer(content []byte) error {
	var f tokenizerFile
	if err := json.Unmarshal(content, &f); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return fmt.Errorf("byte %d: %w; the file is damaged", syntax.Offset, err)
		}
		return fmt.Errorf("%w; %s", err, onlyBytes)
	}
	m := f.Model
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("the tokenizer "+format+"; "+onlyBytes, args...)
	}
	switch {
	case m.Type != "BPE":
		return refuse("has a model of type %q", m.Type)
	case len(m.Merges) > 0:
		return refuse("is a BPE with %d merges", len(m.Merges))
	case f.Normalizer != nil:
		return refuse("has a normalizer of type %q", f.Normalizer.Type)
	case f.PreTokenizer == nil || f.PreTokenizer.Type != "ByteLevel" || f.PreTokenizer.AddPrefixSpace:
		return refuse("has no pre-tokenizer of type \"ByteLevel\" without a prefix space")
	case !f.PostProcessor.isIdentity():
		return refuse("has a post-processor of type %q, which adds tokens", f.PostProcessor.Type)
	case deref(m.ContinuingSubwordPrefix) != "" || deref(m.EndOfWordSuffix) != "" || m.ByteFallback:
		return refuse("marks parts of words in its vocabulary")
	case len(f.AddedTokens) != 1 || f.AddedTokens[0].ID != EndOfDocument || f.AddedTokens[0].Content != endOfDocumentText:
		return refuse("has %d added tokens, not %q alone with id %d",
			len(f.AddedTokens), endOfDocumentText, EndOfDocument)
	}
	return checkVocabulary(m.Vocab, refuse)
}

// checkVocabulary checks that the vocabulary is the byte alphabet, in order. The end-of-document token may be in it too.
func checkVocabulary(content []byte, refuse func(string, ...any) error) error {
	var vocab map[string]int
	if err := json.Unmarshal(content, &vocab); err != nil {
		return refuse("has a vocabulary that is no object of ids (%v)", err)
	}
	if id, ok := vocab[endOfDocumentText]; ok && id == EndOfDocument {
		delete(vocab, endOfDocumentText)
	}
	if len(vocab) != 256 {
		return refuse("has %d tokens beside the end of a document, not 256", len(vocab))
	}
	for b, char := range byteAlphabet() {
		if id, ok := vocab[string(char)]; !ok || id != b {
			return refuse("does not give byte 0x%02X, written %q, the id %d", b, string(char), b)
		}
	}
	return nil
}

// deref returns the string behind p, "" for nil.
func deref(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
