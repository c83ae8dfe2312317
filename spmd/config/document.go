package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFileSize bounds the bytes of a configuration file. The parser's search for duplicate keys is quadratic in the keys of
// a table; at this size a file of nothing but keys takes a second.
const maxFileSize = 1 << 18

// A document is a configuration as written: a tree of values, and the place where each key was set. go-toml's decoder
// stops at the first value of a wrong type, so the tree is decoded without types and matched against the schema after.
type document struct {
	file   string
	tree   map[string]any
	places map[string]place
}

// A place is where a key was set. For the command line, line is 0 and raw the value as it was given; implied marks a table
// that is there only because of a key in it.
type place struct {
	line    int
	raw     string
	implied bool
}

// maxDepth bounds how deep tables may lie in each other; the deepest that a config.json has is about four.
const maxDepth = 16

// join joins the parts of a key into an index of document.places. A dot would not do: quoted keys may contain one.
func join(parts []string) string { return strings.Join(parts, "\x00") }

// readFile reads at most maxFileSize bytes of a configuration.
func readFile(path string) ([]byte, *Problem) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &Problem{File: path, What: "cannot be read: " + cause(err), Remedy: "give the path of a TOML file"}
	}
	// A directory has no bytes, and a pipe or a device may never end.
	if !info.Mode().IsRegular() {
		return nil, &Problem{File: path, What: "is not a regular file", Remedy: "give the path of a TOML file"}
	}
	if info.Size() > maxFileSize {
		return nil, &Problem{File: path, What: fmt.Sprintf("has %d bytes, more than the %d that a configuration may have", info.Size(), maxFileSize),
			Remedy: "give the path of a TOML file"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &Problem{File: path, What: "cannot be read: " + cause(err), Remedy: "give the path of a TOML file"}
	}
	return data, nil
}

// cause returns a file error without the operation and the path, which the message around it names.
func cause(err error) string {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}

func newDocument(file string) *document {
	return &document{file: file, tree: map[string]any{}, places: map[string]place{}}
}

// parse reads a TOML text. What is no TOML is one problem: nothing after it can be trusted.
func parse(file string, text []byte) (*document, *Problem) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	d := newDocument(file)
	if err := toml.Unmarshal(text, &d.tree); err != nil {
		p := &Problem{File: file, Line: 1, What: err.Error()}
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			p.Line, _ = decode.Position()
			p.What = strings.TrimPrefix(decode.Error(), "toml: ")
		}
		p.Remedy = syntaxRemedy(p.What)
		return nil, p
	}
	d.locate(text)
	return d, nil
}

// syntaxRemedy says what most often leads to a parser's message.
func syntaxRemedy(message string) string {
	switch {
	case strings.Contains(message, "start of value"):
		return `write strings in quotes ("text"), and true and false in small letters`
	case strings.Contains(message, "already"):
		return "write each section and each key once"
	}
	return `correct the TOML: [section], then lines key = value`
}

// locate fills in the places of all keys and tables of a valid text.
func (d *document) locate(text []byte) {
	l := locator{places: d.places}
	for i, c := range text {
		if c == '\n' {
			l.newlines = append(l.newlines, i)
		}
	}
	var table []string
	l.parser.Reset(text)
	for l.parser.NextExpression() {
		switch n := l.parser.Expression(); n.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = l.key(nil, n.Key())
		case unstable.KeyValue:
			l.keyValue(table, n)
		}
	}
}

// A locator finds the lines of keys.
type locator struct {
	parser   unstable.Parser
	newlines []int // offsets
	places   map[string]place
}

// key returns table extended by a key's parts. It notes the line of each part that is new.
func (l *locator) key(table []string, parts unstable.Iterator) []string {
	path := slices.Clone(table)
	for parts.Next() {
		n := parts.Node()
		path = append(path, string(n.Data))
		if len(path) > maxDepth {
			continue
		}
		if _, seen := l.places[join(path)]; !seen {
			before, _ := slices.BinarySearch(l.newlines, int(n.Raw.Offset))
			l.places[join(path)] = place{line: before + 1}
		}
	}
	return path
}

func (l *locator) keyValue(table []string, n *unstable.Node) {
	path := l.key(table, n.Key())
	if v := n.Value(); v.Kind == unstable.InlineTable && len(path) < maxDepth {
		for entries := v.Children(); entries.Next(); {
			l.keyValue(path, entries.Node())
		}
	}
}

// override applies section.key=value from the command line.
func (d *document) override(argument string) *Problem {
	key, raw, found := strings.Cut(argument, "=")
	path := strings.Split(strings.TrimSpace(key), ".")
	if !found || len(path) < 2 || len(path) > maxDepth || slices.Contains(path, "") || !utf8.ValidString(argument) {
		return &Problem{File: CommandLine, What: fmt.Sprintf("%q is not understood", argument), Remedy: "write section.key=value"}
	}
	raw = strings.TrimSpace(raw)
	value, err := parseValue(raw)
	if err != nil {
		return &Problem{File: CommandLine, Key: strings.Join(path, "."), What: err.Error(), Remedy: "write a TOML value, quoted for the shell"}
	}
	table := d.tree
	for i, part := range path[:len(path)-1] {
		if _, set := table[part]; !set {
			table[part] = map[string]any{}
			d.places[join(path[:i+1])] = place{implied: true}
		}
		next, ok := table[part].(map[string]any)
		if !ok {
			return &Problem{File: CommandLine, Key: strings.Join(path, "."), What: strings.Join(path[:i+1], ".") + " has no keys", Remedy: "write section.key=value"}
		}
		table = next
	}
	table[path[len(path)-1]] = value
	d.place(path, place{raw: raw})
	return nil
}

// place says where the key at path was set, and forgets where the keys below an earlier value were.
func (d *document) place(path []string, p place) {
	prefix := join(path)
	for key := range d.places {
		if strings.HasPrefix(key, prefix+"\x00") {
			delete(d.places, key)
		}
	}
	d.places[prefix] = p
}

// parseValue reads a value from the command line: TOML, or a bare word, which is a string.
func parseValue(raw string) (any, error) {
	var tree map[string]any
	err := toml.Unmarshal([]byte("value = "+raw), &tree)
	// More keys come from a line break: that is no single value.
	if err == nil && len(tree) == 1 {
		return tree["value"], nil
	}
	if raw != "" && strings.ContainsRune(`"'[{`, rune(raw[0])) {
		if err == nil {
			err = errors.New("more than one value")
		}
		return nil, fmt.Errorf("%s is not TOML: %s", raw, strings.TrimPrefix(err.Error(), "toml: "))
	}
	return raw, nil
}

// where returns the place of a key, or of the nearest table around it, or the first line.
func (d *document) where(path []string) (file string, line int) {
	for n := len(path); n > 0; n-- {
		// What is missing from a section is not the fault of the command line that names another key of it.
		if p, ok := d.places[join(path[:n])]; ok && (!p.implied || n == len(path)) {
			if p.line == 0 {
				return CommandLine, 0
			}
			return d.file, p.line
		}
	}
	return d.file, 1
}
