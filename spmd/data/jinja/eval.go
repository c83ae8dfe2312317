package jinja

import (
	"fmt"
	"strings"
)

type literal struct{ value Value }

func (e literal) eval(*renderer) (Value, error) { return e.value, nil }

type nameExpr string

func (e nameExpr) eval(r *renderer) (Value, error) {
	if v, ok := r.scope.lookup(string(e)); ok {
		return v, nil
	}
	if f, ok := globals[string(e)]; ok {
		return f, nil
	}
	return undefined{string(e)}, nil
}

// captureExpr is the text of a block.
type captureExpr struct{ body []node }

func (e *captureExpr) eval(r *renderer) (Value, error) { return r.capture(e.body) }

type listExpr struct {
	items []expression
	tuple bool
}

func (e *listExpr) eval(r *renderer) (Value, error) {
	items, err := r.all(e.items)
	return &List{items, e.tuple}, err
}

// all evaluates expressions in order.
func (r *renderer) all(expressions []expression) ([]Value, error) {
	values := make([]Value, len(expressions))
	for i, e := range expressions {
		v, err := e.eval(r)
		if err != nil {
			return nil, err
		}
		values[i] = v
	}
	return values, r.step()
}

type dictExpr struct {
	keys, values []expression
	line         int
}

func (e *dictExpr) eval(r *renderer) (Value, error) {
	keys, err := r.all(e.keys)
	if err != nil {
		return nil, err
	}
	values, err := r.all(e.values)
	if err != nil {
		return nil, err
	}
	d := &Dict{}
	for i, key := range keys {
		name, ok := key.(string)
		if !ok {
			return nil, at(e.line, fmt.Errorf("%s is no key of a mapping; only strings are", typeOf(key)))
		}
		d.Set(name, values[i])
	}
	return d, nil
}

type conditionalExpr struct{ test, then, otherwise expression }

func (e *conditionalExpr) eval(r *renderer) (Value, error) {
	v, err := e.test.eval(r)
	switch {
	case err != nil:
		return nil, err
	case truth(v):
		return e.then.eval(r)
	case e.otherwise == nil:
		return undefined{"the else of a condition"}, nil
	}
	return e.otherwise.eval(r)
}

type notExpr struct{ value expression }

func (e *notExpr) eval(r *renderer) (Value, error) {
	v, err := e.value.eval(r)
	return !truth(v), err
}

type negateExpr struct {
	value expression
	line  int
}

func (e *negateExpr) eval(r *renderer) (Value, error) {
	v, err := e.value.eval(r)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case int64:
		return -v, nil
	case float64:
		return -v, nil
	}
	return nil, at(e.line, fmt.Errorf("the negative of %s", typeOf(v)))
}

type binaryExpr struct {
	operator    string
	left, right expression
	line        int
}

func (e *binaryExpr) eval(r *renderer) (Value, error) {
	a, err := e.left.eval(r)
	if err != nil || e.operator == "or" && truth(a) || e.operator == "and" && !truth(a) {
		return a, err
	}
	b, err := e.right.eval(r)
	if err != nil || e.operator == "or" || e.operator == "and" {
		return b, err
	}
	if err := r.step(); err != nil {
		return nil, err
	}
	v, err := arithmetic(e.operator, a, b)
	if s, ok := v.(string); ok && len(s) > maxOutput {
		err = fmt.Errorf("a text of more than %d bytes", maxOutput)
	}
	return v, at(e.line, err)
}

type compareExpr struct {
	first     expression
	operators []string
	operands  []expression
	line      int
}

func (e *compareExpr) eval(r *renderer) (Value, error) {
	left, err := e.first.eval(r)
	if err != nil {
		return nil, err
	}
	for i, operator := range e.operators {
		right, err := e.operands[i].eval(r)
		if err != nil {
			return nil, err
		}
		ok, err := compare(operator, left, right)
		if err != nil || !ok {
			return false, at(e.line, err)
		}
		left = right
	}
	return true, r.step()
}

type attributeExpr struct {
	object expression
	name   string
	line   int
}

func (e *attributeExpr) eval(r *renderer) (Value, error) {
	v, err := e.object.eval(r)
	if err != nil {
		return nil, err
	}
	v, err = attribute(v, e.name)
	return v, at(e.line, err)
}

// attribute is v.name: a method, else what is at the key.
func attribute(v Value, name string) (Value, error) {
	switch object := v.(type) {
	case undefined:
		return nil, fmt.Errorf("%s has no attribute %s", typeOf(v), name)
	case *loopState:
		return object.attribute(name), nil
	case *namespace:
		if value, ok := object.values[name]; ok {
			return value, nil
		}
	case *Dict:
		if method, ok := dictMethods[name]; ok {
			return bind(method, object), nil
		}
		if value, ok := object.values[name]; ok {
			return value, nil
		}
	case string:
		if method, ok := stringMethods[name]; ok {
			return bind(method, object), nil
		}
	case *List:
		if method, ok := listMethods[name]; ok {
			return bind(method, object), nil
		}
	}
	return undefined{name}, nil
}

type indexExpr struct {
	object, index expression
	line          int
}

func (e *indexExpr) eval(r *renderer) (Value, error) {
	v, err := e.object.eval(r)
	if err != nil {
		return nil, err
	}
	index, err := e.index.eval(r)
	if err != nil {
		return nil, err
	}
	v, err = item(v, index)
	return v, at(e.line, err)
}

// item is v[index]: an element, else an attribute of that name.
func item(v, index Value) (Value, error) {
	switch index := index.(type) {
	case string:
		if d, ok := v.(*Dict); ok {
			if value, ok := d.values[index]; ok {
				return value, nil
			}
		}
		return attribute(v, index)
	case int64:
		switch v := v.(type) {
		case undefined:
			return nil, fmt.Errorf("%s has no element %d", typeOf(v), index)
		case *List:
			if index < 0 {
				index += int64(len(v.Items))
			}
			if index >= 0 && index < int64(len(v.Items)) {
				return v.Items[index], nil
			}
		case string:
			runes := []rune(v)
			if index < 0 {
				index += int64(len(runes))
			}
			if index >= 0 && index < int64(len(runes)) {
				return string(runes[index]), nil
			}
		}
		return undefined{fmt.Sprintf("element %d", index)}, nil
	}
	return undefined{"an element"}, nil
}

type sliceExpr struct {
	object expression
	parts  [3]expression // nil where left out
	line   int
}

func (e *sliceExpr) eval(r *renderer) (Value, error) {
	v, err := e.object.eval(r)
	if err != nil {
		return nil, err
	}
	var bounds [3]*int64
	for i, part := range e.parts {
		if part == nil {
			continue
		}
		value, err := part.eval(r)
		if err != nil {
			return nil, err
		}
		if n, ok := value.(int64); ok {
			bounds[i] = &n
		} else if value != nil {
			return nil, at(e.line, fmt.Errorf("%s is no bound of a slice", typeOf(value)))
		}
	}
	switch v := v.(type) {
	case string:
		runes := []rune(v)
		indices, err := sliced(int64(len(runes)), bounds)
		var b strings.Builder
		for _, i := range indices {
			b.WriteRune(runes[i])
		}
		return b.String(), at(e.line, err)
	case *List:
		indices, err := sliced(int64(len(v.Items)), bounds)
		out := &List{tuple: v.tuple}
		for _, i := range indices {
			out.Items = append(out.Items, v.Items[i])
		}
		return out, at(e.line, err)
	}
	return nil, at(e.line, fmt.Errorf("a slice of %s", typeOf(v)))
}

type callExpr struct {
	function  expression
	arguments arguments
	line      int
}

func (e *callExpr) eval(r *renderer) (Value, error) {
	v, err := e.function.eval(r)
	if err != nil {
		return nil, err
	}
	f, ok := v.(function)
	if !ok {
		return nil, at(e.line, fmt.Errorf("%s cannot be called", typeOf(v)))
	}
	args, named, err := r.arguments(e.arguments)
	if err != nil {
		return nil, err
	}
	v, err = f(r, args, named)
	return v, at(e.line, err)
}

// arguments evaluates those of a call.
func (r *renderer) arguments(a arguments) ([]Value, map[string]Value, error) {
	args, err := r.all(a.positional)
	if err != nil {
		return nil, nil, err
	}
	values, err := r.all(a.named)
	if err != nil {
		return nil, nil, err
	}
	named := make(map[string]Value, len(values))
	for i, name := range a.names {
		named[name] = values[i]
	}
	return args, named, nil
}

type filterExpr struct {
	input     expression
	name      string
	filter    filterFunc
	arguments arguments
	line      int
}

func (e *filterExpr) eval(r *renderer) (Value, error) {
	v, err := e.input.eval(r)
	if err != nil {
		return nil, err
	}
	args, named, err := r.arguments(e.arguments)
	if err != nil {
		return nil, err
	}
	v, err = e.filter(r, v, call{args, named})
	if err != nil {
		err = fmt.Errorf("%s: %w", e.name, err)
	}
	return v, at(e.line, err)
}

type testExpr struct {
	input     expression
	name      string
	test      testFunc
	arguments arguments
	negated   bool
	line      int
}

func (e *testExpr) eval(r *renderer) (Value, error) {
	v, err := e.input.eval(r)
	if err != nil {
		return nil, err
	}
	args, _, err := r.arguments(e.arguments)
	if err != nil {
		return nil, err
	}
	ok, err := e.test(v, args)
	return ok != e.negated, at(e.line, err)
}
