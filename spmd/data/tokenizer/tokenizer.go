// Package tokenizer turns text into token ids and back, as Hugging Face's tokenizers do.
//
// Open reads a tokenizer.json. A text goes through its parts in order: added tokens are taken out (added.go), what lies
// between is normalized (normalize.go) and split into words by pre-tokenizers (pretokenize.go, package pattern), and the
// model, byte pair encoding, turns each word into tokens (bpe.go, merge.go), mostly from a cache (encode.go). Decoders
// (decode.go) turn tokens into text. Bytes is the tokenizer of models trained without one.
package tokenizer

// A Tokenizer turns text into token ids and back. It is safe for concurrent use.
type Tokenizer interface {
	// VocabSize returns one more than the largest id.
	VocabSize() int
	// Encode appends the ids of text to dst. It adds no special tokens; those that are written out in text are found, as
	// Hugging Face's tokenizers do, except by Bytes. Bytes that are not UTF-8 are read as U+FFFD, as Python's
	// errors="replace" does, except by Bytes.
	Encode(dst []int32, text string) []int32
	// EncodeSpecial is Encode with the special tokens that the tokenizer's post-processor adds around a text, such as that
	// of its begin.
	EncodeSpecial(dst []int32, text string) []int32
	// Decode returns the text of ids, without the special tokens if skipSpecial. Ids that do not exist are left out; bytes
	// that are no UTF-8 become U+FFFD.
	Decode(ids []int32, skipSpecial bool) string
	// ID returns the id of a token by its name in the vocabulary, special or not.
	ID(token string) (int32, bool)
	// BOS returns the token that begins a text, -1 for none.
	BOS() int32
	// EOD returns the token that ends a document, -1 for none: eos_token of tokenizer_config.json.
	EOD() int32
	// Files returns the files of the tokenizer by name, for the directory of a model that is trained with it.
	Files() (map[string][]byte, error)
	// Fingerprint identifies the tokenizer by its content: two with the same fingerprint give the same ids.
	Fingerprint() string
}
