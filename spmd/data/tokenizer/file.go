package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// A file is what of a tokenizer.json decides about ids and text. Its keys for truncation and padding do not: they are for
// callers who want them.
type file struct {
	AddedTokens   []addedToken `json:"added_tokens"`
	Normalizer    *component   `json:"normalizer"`
	PreTokenizer  *component   `json:"pre_tokenizer"`
	PostProcessor *component   `json:"post_processor"`
	Decoder       *component   `json:"decoder"`
	Model         modelFile    `json:"model"`
}

// An addedToken is found in the text before the model sees it.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // not within a word
	LStrip     bool   `json:"lstrip"`      // takes white space before it
	RStrip     bool   `json:"rstrip"`      // takes white space behind it
	Normalized bool   `json:"normalized"`  // is looked for, normalized, in the normalized text
	Special    bool   `json:"special"`
}

// A component is a normalizer, pre-tokenizer, post-processor or decoder with the fields of all types.
type component struct {
	Type string `json:"type"`

	// Sequence
	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`
	Decoders      []component `json:"decoders"`

	Pattern          *patternFile `json:"pattern"`           // Split, Replace
	Content          string       `json:"content"`           // Replace; Strip as a decoder
	Behavior         string       `json:"behavior"`          // Split
	Invert           bool         `json:"invert"`            // Split
	Prepend          string       `json:"prepend"`           // Prepend
	StripLeft        bool         `json:"strip_left"`        // Strip as a normalizer
	StripRight       bool         `json:"strip_right"`       //
	Start            int          `json:"start"`             // Strip as a decoder
	Stop             int          `json:"stop"`              //
	IndividualDigits bool         `json:"individual_digits"` // Digits
	AddPrefixSpace   *bool        `json:"add_prefix_space"`  // ByteLevel, Metaspace
	UseRegex         *bool        `json:"use_regex"`         // ByteLevel
	Replacement      string       `json:"replacement"`       // Metaspace
	PrependScheme    string       `json:"prepend_scheme"`    //
	Split            *bool        `json:"split"`             //

	Single        []templatePiece            `json:"single"` // TemplateProcessing
	SpecialTokens map[string]templateSpecial `json:"special_tokens"`
}

// A patternFile is text to look for, as it is or as an expression.
type patternFile struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// A templatePiece is the text, "A", or a special token of a template.
type templatePiece struct {
	Sequence     *struct{ ID string }
	SpecialToken *struct{ ID string }
}

type templateSpecial struct {
	IDs []int32 `json:"ids"`
}

// A modelFile is the model, of which only BPE is known.
type modelFile struct {
	Type                    string            `json:"type"`
	Dropout                 float64           `json:"dropout"`
	UnkToken                *string           `json:"unk_token"`
	ContinuingSubwordPrefix string            `json:"continuing_subword_prefix"`
	EndOfWordSuffix         string            `json:"end_of_word_suffix"`
	FuseUnk                 bool              `json:"fuse_unk"`
	ByteFallback            bool              `json:"byte_fallback"`
	IgnoreMerges            bool              `json:"ignore_merges"`
	Vocab                   json.RawMessage   `json:"vocab"` // an object from token to id; a list in other models
	Merges                  []json.RawMessage `json:"merges"`
}

const (
	// maxIDs limits the ids, and so the vocabulary; the largest known vocabularies have 262,144 tokens.
	maxIDs = 1 << 22
	// maxMerges limits the merges; the most known are 514,906.
	maxMerges = 1 << 23
)

// parseFile reads a tokenizer.json and refuses what is damaged or too large.
func parseFile(content []byte) (*file, error) {
	f := &file{}
	if err := json.Unmarshal(content, f); err != nil {
		return nil, jsonError(content, err)
	}
	m := &f.Model
	switch {
	case m.Type != "BPE" && m.Type != "": // an absent type is BPE in early files
		return nil, fmt.Errorf("model.type: %q is not implemented; use a tokenizer whose model is BPE", m.Type)
	case len(m.Merges) > maxMerges:
		return nil, fmt.Errorf("model.merges: there are %d, the limit is %d", len(m.Merges), maxMerges)
	case m.Dropout != 0:
		return nil, fmt.Errorf("model.dropout: %v is not implemented, the same text would get other tokens each time; use null", m.Dropout)
	case m.ContinuingSubwordPrefix != "":
		return nil, fmt.Errorf("model.continuing_subword_prefix: %q is not implemented", m.ContinuingSubwordPrefix)
	case m.EndOfWordSuffix != "":
		return nil, fmt.Errorf("model.end_of_word_suffix: %q is not implemented", m.EndOfWordSuffix)
	}
	return f, nil
}

// jsonError says where in content err is.
func jsonError(content []byte, err error) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	}
	if offset < 0 || offset > int64(len(content)) {
		return err
	}
	line := 1 + strings.Count(string(content[:offset]), "\n")
	return fmt.Errorf("line %d, byte %d: %w; the file is damaged, or of a form that is not known", line, offset, err)
}

// parseVocab reads the vocabulary of a model.
func parseVocab(content json.RawMessage) (map[string]int32, error) {
	var vocab map[string]int32
	if err := json.Unmarshal(content, &vocab); err != nil {
		return nil, fmt.Errorf("model.vocab: %w; it must be an object from tokens to ids", err)
	}
	if len(vocab) == 0 {
		return nil, errors.New("model.vocab: it is missing or empty")
	}
	for token, id := range vocab {
		if id < 0 || id >= maxIDs {
			return nil, fmt.Errorf("model.vocab: %q has id %d, ids go from 0 to %d", token, id, maxIDs-1)
		}
	}
	return vocab, nil
}

// parseMerge reads a merge in either form: "a b" or ["a", "b"].
func parseMerge(content json.RawMessage) (a, b string, err error) {
	if len(content) > 0 && content[0] == '[' {
		var pair []string
		if err := json.Unmarshal(content, &pair); err != nil {
			return "", "", err
		}
		if len(pair) != 2 {
			return "", "", fmt.Errorf("%d tokens where 2 are merged", len(pair))
		}
		return pair[0], pair[1], nil
	}
	var pair string
	if err := json.Unmarshal(content, &pair); err != nil {
		return "", "", err
	}
	a, b, ok := strings.Cut(pair, " ")
	if !ok || strings.Contains(b, " ") {
		return "", "", fmt.Errorf("%q is not two tokens with a space between", pair)
	}
	return a, b, nil
}
