package data

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/spmd/data/tokenizer"
)

// Templates of four kinds: a header that add_generation_prompt writes too and a last turn that differs, as Qwen3 has it; the
// header in the iteration of the message before; one that marks the assistant's part; one that loops over no messages.
const (
	headerTemplate = `{%- for m in messages %}{{- '<' + m.role + '>\n' }}
{%- if m.role == 'assistant' and loop.last %}{{- '(thought)' }}{% endif %}
{{- m.content|trim + '|\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<assistant>\n' }}{% endif %}`
	earlyTemplate  = `{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'U:' + m.content + 'A:' }}{% else %}{{ m.content + ';' }}{% endif %}{% endfor %}`
	markedTemplate = `{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '!' }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}{% endfor %}`
	looplessTemplate = `{{ messages[0].content }}{{ messages[1].content }}`
)

// mustChat makes a Chat of a template for the byte tokenizer, with a directory that names the token of a begin.
func mustChat(t *testing.T, template string) *Chat {
	t.Helper()
	dir := writeFiles(t, map[string]string{"chat_template.jinja": template, "tokenizer_config.json": `{"bos_token": {"content": "^"}, "chat_template": "unused"}`})
	c, err := NewChat(dir, "", tokenizer.Bytes{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shown returns the text of tokens, with brackets around what is predicted.
func shown(tokens document) string {
	var b strings.Builder
	inside := false
	for _, id := range tokens {
		if id >= 0 != inside {
			b.WriteByte("[]"[map[bool]int{true: 0, false: 1}[id >= 0]])
			inside = id >= 0
		}
		if id < 0 {
			id = ^id
		}
		b.WriteByte(byte(id))
	}
	if inside {
		b.WriteByte(']')
	}
	return b.String()
}

func TestChatMask(t *testing.T) {
	const talk = `{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " ho "}, {"role": "user", "content": "more"},
		{"role": "assistant", "content": "yes\n"}]}`
	for _, c := range []struct{ template, record, want string }{
		{headerTemplate, talk, "<user>\nhi|\n<assistant>\n[ho|\n]<user>\nmore|\n<assistant>\n[(thought)yes|\n]"},
		{headerTemplate, `{"messages": [{"role": "assistant", "content": "first"}, {"role": "user", "content": "hi"}]}`, "<assistant>\n[first|\n]<user>\nhi|\n"},
		{headerTemplate, `{"messages": [{"role": "user", "content": "nothing to learn"}]}`, "<user>\nnothing to learn|\n"},
		{earlyTemplate, talk, "^U:hiA:[ ho ;]U:moreA:[yes\n;]"},
		{markedTemplate, talk, "user:hiassistant:[ ho !]user:moreassistant:[yes\n!]"},
		{headerTemplate, `{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], "system": "s"}`,
			"<system>\ns|\n<user>\nhi|\n<assistant>\n[(thought)ho|\n]"},
		{headerTemplate, `{"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}`, "<user>\nhi|\n<assistant>\n[(thought)ho|\n]"},
		{headerTemplate, `{"instruction": "add", "input": "1 2", "output": "3", "history": [["q", "a"]], "system": ""}`,
			"<user>\nq|\n<assistant>\n[a|\n]<user>\nadd\n1 2|\n<assistant>\n[(thought)3|\n]"},
	} {
		got, err := mustChat(t, c.template).encode([]byte(c.record))
		if err != nil || shown(got) != c.want {
			t.Errorf("%s\ngot  %q, %v\nwant %q", c.record, shown(got), err, c.want)
		}
	}
}

// TestChatTrim checks that white space behind the special token that ends a turn is not the model's to write.
func TestChatTrim(t *testing.T) {
	c := mustChat(t, headerTemplate)
	c.tokenizer = ended{}
	got, err := c.encode([]byte(`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}`))
	if want := "<user>\na|\n<assistant>\n[b|]\n<user>\nc|\n"; err != nil || shown(got) != want {
		t.Errorf("got %q, %v, want %q", shown(got), err, want)
	}
}

// ended is the byte tokenizer with a special token, which looks like a bar.
type ended struct{ tokenizer.Bytes }

func (ended) Decode(ids []int32, skipSpecial bool) string {
	text := tokenizer.Bytes{}.Decode(ids, skipSpecial)
	if skipSpecial {
		return strings.ReplaceAll(text, "|", "")
	}
	return text
}

func TestChatErrors(t *testing.T) {
	for record, want := range map[string]string{
		`[]`:                             "no JSON object",
		`{"text": "a"}`:                  "the record has the keys text; a conversation has messages",
		`{"messages": []}`:               "no messages",
		`{"messages": "a"}`:              `"messages" is no list`,
		`{"messages": [1]}`:              "message 0 is no object",
		`{"messages": [{"content": 1}]}`: "message 0 has no role",
		`{"messages": [{"role": "user", "content": "a"}], "tools": "["}`: "tools: byte",
		`{"conversations": [{"from": "alien", "value": "a"}]}`:           `turn 0 is from "alien"`,
		`{"conversations": [{"from": "human"}]}`:                         "turn 0 has no value",
		`{"conversations": ["a"]}`:                                       "turn 0 is no object",
		`{"instruction": 1, "output": "a"}`:                              `"instruction" is no string`,
		`{"instruction": "a", "output": "b", "history": [["a"]]}`:        "turn 0 of the history",
		`{"instruction": "a", "output": "b", "history": [["a", 1]]}`:     "turn 0 of the history",
		"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}":  "not UTF-8",
	} {
		if _, err := mustChat(t, headerTemplate).encode([]byte(record)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", record, err, want)
		}
	}
	record := []byte(`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`)
	if _, err := mustChat(t, looplessTemplate).encode(record); err == nil || !strings.Contains(err.Error(), "{% generation %}") {
		t.Errorf("a template without a loop: %v", err)
	}
	for config, want := range map[string]string{
		`{}`:                   "has no chat template",
		`{"chat_template": 1}`: "neither a text nor a list",
		`{"chat_template": [{"name": "rag", "template": ""}]}`: "without one called default",
		`{"chat_template": "{{ x"}`:                            "line 1 of the template",
		`{`:                                                    "tokenizer_config.json",
	} {
		if _, err := NewChat(writeFiles(t, map[string]string{"tokenizer_config.json": config}), "", tokenizer.Bytes{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, err, want)
		}
	}
	dir := writeFiles(t, map[string]string{"tokenizer_config.json": `{"chat_template": [{"name": "default", "template": "a"}], "eos_token": "e"}`})
	if c, err := NewChat(dir, "", tokenizer.Bytes{}); err != nil || c.special["eos_token"] != "e" {
		t.Errorf("%v", err)
	}
}

// TestChatDataset prepares conversations as JSON lines, one array and Parquet: the samples are the same, and only the assistant's
// tokens have labels.
func TestChatDataset(t *testing.T) {
	type message struct {
		Role    string `parquet:"role"`
		Content string `parquet:"content"`
	}
	type row struct {
		Messages []message `parquet:"messages,list"`
	}
	var rows []row
	var lines []string
	for i := range 20 {
		r := row{[]message{{"user", fmt.Sprintf("question %d", i)}, {"assistant", strings.Repeat("answer ", i%4)}}}
		rows = append(rows, r)
		lines = append(lines, fmt.Sprintf(`{"messages": [{"role": "user", "content": %q}, {"role": "assistant", "content": %q}]}`, r.Messages[0].Content, r.Messages[1].Content))
	}
	dir := writeFiles(t, map[string]string{"a.jsonl": strings.Join(lines, "\n"), "b.json": "[" + strings.Join(lines, ",") + "]", "c.parquet": parquetBytes(t, rows, 7)})
	var want string
	for _, name := range []string{"a.jsonl", "b.json", "c.parquet"} {
		o := Options{Format: "chat", Parts: onePart(filepath.Join(dir, name)), Chat: mustChat(t, headerTemplate), EOD: -1, SequenceLength: 200,
			Packing: "best-fit", Overlong: "truncate", Cache: t.TempDir()}
		if err := Check(o); err != nil {
			t.Fatal(err)
		}
		d := prepared(t, o)
		rows := rowsOf(t, d)
		got := fmt.Sprint(rows)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%s has other samples", name)
		}
		labels := 0
		for _, r := range rows {
			for i, label := range r.Labels {
				if label >= 0 {
					labels++
				}
				if r.IDs[i] < 0 {
					t.Fatalf("input %d", r.IDs[i])
				}
			}
		}
		expected := 0
		for i := range 20 {
			expected += len(strings.TrimSpace(strings.Repeat("answer ", i%4))) + len("(thought)|\n")
		}
		if labels != expected {
			t.Errorf("%s: %d labels, want %d", name, labels, expected)
		}
	}
	mixed := Options{Format: "chat", Parts: onePart(dir), Chat: mustChat(t, headerTemplate), SequenceLength: 10, Cache: t.TempDir()}
	if err := Check(mixed); err == nil || !strings.Contains(err.Error(), "use either") {
		t.Errorf("JSON and Parquet together: %v", err)
	}
	if _, err := os.ReadDir(mixed.Cache); err != nil {
		t.Error(err)
	}
}

// FuzzConversation feeds records of anything.
func FuzzConversation(f *testing.F) {
	for _, s := range []string{
		`{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "tools": []}`,
		`{"conversations": [{"from": "human", "value": "hi"}]}`, `{"instruction": "a", "input": "b", "output": "c", "history": [["a", "b"]]}`, `{"messages": null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(headerTemplate), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := NewChat(dir, "", tokenizer.Bytes{})
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := c.encode(record)
		if err != nil {
			return
		}
		conversation, err := parseConversation(record)
		if err != nil {
			t.Fatal(err)
		}
		predicted := slices.ContainsFunc(tokens, func(id int32) bool { return id >= 0 })
		if predicted != (len(conversation.assistants()) > 0) {
			t.Errorf("%s: %q", record, shown(tokens))
		}
	})
}

func TestChatPrompt(t *testing.T) {
	const messages = `[{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "more"}]`
	for _, conversation := range []string{messages, "\n " + messages, `{"messages": ` + messages + `}`,
		`{"system": "s", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}, {"from": "human", "value": "more"}]}`} {
		for template, want := range map[string]string{
			headerTemplate: "<system>\ns|\n<user>\nhi|\n<assistant>\nho|\n<user>\nmore|\n<assistant>\n",
			markedTemplate: "system:suser:hiassistant:ho!user:more",
		} {
			if got, err := mustChat(t, template).Prompt([]byte(conversation)); got != want || err != nil {
				t.Errorf("%s\ngot  %q, %v\nwant %q", conversation, got, err, want)
			}
		}
	}
	for conversation, want := range map[string]string{
		`[]`:         "no messages",
		`[{}]`:       "no role",
		`[{"role"`:   "byte",
		"[\"\xff\"]": "not UTF-8",
		`[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "h"}]`: "the last message is the assistant's",
	} {
		if got, err := mustChat(t, headerTemplate).Prompt([]byte(conversation)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want an error with %q", conversation, got, err, want)
		}
	}
}
