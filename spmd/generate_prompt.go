package main

import (
	"encoding/json"
	"fmt"

	"lockstep/spmd/data"
	"lockstep/spmd/data/tokenizer"
)

// A prompt is what spmd generate goes on from: a text or, with chat, a conversation.
type prompt struct {
	text     string
	chat     bool   // or messages is given
	messages string // the file of a conversation, "": the text is all that the user says
	template string // the file of a chat template, "" for the model's own
}

// check finds options that do not go together.
func (p *prompt) check() error {
	switch {
	case p.messages != "" && p.text != "":
		return &usageError{"--messages and --prompt are two prompts; give one"}
	case p.messages != "":
		p.chat = true
	case p.chat && p.text == "":
		return &usageError{"--chat wants a --prompt, or --messages with a conversation"}
	case p.template != "" && !p.chat:
		return &usageError{"--chat-template is for --chat and --messages; give one of them, or leave it out"}
	}
	return nil
}

// tokens returns the prompt's tokens for the model in dir.
func (p *prompt) tokens(dir string, tok tokenizer.Tokenizer) ([]int32, error) {
	if !p.chat {
		return tok.EncodeSpecial(nil, p.text), nil
	}
	chat, err := data.NewChat(dir, p.template, tok)
	if err != nil {
		return nil, fmt.Errorf("%w; --chat-template names the file of a chat template", err)
	}
	conversation, err := p.conversation()
	if err != nil {
		return nil, err
	}
	text, err := chat.Prompt(conversation)
	if err != nil {
		return nil, fmt.Errorf("the conversation: %w", err)
	}
	return tok.Encode(nil, text), nil // the template has written the special tokens
}

// conversation returns the conversation as JSON.
func (p *prompt) conversation() ([]byte, error) {
	if p.messages != "" {
		return readCompanion(p.messages)
	}
	return json.Marshal([]map[string]string{{"role": "user", "content": p.text}})
}
