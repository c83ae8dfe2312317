package config

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Resolved returns the configuration as TOML: every key with its value. Loaded again, it gives the same Config. Of
// model.path and [model.config] only the one in use is there.
func (c *Config) Resolved() []byte {
	var b bytes.Buffer
	for _, s := range schema() {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", s.name)
		for _, k := range s.keys {
			if k.String() != "model.config" && (k.String() != "model.path" || c.Model.Config == nil) {
				fmt.Fprintf(&b, "%s = %s\n", k.name, tomlValue(k.in(c)))
			}
		}
		if s.name == "model" && c.Model.Config != nil {
			b.WriteString("\n[model.config]\n")
			for _, name := range slices.Sorted(maps.Keys(c.Model.Config)) {
				fmt.Fprintf(&b, "%s = %s\n", tomlKey(name), tomlValue(reflect.ValueOf(c.Model.Config[name])))
			}
		}
	}
	return b.Bytes()
}

// tomlValue writes the value of a key, or one that came out of a TOML document, on one line.
func tomlValue(v reflect.Value) string {
	if d, ok := v.Interface().(time.Duration); ok {
		return quote(d.String())
	}
	if s, ok := v.Interface().(StageLayers); ok {
		return s.toml()
	}
	switch v.Kind() {
	case reflect.Interface:
		return tomlValue(v.Elem())
	case reflect.String:
		return quote(v.String())
	case reflect.Float64:
		return formatFloat(v.Float())
	case reflect.Slice, reflect.Array:
		elements := make([]string, v.Len())
		for i := range elements {
			elements[i] = tomlValue(v.Index(i))
		}
		return "[" + strings.Join(elements, ", ") + "]"
	case reflect.Struct: // a table of data.blend
		var entries []string
		for i := range v.NumField() {
			entries = append(entries, v.Type().Field(i).Tag.Get("toml")+" = "+tomlValue(v.Field(i)))
		}
		return "{" + strings.Join(entries, ", ") + "}"
	case reflect.Map:
		var entries []string
		for _, name := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			entries = append(entries, tomlKey(name.String())+" = "+tomlValue(v.MapIndex(name)))
		}
		return "{" + strings.Join(entries, ", ") + "}"
	}
	return fmt.Sprint(v.Interface())
}

// tomlKey writes one part of a key, in quotes where a bare one will not do.
func tomlKey(name string) string {
	bare := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
	}
	if name == "" || strings.ContainsFunc(name, func(c rune) bool { return !bare(c) }) {
		return quote(name)
	}
	return name
}

// quote writes a TOML basic string. Control characters are escaped, so that it is safe to print.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || 0x7f <= c && c < 0xa0:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// formatFloat writes the shortest TOML float that reads back exactly.
func formatFloat(x float64) string {
	s := strconv.FormatFloat(x, 'g', -1, 64)
	if !strings.ContainsAny(s, ".eIN") {
		s += ".0"
	}
	return s
}
