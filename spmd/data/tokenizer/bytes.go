package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

const (
	// EndOfDocument is the id of Bytes that ends a document.
	EndOfDocument = 256
	// endOfDocumentText stands for EndOfDocument in tokenizer.json and in decoded text.
	endOfDocumentText = "<|endoftext|>"
)

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
	return map[string][]byte{fileName: tokenizer, configName: []byte(bytesConfigJSON)}, nil
}

// bytesJSON returns the tokenizer.json of the byte tokenizer.
func bytesJSON() ([]byte, error) {
	// Written by hand, so that the ids are in order; a Go map would be sorted by its keys.
	var vocab []string
	for b, char := range byteAlphabet() {
		name, err := json.Marshal(string(char))
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", fileName, err)
		}
		vocab = append(vocab, fmt.Sprintf("%s:%d", name, b))
	}
	const level = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}`
	var out bytes.Buffer
	err := json.Indent(&out, fmt.Appendf(nil, `{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":%d,"content":%q,`+
		`"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":%s,`+
		`"post_processor":null,"decoder":%s,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,`+
		`"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{%s},"merges":[]}}`+"\n",
		EndOfDocument, endOfDocumentText, level, level, strings.Join(vocab, ",")), "", "  ")
	return out.Bytes(), err
}

// bytesConfigJSON is the tokenizer_config.json of the byte tokenizer. A clean-up would drop spaces when decoding.
const bytesConfigJSON = `{
  "tokenizer_class": "PreTrainedTokenizerFast",
  "eos_token": "` + endOfDocumentText + `",
  "clean_up_tokenization_spaces": false
}
`
