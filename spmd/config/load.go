package config

import (
	"fmt"
	"strings"

	"lockstep/spmd/data"
	"lockstep/spmd/data/tokenizer"
)

// LoadOptions say where a configuration is and what it will run on.
type LoadOptions struct {
	// Path of the TOML file.
	Path string
	// Overrides are section.key=value from the command line, applied to the file in order. A value is TOML; a bare word
	// is a string.
	Overrides []string
	// World is the number of ranks, 0 if it is not known. Then what depends on it is not checked.
	World int
	// Getenv reads the environment: $GOROOT in data paths is the variable GOROOT if it is set. Goroot finds the
	// directory otherwise, as `go env GOROOT` does.
	Getenv func(string) string
	Goroot func() (string, error)
}

// Load reads and checks a configuration. It returns either the configuration or all that is wrong with it.
func Load(o LoadOptions) (*Config, Problems) {
	text, problem := readFile(o.Path)
	if problem != nil {
		return nil, Problems{*problem}
	}
	l, problems := decode(o.Path, text, o.Overrides)
	if l == nil {
		return nil, problems
	}
	l.checkValues(o.World)
	l.checkModel()
	l.checkData(o)
	l.checkFiles()
	if len(l.problems) > 0 {
		l.problems.sort()
		return nil, l.problems
	}
	return l.config, nil
}

// decode makes a Config of a text and overrides, without regard to what its values mean for each other. The loader is nil
// if the text is no TOML.
func decode(file string, text []byte, overrides []string) (*loader, Problems) {
	doc, problem := parse(file, text)
	var problems Problems
	if problem != nil {
		// The overrides are still read, to report all that can be.
		doc = newDocument(file)
		problems = append(problems, *problem)
	}
	for _, argument := range overrides {
		if p := doc.override(argument); p != nil {
			problems = append(problems, *p)
		}
	}
	if problem != nil {
		return nil, problems
	}
	l := &loader{
		doc: doc, config: Default(), sections: schema(), problems: problems, bad: map[string]bool{}, set: map[string]bool{},
	}
	l.decode()
	l.resolve()
	return l, nil
}

// resolve gives keys whose default depends on other keys their value.
func (l *loader) resolve() {
	d := &l.config.Data
	if d.Tokenizer == "" && d.Format != "megatron" && l.usable("data.format", "data.tokenizer") {
		d.Tokenizer = "bytes"
		if d.Format != "text" && l.config.Model.Path != "" {
			d.Tokenizer = l.config.Model.Path
		}
	}
	l.openTokenizer()
	if d.Format == "chat" && l.config.Tokenizer != nil && l.usable("data.format", "data.chat_template") {
		l.openTemplate()
	}
	if l.config.Tokenizer != nil && d.EOD < 0 {
		d.EOD = int(l.config.Tokenizer.EOD())
	}
	if d.Format == "chat" && !l.set["data.packing"] {
		d.Packing = "best-fit"
	}
	if d.Packing != "concat" {
		d.ResetAttentionMask = d.ResetAttentionMask || !l.set["data.reset_attention_mask"]
		d.ResetPositionIDs = d.ResetPositionIDs || !l.set["data.reset_position_ids"]
	}
}

// openTokenizer opens what data.tokenizer names.
func (l *loader) openTokenizer() {
	switch name := l.config.Data.Tokenizer; {
	case !l.usable("data.tokenizer") || name == "":
	case name == "bytes":
		l.config.Tokenizer = tokenizer.Bytes{}
	default:
		t, err := tokenizer.Open(name)
		if err != nil {
			l.problem("data.tokenizer", err.Error(), `give a directory with tokenizer.json, or "bytes"`)
			return
		}
		l.config.Tokenizer = t
	}
}

// openTemplate reads the chat template.
func (l *loader) openTemplate() {
	d := l.config.Data
	dir := d.Tokenizer
	if dir == "bytes" {
		if dir = ""; d.ChatTemplate == "" {
			l.problem("data.chat_template", `is missing, and data.tokenizer = "bytes" has none of its own`, "set it to the file of a Jinja template")
			return
		}
	}
	chat, err := data.NewChat(dir, d.ChatTemplate, l.config.Tokenizer)
	if err != nil {
		l.problem("data.chat_template", err.Error(), "correct the template, or name the file of another one")
		return
	}
	l.config.Chat = chat
}

// note adds what the user should know and what is no mistake.
func (l *loader) note(key, format string, args ...any) {
	file, line := l.doc.where(strings.Split(key, "."))
	l.config.Notes = append(l.config.Notes, Problem{File: file, Line: line, Key: key, What: fmt.Sprintf(format, args...)}.String())
}
