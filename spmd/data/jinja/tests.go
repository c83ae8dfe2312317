package jinja

import (
	"errors"
	"strings"
	"unicode"
)

func (e *environment) makeTests() map[string]testFunc {
	is := func(f func(v Value) bool) testFunc {
		return func(v Value, _ []Value) (bool, error) { return f(v), nil }
	}
	comparison := func(operator string) testFunc {
		return func(v Value, args []Value) (bool, error) {
			if len(args) != 1 {
				return false, errors.New("a comparison wants one argument")
			}
			return compare(operator, v, args[0])
		}
	}
	isUndefined := func(v Value) bool { _, ok := v.(undefined); return ok }
	isInteger := func(v Value) bool { _, ok := v.(int64); return ok }
	isFloat := func(v Value) bool { _, ok := v.(float64); return ok }
	isString := func(v Value) bool { _, ok := v.(string); return ok }
	isList := func(v Value) bool { _, ok := v.(*List); return ok }
	isDict := func(v Value) bool { _, ok := v.(*Dict); return ok }
	t := map[string]testFunc{
		"defined": is(func(v Value) bool { return !isUndefined(v) }), "undefined": is(isUndefined),
		"none": is(func(v Value) bool { return v == nil }), "string": is(isString), "integer": is(isInteger), "float": is(isFloat),
		"number":   is(func(v Value) bool { _, ok := number(v); return ok }),
		"boolean":  is(func(v Value) bool { _, ok := v.(bool); return ok }),
		"true":     is(func(v Value) bool { return v == true }),
		"false":    is(func(v Value) bool { return v == false }),
		"mapping":  is(isDict),
		"sequence": is(func(v Value) bool { return isList(v) || isString(v) || isDict(v) || isUndefined(v) }),
		"iterable": is(func(v Value) bool { return isList(v) || isString(v) || isDict(v) || isUndefined(v) }),
		"callable": is(func(v Value) bool { _, ok := v.(function); return ok }),
		"odd":      is(func(v Value) bool { n, ok := v.(int64); return ok && n%2 != 0 }),
		"even":     is(func(v Value) bool { n, ok := v.(int64); return ok && n%2 == 0 }),
		"lower": is(func(v Value) bool {
			s := text(v)
			return s == strings.ToLower(s) && strings.IndexFunc(s, unicode.IsLetter) >= 0
		}),
		"upper": is(func(v Value) bool {
			s := text(v)
			return s == strings.ToUpper(s) && strings.IndexFunc(s, unicode.IsLetter) >= 0
		}),
		"filter": is(func(v Value) bool { return e.filters[text(v)] != nil }),
		"test":   is(func(v Value) bool { return e.tests[text(v)] != nil }),
		"in":     comparison("in"),
		"sameas": comparison("=="),
		"divisibleby": func(v Value, args []Value) (bool, error) {
			n, ok := v.(int64)
			if len(args) != 1 || !ok {
				return false, errors.New("divisibleby wants integers")
			}
			rest, err := arithmetic("%", n, args[0])
			return rest == int64(0), err
		},
	}
	for operator, names := range map[string][]string{"==": {"==", "eq", "equalto"}, "!=": {"!=", "ne"}, "<": {"<", "lt", "lessthan"},
		"<=": {"<=", "le"}, ">": {">", "gt", "greaterthan"}, ">=": {">=", "ge"}} {
		for _, name := range names {
			t[name] = comparison(operator)
		}
	}
	return t
}
