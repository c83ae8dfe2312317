package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// A Value is what an expression can be: nil (None), bool, int64, float64, string, *List, *Dict, or one of the package's own: an
// undefined name, a function, a namespace.
type Value any

// A List is a list or a tuple.
type List struct {
	Items []Value
	tuple bool
}

// A Dict is a mapping from strings that keeps the order in which they came.
type Dict struct {
	keys   []string
	values map[string]Value
}

// Set sets the value of a key, which keeps its place if it is there.
func (d *Dict) Set(key string, value Value) {
	if d.values == nil {
		d.values = map[string]Value{}
	}
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = value
}

// Get returns the value of a key.
func (d *Dict) Get(key string) (Value, bool) {
	v, ok := d.values[key]
	return v, ok
}

// Keys returns the keys in order.
func (d *Dict) Keys() []string { return d.keys }

// undefined is the value of a name that nothing defines.
type undefined struct{ name string }

// A function can be called with positional and named arguments.
type function func(r *renderer, args []Value, named map[string]Value) (Value, error)

// A namespace is an object whose attributes a template may set.
type namespace struct{ values map[string]Value }

// ParseJSON reads one JSON value. Objects keep their order; of a key that comes twice the last value counts.
func ParseJSON(text []byte) (Value, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := parseJSON(d, 0)
	if err != nil {
		return nil, fmt.Errorf("byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("byte %d: more than one value", d.InputOffset())
	}
	return v, nil
}

func parseJSON(d *json.Decoder, depth int) (Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("values nested more than %d deep", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return n, nil
		}
		return t.Float64()
	case json.Delim:
		if t == '[' {
			list := &List{}
			for d.More() {
				v, err := parseJSON(d, depth+1)
				if err != nil {
					return nil, err
				}
				list.Items = append(list.Items, v)
			}
			_, err := d.Token()
			return list, err
		}
		dict := &Dict{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			name, _ := key.(string)
			v, err := parseJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			dict.Set(name, v)
		}
		_, err := d.Token()
		return dict, err
	}
	return t, nil // nil, bool, string
}

// truth is Python's bool(v).
func truth(v Value) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.Items) > 0
	case *Dict:
		return len(v.keys) > 0
	}
	return true
}

// text is Python's str(v).
func text(v Value) string {
	switch v := v.(type) {
	case string:
		return v
	case undefined:
		return ""
	}
	return repr(v)
}

// repr is Python's repr(v).
func repr(v Value) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case undefined:
		return "Undefined"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return floatText(v)
	case string:
		return quoted(v)
	case *List:
		parts := make([]string, len(v.Items))
		for i, item := range v.Items {
			parts[i] = repr(item)
		}
		switch {
		case v.tuple && len(parts) == 1:
			return "(" + parts[0] + ",)"
		case v.tuple:
			return "(" + strings.Join(parts, ", ") + ")"
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case *Dict:
		parts := make([]string, len(v.keys))
		for i, key := range v.keys {
			parts[i] = quoted(key) + ": " + repr(v.values[key])
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return "<object>"
}

// floatText is Python's repr of a float.
func floatText(x float64) string {
	switch {
	case math.IsInf(x, 1):
		return "inf"
	case math.IsInf(x, -1):
		return "-inf"
	case math.IsNaN(x):
		return "nan"
	case x == math.Trunc(x) && math.Abs(x) < 1e16:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case x != 0 && (math.Abs(x) < 1e-4 || math.Abs(x) >= 1e16):
		return strconv.FormatFloat(x, 'e', -1, 64)
	}
	return strconv.FormatFloat(x, 'f', -1, 64)
}

// quoted is Python's repr of a string.
func quoted(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b := []byte{quote}
	for _, c := range s {
		switch {
		case c == rune(quote) || c == '\\':
			b = append(b, '\\', byte(c))
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case unicode.IsPrint(c):
			b = append(b, string(c)...)
		case c < 0x100:
			b = fmt.Appendf(b, `\x%02x`, c)
		case c < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = fmt.Appendf(b, `\U%08x`, c)
		}
	}
	return string(append(b, quote))
}

// equal is Python's a == b.
func equal(a, b Value) bool {
	if x, ok := number(a); ok {
		y, isNumber := number(b)
		return isNumber && x == y
	}
	switch a := a.(type) {
	case *List:
		other, ok := b.(*List)
		if !ok || len(a.Items) != len(other.Items) || a.tuple != other.tuple {
			return false
		}
		for i := range a.Items {
			if !equal(a.Items[i], other.Items[i]) {
				return false
			}
		}
		return true
	case *Dict:
		other, ok := b.(*Dict)
		if !ok || len(a.keys) != len(other.keys) {
			return false
		}
		for key, v := range a.values {
			if w, ok := other.values[key]; !ok || !equal(v, w) {
				return false
			}
		}
		return true
	case undefined:
		_, ok := b.(undefined)
		return ok
	case function:
		return false
	}
	if _, ok := b.(function); ok {
		return false
	}
	return a == b
}

// number returns a number or a truth value, which Python counts among them.
func number(v Value) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// typeOf names a value's type for a message.
func typeOf(v Value) string {
	switch v := v.(type) {
	case nil:
		return "none"
	case undefined:
		return fmt.Sprintf("%q, which is not defined", v.name)
	case bool:
		return "a truth value"
	case int64, float64:
		return "a number"
	case string:
		return "a string"
	case *List:
		return "a list"
	case *Dict:
		return "a mapping"
	}
	return "an object"
}

// dumps is json.dumps(v, ensure_ascii=False) with an indent, "" for one line.
func dumps(v Value, indent string, depth int) (string, error) {
	open, next := "", ", "
	end := ""
	if indent != "" {
		open = "\n" + strings.Repeat(indent, depth+1)
		next, end = ","+open, "\n"+strings.Repeat(indent, depth)
	}
	var parts []string
	switch v := v.(type) {
	case nil:
		return "null", nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return map[string]string{"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[floatText(v)] + finite(v), nil
	case string:
		return jsonString(v), nil
	case *List:
		for _, item := range v.Items {
			part, err := dumps(item, indent, depth+1)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		if len(parts) == 0 {
			return "[]", nil
		}
		return "[" + open + strings.Join(parts, next) + end + "]", nil
	case *Dict:
		for _, key := range v.keys {
			part, err := dumps(v.values[key], indent, depth+1)
			if err != nil {
				return "", err
			}
			parts = append(parts, jsonString(key)+": "+part)
		}
		if len(parts) == 0 {
			return "{}", nil
		}
		return "{" + open + strings.Join(parts, next) + end + "}", nil
	}
	return "", fmt.Errorf("%s cannot be written as JSON", typeOf(v))
}

// finite writes a number that JSON has.
func finite(x float64) string {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return ""
	}
	return floatText(x)
}

// jsonString is how Python writes a string without turning it to ASCII.
func jsonString(s string) string {
	b := []byte{'"'}
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, string(c)...)
		}
	}
	return string(append(b, '"'))
}
