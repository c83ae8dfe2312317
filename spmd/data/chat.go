package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"lockstep/spmd/data/jinja"
	"lockstep/spmd/data/tokenizer"
)

// A Chat turns conversations into tokens by a chat template, and tells which tokens are the assistant's own: the only ones that
// are predicted. It is safe for concurrent use.
type Chat struct {
	template  *jinja.Template
	special   map[string]jinja.Value // bos_token and the like
	tokenizer tokenizer.Tokenizer
	source    string // of the template
	key       string
}

// maxTemplateBytes limits the files that hold a template.
const maxTemplateBytes = 16 << 20

// NewChat makes a Chat of the template in a file and the special tokens of the tokenizer in dir, "" for one without files, or, where template is "", of the tokenizer's own: chat_template.jinja in its
// directory, else chat_template of its tokenizer_config.json, which also names the special tokens.
func NewChat(dir, template string, t tokenizer.Tokenizer) (*Chat, error) {
	source, special, err := readTemplate(dir, template)
	if err != nil {
		return nil, err
	}
	c := &Chat{special: special, tokenizer: t, source: source}
	if c.template, err = jinja.Parse(source); err != nil {
		return nil, fmt.Errorf("the chat template: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q", source)
	for _, name := range specialNames {
		fmt.Fprintf(h, " %q", special[name])
	}
	c.key = hex.EncodeToString(h.Sum(nil))
	return c, nil
}

// Template returns the text of the template.
func (c *Chat) Template() string { return c.source }

// Prompt returns the text of a conversation up to where the assistant's next turn begins, as apply_chat_template of Transformers
// does with add_generation_prompt. The conversation is a record of chat data, or a list of messages alone, and ends with a turn of
// another's. The text has the special tokens written out.
func (c *Chat) Prompt(conversation []byte) (string, error) {
	if bytes.HasPrefix(bytes.TrimSpace(conversation), []byte("[")) {
		conversation = fmt.Appendf(nil, `{"messages": %s}`, conversation)
	}
	v, err := parseRecord(conversation)
	if err != nil {
		return "", err
	}
	n := len(v.messages)
	if role, _ := v.messages[n-1].Get("role"); role == "assistant" {
		return "", errors.New("the last message is the assistant's; leave out what is to be generated")
	}
	text, err := c.template.Render(v.variables(c.special, n, true), nil)
	return text.Text, err
}

// specialNames are the special tokens that Transformers passes to a template.
var specialNames = [...]string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// readTemplate returns a template's text and the special tokens.
func readTemplate(dir, path string) (source string, special map[string]jinja.Value, err error) {
	special = map[string]jinja.Value{}
	if dir == "" {
		text, err := readSmall(path)
		return string(text), special, err
	}
	configPath := filepath.Join(dir, "tokenizer_config.json")
	config, err := readSmall(configPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	if err == nil {
		if source, err = parseTokenizerConfig(config, special); err != nil {
			return "", nil, fmt.Errorf("%s: %w", configPath, err)
		}
	}
	own := filepath.Join(dir, tokenizer.ChatTemplateName)
	if _, err := os.Stat(own); err == nil && path == "" {
		path = own
	}
	if path != "" {
		text, err := readSmall(path)
		return string(text), special, err
	}
	if source == "" {
		return "", nil, fmt.Errorf("%s has no chat template, neither chat_template.jinja nor chat_template in tokenizer_config.json", dir)
	}
	return source, special, nil
}

// readSmall reads a file that is not too large.
func readSmall(path string) ([]byte, error) {
	size, err := readableSize(path)
	if err != nil {
		return nil, err
	}
	if size > maxTemplateBytes {
		return nil, fmt.Errorf("%s has %s, more than %s", path, megabytes(size), megabytes(maxTemplateBytes))
	}
	return os.ReadFile(path)
}

// parseTokenizerConfig returns the template in a tokenizer_config.json, "" for none, and notes its special tokens. Of several
// templates it is the one called default.
func parseTokenizerConfig(content []byte, special map[string]jinja.Value) (string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return "", err
	}
	for _, name := range specialNames {
		var text string
		var token struct{ Content string }
		switch raw := fields[name]; {
		case raw == nil:
		case json.Unmarshal(raw, &text) == nil && text != "":
			special[name] = text
		case json.Unmarshal(raw, &token) == nil && token.Content != "":
			special[name] = token.Content
		}
	}
	var one string
	var several []struct{ Name, Template string }
	switch raw := fields["chat_template"]; {
	case raw == nil, json.Unmarshal(raw, &one) == nil:
		return one, nil
	case json.Unmarshal(raw, &several) != nil:
		return "", errors.New("chat_template is neither a text nor a list of texts with names")
	}
	for _, t := range several {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", errors.New("chat_template is a list without one called default")
}

// encode makes the tokens of one record.
func (c *Chat) encode(record []byte) (document, error) {
	conversation, err := parseRecord(record)
	if err != nil {
		return nil, err
	}
	text, spans, err := c.render(conversation)
	if err != nil {
		return nil, err
	}
	return c.mask(text, spans), nil
}

// parseRecord is parseConversation for text that may be in another encoding.
func parseRecord(record []byte) (conversation, error) {
	if !utf8.Valid(record) {
		return conversation{}, errors.New("the record is not UTF-8; convert the file")
	}
	return parseConversation(record)
}

// render returns the text of a conversation and the parts that are the assistant's.
//
// Where the template has {% generation %}, it says so itself. Else a turn of the assistant's is what the template writes while
// its loop is at the message, without what it also writes, after all messages, when it is asked for the beginning of a turn
// (add_generation_prompt). Where renderings of a conversation's beginnings are beginnings of its rendering, that is the same as
// their difference; but templates that treat the last turn in a way of its own, such as Qwen3's, break that.
func (c *Chat) render(v conversation) (string, []jinja.Span, error) {
	whole, err := c.template.Render(v.variables(c.special, len(v.messages), false), v.messages)
	if err != nil {
		return "", nil, err
	}
	if len(whole.Generated) > 0 {
		return whole.Text, merge(whole.Generated), nil
	}
	var spans []jinja.Span
	for _, i := range v.assistants() {
		turn := spansOf(whole.Items, i)
		if len(turn) == 0 {
			if content, _ := v.messages[i].Get("content"); content != nil && content != "" {
				return "", nil, fmt.Errorf("the chat template writes message %d outside of a loop over messages; mark the assistant's part with {%% generation %%}", i)
			}
			continue
		}
		prompt, err := c.prompt(v, i)
		if err != nil {
			return "", nil, err
		}
		if strings.HasPrefix(whole.Text[turn[0].Start:turn[0].End], prompt) {
			turn[0].Start += len(prompt)
		}
		spans = append(spans, turn...)
	}
	return whole.Text, merge(spans), nil
}

// prompt returns what the template writes to begin turn i: the text behind the last message before it.
func (c *Chat) prompt(v conversation, i int) (string, error) {
	begun, err := c.template.Render(v.variables(c.special, i, true), v.messages[:i])
	if err != nil { // a template that wants a message to begin with; all turns begin alike then
		i = len(v.messages)
		if begun, err = c.template.Render(v.variables(c.special, i, true), v.messages); err != nil {
			return "", err
		}
	}
	if n := len(begun.Items); n > 0 {
		return begun.Text[begun.Items[n-1].End:], nil
	}
	// No message has been written: what the beginning of a turn adds to the preamble.
	preamble, err := c.template.Render(v.variables(c.special, i, false), v.messages[:i])
	return strings.TrimPrefix(begun.Text, preamble.Text), err
}

// spansOf returns the parts of a text that belong to one message.
func spansOf(items []jinja.ItemSpan, message int) []jinja.Span {
	var spans []jinja.Span
	for _, item := range items {
		if item.Item == message {
			spans = append(spans, item.Span)
		}
	}
	return spans
}

// mask makes the tokens of a text, complements where they are outside of the spans. A token that only begins, or only ends, in a
// span is inside. White space behind the last special token of a span, such as the line break after <|im_end|>, is outside: the
// model's turn is over by then.
func (c *Chat) mask(text string, spans []jinja.Span) document {
	tokens := document(c.tokenizer.Encode(nil, text))
	inside := make([]bool, len(tokens))
	for _, s := range spans {
		first, end := c.tokensBefore(tokens, text[:s.Start]), c.tokensBefore(tokens, text[:s.End])
		for k := end - 1; k > first && k >= 0; k-- {
			if c.isSpecial(tokens[k]) {
				end = k + 1
				break
			}
			if strings.TrimSpace(c.tokenizer.Decode(tokens[k:k+1], false)) != "" {
				break
			}
		}
		for k := first; k < end; k++ {
			inside[k] = true
		}
	}
	for k, in := range inside {
		if !in {
			tokens[k] = ^tokens[k]
		}
	}
	return tokens
}

// tokensBefore returns how many of the text's tokens are those of its beginning.
func (c *Chat) tokensBefore(tokens document, beginning string) int {
	n := 0
	for i, id := range c.tokenizer.Encode(nil, beginning) {
		if i >= len(tokens) || tokens[i] != id {
			break
		}
		n++
	}
	return n
}

// isSpecial tells whether a token is one that decoding may leave out.
func (c *Chat) isSpecial(id int32) bool {
	return c.tokenizer.Decode([]int32{id}, true) == "" && c.tokenizer.Decode([]int32{id}, false) != ""
}
