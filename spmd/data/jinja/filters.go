package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

type (
	filterFunc func(r *renderer, v Value, c call) (Value, error)
	testFunc   func(v Value, args []Value) (bool, error)
)

// An environment has the filters and tests that templates may use. They refer to each other, so it is made by a function.
type environment struct {
	filters map[string]filterFunc
	tests   map[string]testFunc
}

func newEnvironment() *environment {
	e := &environment{filters: makeFilters()}
	e.tests = e.makeTests()
	return e
}

// texts makes a filter of a string method.
func texts(method func(string, call) (Value, error)) filterFunc {
	return func(_ *renderer, v Value, c call) (Value, error) { return method(text(v), c) }
}

func makeFilters() map[string]filterFunc {
	f := map[string]filterFunc{
		"trim": texts(stringMethods["strip"]), "upper": texts(stringMethods["upper"]), "lower": texts(stringMethods["lower"]),
		"title": texts(plain(title)), "capitalize": texts(plain(capitalize)), "replace": texts(replaceText),
		"string": texts(plain(func(s string) string { return s })), "safe": func(_ *renderer, v Value, _ call) (Value, error) { return v, nil },
		"indent": texts(indentText), "escape": texts(plain(escapeHTML)),
		"length": length, "tojson": toJSON, "join": joinFilter, "default": defaultFilter, "first": first, "last": last,
		"list": list, "int": toInteger, "float": toFloat, "abs": absolute, "round": round,
		"items": items, "dictsort": dictSort, "sort": sortFilter, "reverse": reverse, "unique": unique,
		"map": mapFilter, "sum": sum,
		"min":        func(_ *renderer, v Value, _ call) (Value, error) { return extreme(v, -1) },
		"max":        func(_ *renderer, v Value, _ call) (Value, error) { return extreme(v, 1) },
		"select":     func(r *renderer, v Value, c call) (Value, error) { return r.selected(v, c, false, true) },
		"reject":     func(r *renderer, v Value, c call) (Value, error) { return r.selected(v, c, false, false) },
		"selectattr": func(r *renderer, v Value, c call) (Value, error) { return r.selected(v, c, true, true) },
		"rejectattr": func(r *renderer, v Value, c call) (Value, error) { return r.selected(v, c, true, false) },
	}
	f["count"], f["d"], f["e"] = f["length"], f["default"], f["escape"]
	return f
}

func length(_ *renderer, v Value, _ call) (Value, error) {
	if s, ok := v.(string); ok {
		return int64(utf8.RuneCountInString(s)), nil
	}
	items, err := iterate(v)
	return int64(len(items)), err
}

// toJSON is the tojson of Transformers: json.dumps without turning text to ASCII.
func toJSON(_ *renderer, v Value, c call) (Value, error) {
	indent := ""
	switch n := c.get(0, "indent", nil).(type) {
	case int64:
		indent = strings.Repeat(" ", int(min(max(n, 0), 64)))
	case string:
		indent = n
	}
	for name := range c.named {
		if name != "indent" && name != "ensure_ascii" || name == "ensure_ascii" && truth(c.named[name]) {
			return nil, fmt.Errorf("the argument %s is not known", name)
		}
	}
	return dumps(v, indent, 0)
}

// joinTexts joins strings with a separator.
func joinTexts(v Value, separator string) (Value, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	parts, size := make([]string, len(items)), 0
	for i, item := range items {
		parts[i] = text(item)
		size += len(parts[i]) + len(separator)
	}
	if size > maxOutput {
		return nil, fmt.Errorf("a text of more than %d bytes", maxOutput)
	}
	return strings.Join(parts, separator), nil
}

func joinFilter(_ *renderer, v Value, c call) (Value, error) {
	if name, ok := c.get(1, "attribute", nil).(string); ok {
		var err error
		if v, err = attributes(v, name, nil); err != nil {
			return nil, err
		}
	}
	return joinTexts(v, text(c.get(0, "d", "")))
}

func defaultFilter(_ *renderer, v Value, c call) (Value, error) {
	_, missing := v.(undefined)
	if missing || truth(c.get(1, "boolean", false)) && !truth(v) {
		return c.get(0, "default_value", ""), nil
	}
	return v, nil
}

func first(_ *renderer, v Value, _ call) (Value, error) {
	items, err := iterate(v)
	if err != nil || len(items) == 0 {
		return undefined{"the first of nothing"}, err
	}
	return items[0], nil
}

func last(_ *renderer, v Value, _ call) (Value, error) {
	items, err := iterate(v)
	if err != nil || len(items) == 0 {
		return undefined{"the last of nothing"}, err
	}
	return items[len(items)-1], nil
}

func list(_ *renderer, v Value, _ call) (Value, error) {
	items, err := iterate(v)
	return &List{Items: slices.Clone(items)}, err
}

func toInteger(_ *renderer, v Value, c call) (Value, error) {
	switch v := v.(type) {
	case string:
		if n, err := strconv.ParseInt(strings.TrimFunc(v, isSpace), 10, 64); err == nil {
			return n, nil
		}
		if x, err := strconv.ParseFloat(strings.TrimFunc(v, isSpace), 64); err == nil && math.Abs(x) < 1<<63 {
			return int64(x), nil
		}
	default:
		if x, ok := number(v); ok && math.Abs(x) < 1<<63 {
			return int64(x), nil
		}
	}
	return c.get(0, "default", int64(0)), nil
}

func toFloat(_ *renderer, v Value, c call) (Value, error) {
	if s, ok := v.(string); ok {
		if x, err := strconv.ParseFloat(strings.TrimFunc(s, isSpace), 64); err == nil {
			return x, nil
		}
	}
	if x, ok := number(v); ok {
		return x, nil
	}
	return c.get(0, "default", 0.0), nil
}

func absolute(_ *renderer, v Value, _ call) (Value, error) {
	switch v := v.(type) {
	case int64:
		return max(v, -v), nil
	case float64:
		return math.Abs(v), nil
	}
	return nil, fmt.Errorf("%s has no absolute value", typeOf(v))
}

func round(_ *renderer, v Value, c call) (Value, error) {
	x, ok := number(v)
	if !ok {
		return nil, fmt.Errorf("%s cannot be rounded", typeOf(v))
	}
	digits, err := c.integer(0, "precision", 0)
	if err != nil {
		return nil, err
	}
	scale := math.Pow(10, float64(digits))
	return math.RoundToEven(x*scale) / scale, nil
}

func items(_ *renderer, v Value, _ call) (Value, error) {
	switch v := v.(type) {
	case *Dict:
		return pairs(v), nil
	case undefined:
		return &List{}, nil
	}
	return nil, fmt.Errorf("%s is no mapping", typeOf(v))
}

func dictSort(_ *renderer, v Value, _ call) (Value, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no mapping", typeOf(v))
	}
	list := pairs(d)
	slices.SortStableFunc(list.Items, func(a, b Value) int {
		return strings.Compare(strings.ToLower(a.(*List).Items[0].(string)), strings.ToLower(b.(*List).Items[0].(string)))
	})
	return list, nil
}

func sortFilter(_ *renderer, v Value, c call) (Value, error) {
	values, err := iterate(v)
	if err != nil {
		return nil, err
	}
	sensitive := truth(c.get(1, "case_sensitive", false))
	name, _ := c.get(2, "attribute", nil).(string)
	key := func(v Value) Value {
		if name != "" {
			v = path(v, name)
		}
		if s, ok := v.(string); ok && !sensitive {
			return strings.ToLower(s)
		}
		return v
	}
	sorted := slices.Clone(values)
	reversed := truth(c.get(0, "reverse", false))
	slices.SortStableFunc(sorted, func(a, b Value) int {
		order, orderErr := ordered(key(a), key(b))
		err = errors.Join(err, orderErr)
		if reversed {
			return -order
		}
		return order
	})
	return &List{Items: sorted}, err
}

func reverse(_ *renderer, v Value, _ call) (Value, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	reversed := slices.Clone(items)
	slices.Reverse(reversed)
	if _, ok := v.(string); ok {
		return joinTexts(&List{Items: reversed}, "")
	}
	return &List{Items: reversed}, nil
}

func unique(_ *renderer, v Value, _ call) (Value, error) {
	items, err := iterate(v)
	out := &List{}
	seen := map[string]bool{}
	for _, item := range items {
		if key := strings.ToLower(repr(item)); !seen[key] {
			seen[key] = true
			out.Items = append(out.Items, item)
		}
	}
	return out, err
}

// path is an attribute of an attribute, with dots between their names; a number is an index.
func path(v Value, names string) Value {
	for name := range strings.SplitSeq(names, ".") {
		var index Value = name
		if n, err := strconv.ParseInt(name, 10, 64); err == nil {
			index = n
		}
		next, err := item(v, index)
		if err != nil {
			return undefined{name}
		}
		v = next
	}
	return v
}

// attributes returns an attribute of each element.
func attributes(v Value, name string, otherwise Value) (*List, error) {
	items, err := iterate(v)
	out := &List{}
	for _, item := range items {
		value := path(item, name)
		if _, missing := value.(undefined); missing && otherwise != nil {
			value = otherwise
		}
		out.Items = append(out.Items, value)
	}
	return out, err
}

func mapFilter(r *renderer, v Value, c call) (Value, error) {
	if name, ok := c.named["attribute"].(string); ok {
		return attributes(v, name, c.named["default"])
	}
	name, _ := c.get(0, "", nil).(string)
	filter := r.filters[name]
	if filter == nil {
		return nil, fmt.Errorf("the filter %q is not known", name)
	}
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := &List{}
	for _, item := range items {
		value, err := filter(r, item, call{c.args[1:], c.named})
		if err == nil {
			err = r.step()
		}
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, value)
	}
	return out, nil
}

// selected keeps the elements that pass a test, or that have an attribute which does.
func (r *renderer) selected(v Value, c call, byAttribute, keep bool) (Value, error) {
	values, err := iterate(v)
	if err != nil {
		return nil, err
	}
	args, attribute := c.args, ""
	if byAttribute {
		if len(args) == 0 {
			return nil, errors.New("the name of an attribute is missing")
		}
		attribute, args = text(args[0]), args[1:]
	}
	test := func(v Value, _ []Value) (bool, error) { return truth(v), nil }
	if len(args) > 0 {
		name := text(args[0])
		if args = args[1:]; r.tests[name] == nil {
			return nil, fmt.Errorf("the test %q is not known", name)
		}
		test = r.tests[name]
	}
	out := &List{}
	for _, item := range values {
		tested := item
		if byAttribute {
			tested = path(item, attribute)
		}
		ok, err := test(tested, args)
		if err != nil {
			return nil, err
		}
		if ok == keep {
			out.Items = append(out.Items, item)
		}
	}
	return out, nil
}

func sum(_ *renderer, v Value, c call) (Value, error) {
	if name, ok := c.get(0, "attribute", nil).(string); ok {
		var err error
		if v, err = attributes(v, name, nil); err != nil {
			return nil, err
		}
	}
	items, err := iterate(v)
	total := c.get(1, "start", int64(0))
	for _, item := range items {
		if err == nil {
			total, err = arithmetic("+", total, item)
		}
	}
	return total, err
}

// extreme returns the smallest or the largest element.
func extreme(v Value, sign int) (Value, error) {
	items, err := iterate(v)
	if err != nil || len(items) == 0 {
		return undefined{"the extreme of nothing"}, err
	}
	best := items[0]
	for _, item := range items[1:] {
		order, err := ordered(item, best)
		if err != nil {
			return nil, err
		}
		if order*sign > 0 {
			best = item
		}
	}
	return best, nil
}
