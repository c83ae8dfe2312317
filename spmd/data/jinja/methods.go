package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// A call has the arguments of a filter or a method.
type call struct {
	args  []Value
	named map[string]Value
}

// get returns an argument by its place or name.
func (c call) get(i int, name string, otherwise Value) Value {
	if i < len(c.args) {
		return c.args[i]
	}
	if v, ok := c.named[name]; ok {
		return v
	}
	return otherwise
}

// text returns an argument that must be a string.
func (c call) text(i int, name, otherwise string) (string, error) {
	v := c.get(i, name, otherwise)
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("argument %s is %s, not a string", name, typeOf(v))
	}
	return s, nil
}

// integer returns an argument that must be an integer.
func (c call) integer(i int, name string, otherwise int64) (int64, error) {
	v := c.get(i, name, otherwise)
	n, ok := v.(int64)
	if !ok {
		return 0, fmt.Errorf("argument %s is %s, not an integer", name, typeOf(v))
	}
	return n, nil
}

// bind makes a function of a method and its object.
func bind[T Value](method func(T, call) (Value, error), object T) function {
	return func(_ *renderer, args []Value, named map[string]Value) (Value, error) {
		return method(object, call{args, named})
	}
}

// cut makes the strip methods of strings.
func cut(trim func(string, string) string, spaces func(string, func(rune) bool) string) func(string, call) (Value, error) {
	return func(s string, c call) (Value, error) {
		if v := c.get(0, "chars", nil); v == nil {
			return spaces(s, isSpace), nil
		}
		chars, err := c.text(0, "chars", "")
		return trim(s, chars), err
	}
}

// isSpace is Python's str.isspace, which has four control characters more than Unicode's white space.
func isSpace(c rune) bool { return unicode.IsSpace(c) || 0x1c <= c && c <= 0x1f }

// affix makes startswith and endswith, which take one string or several in a tuple.
func affix(has func(string, string) bool) func(string, call) (Value, error) {
	return func(s string, c call) (Value, error) {
		if list, ok := c.get(0, "prefix", nil).(*List); ok {
			return slices.ContainsFunc(list.Items, func(v Value) bool { x, ok := v.(string); return ok && has(s, x) }), nil
		}
		x, err := c.text(0, "prefix", "")
		return has(s, x), err
	}
}

// all makes the methods that ask for the kind of all characters.
func all(is func(rune) bool) func(string, call) (Value, error) {
	return func(s string, _ call) (Value, error) {
		return s != "" && strings.IndexFunc(s, func(c rune) bool { return !is(c) }) < 0, nil
	}
}

func plain(f func(string) string) func(string, call) (Value, error) {
	return func(s string, _ call) (Value, error) { return f(s), nil }
}

var stringMethods = map[string]func(string, call) (Value, error){
	"strip":      cut(strings.Trim, strings.TrimFunc),
	"lstrip":     cut(strings.TrimLeft, strings.TrimLeftFunc),
	"rstrip":     cut(strings.TrimRight, strings.TrimRightFunc),
	"startswith": affix(strings.HasPrefix),
	"endswith":   affix(strings.HasSuffix),
	"upper":      plain(strings.ToUpper),
	"lower":      plain(strings.ToLower),
	"title":      plain(title),
	"capitalize": plain(capitalize),
	"isdigit":    all(unicode.IsDigit),
	"isalpha":    all(unicode.IsLetter),
	"isspace":    all(isSpace),
	"isupper":    func(s string, _ call) (Value, error) { return s != strings.ToLower(s) && s == strings.ToUpper(s), nil },
	"islower":    func(s string, _ call) (Value, error) { return s != strings.ToUpper(s) && s == strings.ToLower(s), nil },
	"split":      func(s string, c call) (Value, error) { return split(s, c, false) },
	"rsplit":     func(s string, c call) (Value, error) { return split(s, c, true) },
	"splitlines": func(s string, _ call) (Value, error) {
		s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
		if s == "" {
			return &List{}, nil
		}
		return stringList(strings.Split(strings.TrimSuffix(s, "\n"), "\n")), nil
	},
	"removeprefix": func(s string, c call) (Value, error) {
		x, err := c.text(0, "prefix", "")
		return strings.TrimPrefix(s, x), err
	},
	"removesuffix": func(s string, c call) (Value, error) {
		x, err := c.text(0, "suffix", "")
		return strings.TrimSuffix(s, x), err
	},
	"find":    func(s string, c call) (Value, error) { return find(s, c, strings.Index) },
	"rfind":   func(s string, c call) (Value, error) { return find(s, c, strings.LastIndex) },
	"count":   countText,
	"replace": replaceText,
	"join": func(s string, c call) (Value, error) {
		return joinTexts(c.get(0, "iterable", nil), s)
	},
}

func countText(s string, c call) (Value, error) {
	x, err := c.text(0, "sub", "")
	return int64(strings.Count(s, x)), err
}

func replaceText(s string, c call) (Value, error) {
	old, err := c.text(0, "old", "")
	if err != nil {
		return nil, err
	}
	replacement, err := c.text(1, "new", "")
	if err != nil {
		return nil, err
	}
	n, err := c.integer(2, "count", -1)
	if err != nil {
		return nil, err
	}
	if times := int64(strings.Count(s, old)); times*int64(len(replacement)) > maxOutput {
		return nil, fmt.Errorf("a text of more than %d bytes", maxOutput)
	}
	return strings.Replace(s, old, replacement, int(max(min(n, 1<<30), -1))), nil
}

// find returns the place of a text, in characters.
func find(s string, c call, index func(string, string) int) (Value, error) {
	x, err := c.text(0, "sub", "")
	i := index(s, x)
	if err != nil || i < 0 {
		return int64(-1), err
	}
	return int64(len([]rune(s[:i]))), nil
}

// split cuts a string at a separator, or at white space, at most so many times from either end.
func split(s string, c call, right bool) (Value, error) {
	most, err := c.integer(1, "maxsplit", -1)
	if err != nil {
		return nil, err
	}
	n := int(max(min(most, 1<<30), -1))
	if c.get(0, "sep", nil) == nil {
		return stringList(fields(s, n, right)), nil
	}
	sep, err := c.text(0, "sep", "")
	if err == nil && sep == "" {
		err = errors.New("an empty separator")
	}
	if err != nil {
		return nil, err
	}
	if !right || n < 0 {
		if n >= 0 {
			n++
		}
		return stringList(strings.SplitN(s, sep, n)), nil
	}
	var parts []string
	for ; n > 0; n-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		parts = append(parts, s[i+len(sep):])
		s = s[:i]
	}
	parts = append(parts, s)
	slices.Reverse(parts)
	return stringList(parts), nil
}

// fields cuts at runs of white space, at most n times, -1 for all.
func fields(s string, n int, right bool) []string {
	parts := strings.FieldsFunc(s, isSpace)
	if n < 0 || len(parts) <= n+1 {
		return parts
	}
	if right {
		s = strings.TrimRightFunc(s, isSpace)
		var last []string
		for range n {
			word := s[strings.LastIndexFunc(s, isSpace):]
			last = append(last, strings.TrimLeftFunc(word, isSpace))
			s = strings.TrimRightFunc(s[:len(s)-len(word)], isSpace)
		}
		last = append(last, s)
		slices.Reverse(last)
		return last
	}
	s = strings.TrimLeftFunc(s, isSpace)
	var first []string
	for range n {
		i := strings.IndexFunc(s, isSpace)
		first = append(first, s[:i])
		s = strings.TrimLeftFunc(s[i:], isSpace)
	}
	return append(first, s)
}

func stringList(parts []string) *List {
	list := &List{Items: make([]Value, len(parts))}
	for i, part := range parts {
		list.Items[i] = part
	}
	return list
}

// title begins each word with a capital letter.
func title(s string) string {
	inWord := false
	return strings.Map(func(c rune) rune {
		first := !inWord
		if inWord = unicode.IsLetter(c); first {
			return unicode.ToTitle(c)
		}
		return unicode.ToLower(c)
	}, s)
}

func capitalize(s string) string {
	runes := []rune(strings.ToLower(s))
	if len(runes) > 0 {
		runes[0] = unicode.ToTitle(runes[0])
	}
	return string(runes)
}

var dictMethods = map[string]func(*Dict, call) (Value, error){
	"items":  func(d *Dict, _ call) (Value, error) { return pairs(d), nil },
	"keys":   func(d *Dict, _ call) (Value, error) { return stringList(d.keys), nil },
	"values": func(d *Dict, _ call) (Value, error) { return dictValues(d), nil },
	"get": func(d *Dict, c call) (Value, error) {
		key, ok := c.get(0, "key", nil).(string)
		if v, found := d.values[key]; ok && found {
			return v, nil
		}
		return c.get(1, "default", nil), nil
	},
}

// pairs returns the entries of a mapping as tuples.
func pairs(d *Dict) *List {
	list := &List{}
	for _, key := range d.keys {
		list.Items = append(list.Items, &List{Items: []Value{key, d.values[key]}, tuple: true})
	}
	return list
}

func dictValues(d *Dict) *List {
	list := &List{}
	for _, key := range d.keys {
		list.Items = append(list.Items, d.values[key])
	}
	return list
}

var listMethods = map[string]func(*List, call) (Value, error){
	"index": func(l *List, c call) (Value, error) {
		wanted := c.get(0, "value", nil)
		i := slices.IndexFunc(l.Items, func(v Value) bool { return equal(v, wanted) })
		if i < 0 {
			return nil, errors.New("the value is not in the list")
		}
		return int64(i), nil
	},
	"count": func(l *List, c call) (Value, error) {
		n := int64(0)
		for _, v := range l.Items {
			if equal(v, c.get(0, "value", nil)) {
				n++
			}
		}
		return n, nil
	},
}

// globals are the functions that every template has.
var globals = map[string]function{
	"range": func(_ *renderer, args []Value, _ map[string]Value) (Value, error) {
		bounds := [3]int64{0, 0, 1}
		for i, v := range args {
			n, ok := v.(int64)
			if !ok || i > 2 {
				return nil, errors.New("range wants one to three integers")
			}
			bounds[i] = n
		}
		if len(args) == 1 {
			bounds[0], bounds[1] = 0, bounds[0]
		}
		start, stop, step := bounds[0], bounds[1], bounds[2]
		if step == 0 || len(args) == 0 {
			return nil, errors.New("range without an end, or of step 0")
		}
		list := &List{}
		for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
			if list.Items = append(list.Items, i); len(list.Items) > maxRange {
				return nil, fmt.Errorf("a range of more than %d numbers", maxRange)
			}
		}
		return list, nil
	},
	"namespace": func(_ *renderer, args []Value, named map[string]Value) (Value, error) {
		n := &namespace{map[string]Value{}}
		for _, v := range args {
			if d, ok := v.(*Dict); ok {
				for _, key := range d.keys {
					n.values[key] = d.values[key]
				}
			}
		}
		for name, v := range named {
			n.values[name] = v
		}
		return n, nil
	},
	"dict": func(_ *renderer, args []Value, named map[string]Value) (Value, error) {
		d := &Dict{}
		for _, v := range args {
			if other, ok := v.(*Dict); ok {
				for _, key := range other.keys {
					d.Set(key, other.values[key])
				}
			}
		}
		names := make([]string, 0, len(named))
		for name := range named {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			d.Set(name, named[name])
		}
		return d, nil
	},
	"raise_exception": func(_ *renderer, args []Value, _ map[string]Value) (Value, error) {
		message := "no reason given"
		if len(args) > 0 {
			message = text(args[0])
		}
		return nil, &RaisedError{message}
	},
	"strftime_now": func(*renderer, []Value, map[string]Value) (Value, error) {
		return nil, errNow
	},
}

// errNow refuses the one function whose value is another one every day: a run must give the same numbers whenever it is started.
var errNow = errors.New("strftime_now: the date of today would be in the text, and a run would depend on the day; " +
	"pass the date that the template asks for in the data, or change the template")
