package data

import (
	"fmt"
	"slices"
	"strings"

	"lockstep/spmd/data/jinja"
)

// A conversation is what a chat template is given.
type conversation struct {
	messages []*jinja.Dict // with role and content, and whatever else the data has
	tools    jinja.Value   // nil for none
}

// parseConversation reads one record in any of the three usual shapes:
//
//	{"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}        OpenAI's; tools may be left out
//	{"conversations": [{"from": "human", "value": "..."}, ...], "system": "..."}   ShareGPT's; system may be left out
//	{"instruction": "...", "input": "...", "output": "..."}                        Alpaca's; input, system and history may be left out
func parseConversation(record []byte) (conversation, error) {
	value, err := jinja.ParseJSON(record)
	if err != nil {
		return conversation{}, err
	}
	object, ok := value.(*jinja.Dict)
	if !ok {
		return conversation{}, fmt.Errorf("the record is no JSON object")
	}
	var c conversation
	switch {
	case present(object, "messages"):
		c, err = messagesOf(object, "messages")
	case present(object, "conversations"):
		c, err = shareGPT(object)
	case present(object, "instruction") && present(object, "output"):
		c, err = alpaca(object)
	default:
		return c, fmt.Errorf("the record has the keys %s; a conversation has messages, or conversations, or instruction and output",
			strings.Join(object.Keys(), ", "))
	}
	if err == nil && len(c.messages) == 0 {
		err = fmt.Errorf("the conversation has no messages")
	}
	return c, err
}

// present tells whether an object has a key with a value other than null.
func present(d *jinja.Dict, key string) bool {
	v, ok := d.Get(key)
	return ok && v != nil
}

// messagesOf reads a list of messages with roles.
func messagesOf(object *jinja.Dict, key string) (conversation, error) {
	list, err := listOf(object, key)
	if err != nil {
		return conversation{}, err
	}
	var c conversation
	for i, item := range list {
		message, ok := item.(*jinja.Dict)
		if !ok {
			return c, fmt.Errorf("message %d is no object", i)
		}
		role, _ := message.Get("role")
		if _, ok := role.(string); !ok {
			return c, fmt.Errorf("message %d has no role", i)
		}
		c.messages = append(c.messages, message)
	}
	if present(object, "tools") {
		c.tools, _ = object.Get("tools")
		if text, ok := c.tools.(string); ok { // as data sets in columns keep them
			if c.tools, err = jinja.ParseJSON([]byte(text)); err != nil {
				return c, fmt.Errorf("tools: %w", err)
			}
		}
	}
	return c, nil
}

// listOf returns the list at a key.
func listOf(object *jinja.Dict, key string) ([]jinja.Value, error) {
	v, _ := object.Get(key)
	list, ok := v.(*jinja.List)
	if !ok {
		return nil, fmt.Errorf("%q is no list", key)
	}
	return list.Items, nil
}

// shareGPTRoles are the roles that the names in "from" stand for.
var shareGPTRoles = map[string]string{
	"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
	"function_call": "assistant", "system": "system", "observation": "tool", "tool": "tool", "function": "tool",
}

func shareGPT(object *jinja.Dict) (conversation, error) {
	list, err := listOf(object, "conversations")
	if err != nil {
		return conversation{}, err
	}
	if first, ok := firstOf(list).(*jinja.Dict); ok && present(first, "role") {
		return messagesOf(object, "conversations")
	}
	var c conversation
	if err := c.addText(object, "system", "system"); err != nil {
		return c, err
	}
	for i, item := range list {
		turn, _ := item.(*jinja.Dict)
		if turn == nil {
			return c, fmt.Errorf("turn %d is no object", i)
		}
		from, _ := turn.Get("from")
		name, _ := from.(string)
		role, ok := shareGPTRoles[strings.ToLower(name)]
		if !ok {
			return c, fmt.Errorf("turn %d is from %q; known are human, gpt, system, observation and the like", i, name)
		}
		value, _ := turn.Get("value")
		text, ok := value.(string)
		if !ok {
			return c, fmt.Errorf("turn %d has no value, which is its text", i)
		}
		c.add(role, text)
	}
	return c, nil
}

func firstOf(list []jinja.Value) jinja.Value {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

func alpaca(object *jinja.Dict) (conversation, error) {
	var c conversation
	if err := c.addText(object, "system", "system"); err != nil {
		return c, err
	}
	if present(object, "history") {
		history, err := listOf(object, "history")
		if err != nil {
			return c, err
		}
		for i, item := range history {
			pair, ok := item.(*jinja.List)
			if !ok || len(pair.Items) != 2 {
				return c, fmt.Errorf("turn %d of the history is no pair of question and answer", i)
			}
			question, isText := pair.Items[0].(string)
			answer, both := pair.Items[1].(string)
			if !isText || !both {
				return c, fmt.Errorf("turn %d of the history is no pair of texts", i)
			}
			c.add("user", question)
			c.add("assistant", answer)
		}
	}
	var texts [3]string
	for i, key := range []string{"instruction", "input", "output"} {
		v, _ := object.Get(key)
		var ok bool
		if texts[i], ok = v.(string); !ok && v != nil {
			return c, fmt.Errorf("%q is no string", key)
		}
	}
	question := texts[0]
	if texts[1] != "" {
		question += "\n" + texts[1]
	}
	c.add("user", question)
	c.add("assistant", texts[2])
	return c, nil
}

// addText adds a message with the text at a key, if there is one.
func (c *conversation) addText(object *jinja.Dict, key, role string) error {
	if !present(object, key) {
		return nil
	}
	v, _ := object.Get(key)
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("%q is no string", key)
	}
	if text != "" {
		c.add(role, text)
	}
	return nil
}

// add adds a message.
func (c *conversation) add(role, content string) {
	m := &jinja.Dict{}
	m.Set("role", role)
	m.Set("content", content)
	c.messages = append(c.messages, m)
}

// assistants returns the indices of the assistant's messages.
func (c conversation) assistants() []int {
	var indices []int
	for i, m := range c.messages {
		if role, _ := m.Get("role"); role == "assistant" {
			indices = append(indices, i)
		}
	}
	return indices
}

// variables returns what the template sees of the first n messages.
func (c conversation) variables(special map[string]jinja.Value, n int, prompt bool) map[string]jinja.Value {
	list := &jinja.List{}
	for _, m := range c.messages[:n] {
		list.Items = append(list.Items, m)
	}
	v := map[string]jinja.Value{"messages": list, "add_generation_prompt": prompt, "tools": c.tools, "documents": nil}
	for name, value := range special {
		v[name] = value
	}
	return v
}

// merge joins spans that overlap or touch, in order.
func merge(spans []jinja.Span) []jinja.Span {
	slices.SortFunc(spans, func(a, b jinja.Span) int { return a.Start - b.Start })
	var merged []jinja.Span
	for _, s := range spans {
		if last := len(merged) - 1; last >= 0 && s.Start <= merged[last].End {
			merged[last].End = max(merged[last].End, s.End)
		} else if s.End > s.Start {
			merged = append(merged, s)
		}
	}
	return merged
}
