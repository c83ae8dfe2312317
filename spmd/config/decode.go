package config

import (
	"maps"
	"slices"
	"strings"
)

// A loader collects what is found while a document becomes a Config.
type loader struct {
	doc      *document
	config   *Config
	sections []section
	problems Problems
	// bad has the keys, as section.key, whose value cannot be used: checks that need it are skipped. set has those that
	// the document gives.
	bad, set map[string]bool
}

// problem reports a mistake at a key, section.key, whose value is not used from then on.
func (l *loader) problem(key, what, remedy string) {
	l.bad[key] = true
	l.problemAt(strings.Split(key, "."), what, remedy)
}

func (l *loader) problemAt(path []string, what, remedy string) {
	file, line := l.doc.where(path)
	parts := make([]string, len(path))
	for i, part := range path {
		parts[i] = tomlKey(part)
	}
	l.problems = append(l.problems, Problem{File: file, Line: line, Key: strings.Join(parts, "."), What: what, Remedy: remedy})
}

// usable tells whether the values of all these keys can be relied on.
func (l *loader) usable(keys ...string) bool {
	return !slices.ContainsFunc(keys, func(k string) bool { return l.bad[k] })
}

// decode matches the document against the schema: unknown names, types and legal values. Afterwards the config has every
// value that is good.
func (l *loader) decode() {
	names := make([]string, len(l.sections))
	for i, s := range l.sections {
		names[i] = s.name
	}
	for _, name := range slices.Sorted(maps.Keys(l.doc.tree)) {
		if !slices.Contains(names, name) {
			l.unknownSection(name, names)
		}
	}
	for _, s := range l.sections {
		l.decodeSection(s)
	}
}

// unknownSection reports a name at the top level. A value there is most often a key that lost its section.
func (l *loader) unknownSection(name string, sections []string) {
	what, remedy := "unknown section", "the sections are "+strings.Join(sections, ", ")
	if near, ok := nearest(name, sections); ok {
		remedy = "did you mean [" + near + "]?"
	}
	if _, isTable := l.doc.tree[name].(map[string]any); !isTable {
		what = "unknown key outside of a section"
		if homes := l.homes(name); len(homes) > 0 {
			remedy = "it belongs in section [" + list(homes) + "]"
		}
	}
	l.problemAt([]string{name}, what, remedy)
}

// homes returns the sections that have a key.
func (l *loader) homes(name string) []string {
	var homes []string
	for _, s := range l.sections {
		if slices.ContainsFunc(s.keys, func(k key) bool { return k.name == name }) {
			homes = append(homes, s.name)
		}
	}
	return homes
}

func (l *loader) decodeSection(s section) {
	value, exists := l.doc.tree[s.name]
	table, isTable := value.(map[string]any)
	if exists && !isTable {
		l.problemAt([]string{s.name}, "expected a section, not "+describe(value), "write ["+s.name+"] and its keys below")
		for _, k := range s.keys {
			l.bad[k.String()] = true
		}
		return
	}
	names := make([]string, len(s.keys))
	for i, k := range s.keys {
		names[i] = k.name
		if v, ok := table[k.name]; ok {
			l.set[k.String()] = true
			l.decodeKey(k, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(names, name) {
			l.problemAt([]string{s.name, name}, "unknown key", l.nearestKey(name, names))
		}
	}
}

func (l *loader) nearestKey(name string, names []string) string {
	if homes := l.homes(name); len(homes) > 0 {
		return "it belongs in section [" + list(homes) + "]"
	}
	if near, ok := nearest(name, names); ok {
		return "did you mean " + near + "?"
	}
	return "the keys of this section are " + strings.Join(names, ", ")
}
