package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// legal says in words what a key takes.
func (l *loader) legal(k key) string {
	switch {
	case k.values != nil:
		legal := quoted(k.values)
		if k.or != "" {
			legal = append(legal, k.or)
		}
		return list(legal)
	case k.only != "":
		return k.only
	case k.bounds.String() == "":
		return typeName(k.typ)
	}
	return typeName(k.typ) + ", " + k.bounds.String()
}

// typeName says what TOML value a type is written as.
func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return `a duration such as "60s"`
	case t.Kind() == reflect.String:
		return "a string"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t == reflect.TypeFor[[]Blend]():
		return "tables with weight and paths"
	case t == reflect.TypeFor[StageLayers]():
		return `a list of integers or "auto"`
	case t.Kind() == reflect.Slice:
		return "a list of strings"
	case t.Kind() == reflect.Array:
		return fmt.Sprintf("a list of %d numbers", t.Len())
	case t.Kind() == reflect.Map:
		return "a table"
	}
	return "an integer"
}

// describe names a value for a message, and its type where that is not plain from how it is written.
func describe(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "a table"
	case []any:
		return "a list"
	case string:
		return "the string " + quote(shorten(v))
	case bool, int, int64:
		return fmt.Sprint(v)
	case float64:
		return formatFloat(v)
	}
	return "a date or time"
}

// decodeKey stores a value in the key's field if it has the right type and is legal.
func (l *loader) decodeKey(k key, v any) {
	field := k.in(l.config)
	if raw := l.doc.places[join([]string{k.section, k.name})].raw; raw != "" && takesString(field, v) {
		// A shell takes quotes away: on the command line 2024 is as good a string as any.
		v = raw
	}
	switch {
	case field.Type() == reflect.TypeFor[time.Duration]():
		l.decodeDuration(k, field, v)
	case field.Kind() == reflect.String:
		l.decodeString(k, field, v)
	case field.Kind() == reflect.Bool:
		l.decodeBool(k, field, v)
	case field.Kind() == reflect.Float64:
		if x, ok := l.float(k, v); ok {
			field.SetFloat(x)
		}
	case field.Type() == reflect.TypeFor[[]Blend]():
		l.decodeBlend(k, field, v)
	case field.Type() == reflect.TypeFor[StageLayers]():
		l.decodeStageLayers(k, field, v)
	case field.Kind() == reflect.Slice:
		l.decodeStrings(k, field, v)
	case field.Kind() == reflect.Array:
		l.decodeFloats(k, field, v)
	case field.Kind() == reflect.Map:
		l.decodeTable(k, field, v)
	default:
		l.decodeInteger(k, field, v)
	}
}

// takesString tells whether a key takes a string where v is none: it is one, or a list of them and v no list.
func takesString(field reflect.Value, v any) bool {
	switch v.(type) {
	case string:
		return false
	case []any:
		return field.Kind() == reflect.String
	}
	return field.Kind() == reflect.String || field.Kind() == reflect.Slice
}

// shorten cuts a string that would fill the screen.
func shorten(s string) string {
	const most = 120
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return s
}

func (l *loader) wrongType(k key, v any) {
	remedy := "set it to " + l.legal(k)
	switch s, isString := v.(string); {
	case isString && isNumberOrBool(s):
		remedy = "write it without quotes: " + s
	case isNumberOrBool(describe(v)) && k.typ.Kind() == reflect.String && k.values == nil:
		remedy = "write it in quotes: " + quote(describe(v))
	}
	l.problem(k.String(), "expected "+typeName(k.typ)+", not "+describe(v), remedy)
}

// isNumberOrBool tells whether s is how TOML writes one.
func isNumberOrBool(s string) bool {
	v, err := parseValue(s)
	switch v.(type) {
	case bool, int64, float64:
		return err == nil
	}
	return false
}

func (l *loader) outOfRange(k key, v any) {
	l.problem(k.String(), describe(v)+" is out of range", "set it to "+l.legal(k))
}

func (l *loader) decodeString(k key, field reflect.Value, v any) {
	s, ok := v.(string)
	switch {
	case !ok:
		l.wrongType(k, v)
	case k.values == nil || k.or != "" || slices.Contains(k.values, s) || s == field.String():
		field.SetString(s)
	case slices.Contains(k.later, s):
		l.problem(k.String(), quote(s)+" is not available yet", "use "+list(quoted(k.values)))
	default:
		l.notLegal(k, shorten(s))
	}
}

// notLegal reports a string that is none of the key's values.
func (l *loader) notLegal(k key, s string) {
	what, remedy := quote(s)+" is not a legal value", "use "+list(quoted(k.values))
	if near, ok := nearest(s, slices.Concat(k.values, k.later)); ok {
		remedy = "did you mean " + quote(near) + "?"
	} else if k.other != "" {
		what = fmt.Sprintf("%s (%s) is not available yet", k.other, quote(s))
	}
	l.problem(k.String(), what, remedy)
}

func (l *loader) decodeBool(k key, field reflect.Value, v any) {
	b, ok := v.(bool)
	switch {
	case !ok:
		l.wrongType(k, v)
	case k.only != "" && strconv.FormatBool(b) != k.only:
		l.problem(k.String(), k.feature+" is not available yet", "use "+k.only)
	default:
		field.SetBool(b)
	}
}

func (l *loader) decodeInteger(k key, field reflect.Value, v any) {
	n, ok := v.(int64)
	switch {
	case !ok:
		if x, isFloat := v.(float64); isFloat && x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			l.problem(k.String(), "expected an integer, not "+describe(v), fmt.Sprintf("write %d", int64(x)))
			return
		}
		l.wrongType(k, v)
	case k.only != "" && strconv.FormatInt(n, 10) != k.only:
		l.problem(k.String(), k.feature+" is not available yet", "use "+k.only)
	case !k.bounds.contains(float64(n)) && describe(v) != tomlValue(field):
		l.outOfRange(k, v)
	case field.CanUint():
		field.SetUint(uint64(n))
	default:
		field.SetInt(n)
	}
}

// float returns a number in the key's range.
func (l *loader) float(k key, v any) (float64, bool) {
	x, ok := v.(float64)
	if n, isInteger := v.(int64); isInteger {
		x, ok = float64(n), true
	}
	switch {
	case !ok:
		l.wrongType(k, v)
	case math.IsNaN(x) || math.IsInf(x, 0) || !k.bounds.contains(x):
		l.outOfRange(k, v)
	default:
		return x, true
	}
	return 0, false
}

func (l *loader) decodeFloats(k key, field reflect.Value, v any) {
	values, ok := v.([]any)
	if !ok || len(values) != field.Len() {
		l.wrongType(k, v)
		return
	}
	for i, v := range values {
		x, ok := l.float(k, v)
		if !ok {
			return
		}
		field.Index(i).SetFloat(x)
	}
}

func (l *loader) decodeStrings(k key, field reflect.Value, v any) {
	values, ok := v.([]any)
	if s, isString := v.(string); isString {
		values, ok = []any{s}, true
	}
	if !ok {
		l.wrongType(k, v)
		return
	}
	list := make([]string, len(values))
	for i, v := range values {
		s, ok := v.(string)
		if !ok || s == "" {
			l.problem(k.String(), fmt.Sprintf("expected a list of strings; number %d is %s", i+1, describe(v)), "set it to "+l.legal(k))
			return
		}
		list[i] = s
	}
	if len(list) > 0 {
		field.Set(reflect.ValueOf(list))
	}
}

func (l *loader) decodeDuration(k key, field reflect.Value, v any) {
	s, ok := v.(string)
	d, err := time.ParseDuration(s)
	switch {
	case !ok || err != nil:
		l.wrongType(k, v)
	case !k.bounds.contains(float64(d)):
		l.problem(k.String(), quote(s)+" is out of range", "set it to a duration "+k.bounds.String())
	default:
		field.SetInt(int64(d))
	}
}

// decodeTable takes a table of keys that another package knows. Only what no such key can have is refused here.
func (l *loader) decodeTable(k key, field reflect.Value, v any) {
	table, ok := v.(map[string]any)
	if !ok {
		l.wrongType(k, v)
		return
	}
	if l.plainTable(k, []string{k.section, k.name}, table) && len(table) > 0 {
		field.Set(reflect.ValueOf(table))
	}
}

// plainTable reports the values of a table that JSON cannot hold.
func (l *loader) plainTable(k key, path []string, table map[string]any) bool {
	good := true
	for _, name := range slices.Sorted(maps.Keys(table)) {
		at := append(slices.Clone(path), name)
		if what := notJSON(table[name], len(at)); what != "" {
			l.bad[k.String()], good = true, false
			l.problemAt(at, what+" is not a value of a config.json", "use numbers, strings, true, false, lists and tables")
		}
	}
	return good
}

// notJSON names what in a value JSON does not have, or that it lies too deep.
func notJSON(v any, depth int) string {
	if depth > maxDepth {
		return fmt.Sprintf("a value nested in more than %d tables and lists", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if what := notJSON(v[name], depth+1); what != "" {
				return what
			}
		}
		return ""
	case []any:
		for _, e := range v {
			if what := notJSON(e, depth+1); what != "" {
				return what
			}
		}
		return ""
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return formatFloat(v)
		}
		return ""
	case string, bool, int64:
		return ""
	}
	return "a date or time"
}
