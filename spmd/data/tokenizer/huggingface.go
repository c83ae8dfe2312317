package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A huggingFace is the tokenizer of a tokenizer.json.
type huggingFace struct {
	path        string   // of the file
	content     [32]byte // SHA-256 of the file
	names       []string // of the tokens by id, as decoders take them; "" for none
	ids         map[string]int32
	special     map[int32]bool
	raw         *addedSet // the added tokens that are looked for in the text as it is
	normalized  *addedSet // those that are looked for in the normalized text
	normalizers []normalizer
	stages      []stage
	model       *bpe
	decoders    []decoder
	before      []int32 // what the post-processor puts before a text
	after       []int32
	bos, eod    int32

	mu       sync.Mutex
	encoders []*encoder // that nobody uses
}

// newHuggingFace makes the tokenizer of the file.
func newHuggingFace(f *file) (*huggingFace, error) {
	vocab, err := parseVocab(f.Model.Vocab)
	if err != nil {
		return nil, err
	}
	t := &huggingFace{ids: vocab, special: map[int32]bool{}, bos: -1, eod: -1}
	var errs [5]error
	t.normalizers, errs[0] = newNormalizers(f.Normalizer, "normalizer")
	t.stages, errs[1] = newStages(f.PreTokenizer, "pre_tokenizer")
	t.decoders, errs[2] = newDecoders(f.Decoder, "decoder")
	t.before, t.after, errs[3] = newTemplate(f.PostProcessor, "post_processor")
	byteLevel, err := endsByteLevel(t.stages)
	if err == nil {
		t.model, err = newBPE(&f.Model, vocab, byteLevel)
	}
	errs[4] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return t, t.addTokens(f.AddedTokens)
}

// endsByteLevel reports whether the last stage is ByteLevel. Before others it is not implemented.
func endsByteLevel(stages []stage) (bool, error) {
	for i, s := range stages {
		if _, ok := s.(byteLevel); ok {
			if i+1 < len(stages) {
				return true, errors.New("pre_tokenizer: ByteLevel before another pre-tokenizer is not implemented")
			}
			return true, nil
		}
	}
	return false, nil
}

// addTokens adds the added tokens, and the names of all tokens. An added token that is not in the vocabulary gets the next id
// after it, whatever the file says; a file that says something else is refused.
func (t *huggingFace) addTokens(tokens []addedToken) error {
	size := int32(0)
	for _, id := range t.ids {
		size = max(size, id+1)
	}
	next := int32(len(t.ids))
	var sets [2][]addedToken
	added := map[string]string{} // what an added token decodes to
	for i, token := range tokens {
		if token.Content == "" {
			continue
		}
		id, ok := t.ids[token.Content]
		if !ok {
			id = next
			next++
			t.ids[token.Content] = id
		}
		if token.ID != id {
			return fmt.Errorf("added_tokens[%d]: %q has id %d where Hugging Face's tokenizers give it %d; correct the id or the vocabulary",
				i, token.Content, token.ID, id)
		}
		size = max(size, id+1)
		if token.Special {
			t.special[id] = true
		}
		set := 0
		name := token.Content
		if token.Normalized {
			set = 1
			for _, normalize := range t.normalizers {
				token.Content = normalize(token.Content)
			}
		}
		added[name] = token.Content
		if token.Content != "" {
			sets[set] = append(sets[set], token)
		}
	}
	if size > maxIDs {
		return fmt.Errorf("added_tokens: ids reach %d, the limit is %d", size-1, maxIDs-1)
	}
	t.raw, t.normalized = newAddedSet(sets[0]), newAddedSet(sets[1])
	t.names = make([]string, size)
	for name, id := range t.ids {
		t.names[id] = name
	}
	for name, decoded := range added {
		t.names[t.ids[name]] = decoded
	}
	return nil
}

// newTemplate returns the tokens that a post-processor puts before and after a text.
func newTemplate(c *component, place string) (before, after []int32, err error) {
	switch {
	case c == nil || c.Type == "ByteLevel": // which is about places in the text
		return nil, nil, nil
	case c.Type == "Sequence":
		for i := range c.Processors {
			b, a, err := newTemplate(&c.Processors[i], fmt.Sprintf("%s.processors[%d]", place, i))
			if err != nil {
				return nil, nil, err
			}
			before, after = append(b, before...), append(after, a...)
		}
		return before, after, nil
	case c.Type != "TemplateProcessing":
		return nil, nil, fmt.Errorf("%s: a post-processor of type %q is not implemented", place, c.Type)
	}
	texts := 0
	for i, p := range c.Single {
		switch {
		case p.Sequence != nil && p.Sequence.ID == "A":
			texts++
		case p.SpecialToken != nil:
			special, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return nil, nil, fmt.Errorf("%s.single[%d]: %q is not among special_tokens", place, i, p.SpecialToken.ID)
			}
			if texts == 0 {
				before = append(before, special.IDs...)
			} else {
				after = append(after, special.IDs...)
			}
		default:
			return nil, nil, fmt.Errorf("%s.single[%d]: wants {\"Sequence\": {\"id\": \"A\"}} or {\"SpecialToken\": ...}", place, i)
		}
	}
	if texts != 1 {
		return nil, nil, fmt.Errorf("%s.single: the text is there %d times, not once", place, texts)
	}
	return before, after, nil
}

// VocabSize implements Tokenizer.
func (t *huggingFace) VocabSize() int { return len(t.names) }

// Encode implements Tokenizer.
func (t *huggingFace) Encode(dst []int32, text string) []int32 {
	if text == "" {
		return dst
	}
	e := t.take()
	e.dst = slices.Grow(dst, len(text)/3) // a token has three bytes or more, mostly
	e.encode(validUTF8(text))
	dst, e.dst = e.dst, nil
	t.put(e)
	return dst
}

// take returns an encoder for the caller alone, one that has words in its cache if there is.
func (t *huggingFace) take() *encoder {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.encoders)
	if n == 0 {
		return newEncoder(t)
	}
	e := t.encoders[n-1]
	t.encoders = t.encoders[:n-1]
	return e
}

func (t *huggingFace) put(e *encoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.encoders = append(t.encoders, e)
}

// EncodeSpecial implements Tokenizer.
func (t *huggingFace) EncodeSpecial(dst []int32, text string) []int32 {
	return append(t.Encode(append(dst, t.before...), text), t.after...)
}

// Decode implements Tokenizer.
func (t *huggingFace) Decode(ids []int32, skipSpecial bool) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if id < 0 || int(id) >= len(t.names) || t.names[id] == "" || skipSpecial && t.special[id] {
			continue
		}
		tokens = append(tokens, t.names[id])
	}
	for _, decode := range t.decoders {
		tokens = decode(tokens)
	}
	return strings.Join(tokens, "")
}

// ID implements Tokenizer.
func (t *huggingFace) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// BOS implements Tokenizer.
func (t *huggingFace) BOS() int32 { return t.bos }

// EOD implements Tokenizer.
func (t *huggingFace) EOD() int32 { return t.eod }
