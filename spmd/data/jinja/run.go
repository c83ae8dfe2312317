package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// errBreak and errContinue leave the statements of a loop.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

// A scope holds the names that a loop or a macro sets.
type scope struct {
	values map[string]Value
	outer  *scope
}

func (s *scope) lookup(name string) (Value, bool) {
	for ; s != nil; s = s.outer {
		if v, ok := s.values[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// A renderer is the state of one rendering.
type renderer struct {
	*environment
	out       *strings.Builder
	scope     *scope
	steps     int
	depth     int // of calls
	generated []Span
	items     []ItemSpan
	tracked   map[*Dict]int
	tracking  int // the tracked value that a loop is at, -1 for none
	captures  int // blocks whose text does not go to the output
}

// step counts what a template does.
func (r *renderer) step() error {
	if r.steps++; r.steps > maxSteps {
		return fmt.Errorf("the template does not come to an end within %d steps", maxSteps)
	}
	return nil
}

func (r *renderer) write(s string) error {
	if r.out.Len()+len(s) > maxOutput {
		return fmt.Errorf("the template writes more than %d bytes", maxOutput)
	}
	r.out.WriteString(s)
	return nil
}

func (r *renderer) run(body []node) error {
	for _, n := range body {
		if err := r.step(); err != nil {
			return err
		}
		if err := n.run(r); err != nil {
			return err
		}
	}
	return nil
}

// capture runs statements and returns what they write.
func (r *renderer) capture(body []node) (string, error) {
	outer := r.out
	r.out = &strings.Builder{}
	r.captures++
	err := r.run(body)
	s := r.out.String()
	r.captures--
	r.out = outer
	return s, err
}

// at adds a line to an error that has none yet.
func at(line int, err error) error {
	var raised *RaisedError
	var placed *placedError
	if err == nil || errors.As(err, &raised) || errors.As(err, &placed) || errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		return err
	}
	return &placedError{line, err}
}

// A placedError is an error with the line of the template in which it happened.
type placedError struct {
	line int
	err  error
}

func (e *placedError) Error() string {
	return fmt.Sprintf("line %d of the template: %v", e.line, e.err)
}
func (e *placedError) Unwrap() error { return e.err }

type textNode string

func (n textNode) run(r *renderer) error { return r.write(string(n)) }

type outputNode struct {
	value expression
	line  int
}

func (n *outputNode) run(r *renderer) error {
	v, err := n.value.eval(r)
	if err == nil {
		err = r.write(text(v))
	}
	return at(n.line, err)
}

type ifNode struct {
	tests     []expression
	bodies    [][]node
	otherwise []node
}

func (n *ifNode) run(r *renderer) error {
	for i, test := range n.tests {
		v, err := test.eval(r)
		if err != nil {
			return err
		}
		if truth(v) {
			return r.run(n.bodies[i])
		}
	}
	return r.run(n.otherwise)
}

type loopControl struct{ err error }

func (n loopControl) run(*renderer) error { return n.err }

// generationNode is text of the model's own.
type generationNode struct{ body []node }

func (n *generationNode) run(r *renderer) error {
	if r.captures > 0 {
		return errors.New("{% generation %} within a macro or a set block")
	}
	begin := r.out.Len()
	err := r.run(n.body)
	r.generated = append(r.generated, Span{begin, r.out.Len()})
	return err
}

type setNode struct {
	names     []string
	attribute string
	value     expression
	line      int
}

func (n *setNode) run(r *renderer) error {
	v, err := n.value.eval(r)
	if err != nil {
		return at(n.line, err)
	}
	if n.attribute == "" {
		return at(n.line, r.assign(n.names, v))
	}
	object, _ := r.scope.lookup(n.names[0])
	space, ok := object.(*namespace)
	if !ok {
		return at(n.line, fmt.Errorf("%s is %s, only a namespace has attributes that can be set", n.names[0], typeOf(object)))
	}
	space.values[n.attribute] = v
	return nil
}

// assign sets one name, or several from a list of as many values.
func (r *renderer) assign(names []string, v Value) error {
	if len(names) == 1 {
		r.scope.values[names[0]] = v
		return nil
	}
	items, err := iterate(v)
	if err != nil {
		return err
	}
	if len(items) != len(names) {
		return fmt.Errorf("%d values for the %d names %s", len(items), len(names), strings.Join(names, ", "))
	}
	for i, name := range names {
		r.scope.values[name] = items[i]
	}
	return nil
}

type forNode struct {
	names     []string
	items     expression
	filter    expression
	body      []node
	otherwise []node
	line      int
}

func (n *forNode) run(r *renderer) error {
	v, err := n.items.eval(r)
	if err != nil {
		return at(n.line, err)
	}
	items, err := iterate(v)
	if err != nil {
		return at(n.line, err)
	}
	outer := r.scope
	defer func() { r.scope = outer }()
	if n.filter != nil {
		if items, err = n.filtered(r, outer, items); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		return r.run(n.otherwise)
	}
	for i, item := range items {
		r.scope = &scope{values: map[string]Value{"loop": &loopState{items, i}}, outer: outer}
		if err := errors.Join(r.step(), r.assign(n.names, item)); err != nil {
			return at(n.line, err)
		}
		err := r.track(item, n.body)
		if errors.Is(err, errBreak) {
			break
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
	}
	return nil
}

// filtered returns the items that the loop's condition keeps.
func (n *forNode) filtered(r *renderer, outer *scope, items []Value) ([]Value, error) {
	var kept []Value
	for _, item := range items {
		r.scope = &scope{values: map[string]Value{}, outer: outer}
		if err := errors.Join(r.step(), r.assign(n.names, item)); err != nil {
			return nil, at(n.line, err)
		}
		v, err := n.filter.eval(r)
		if err != nil {
			return nil, at(n.line, err)
		}
		if truth(v) {
			kept = append(kept, item)
		}
	}
	return kept, nil
}

// track runs the body of a loop that is at item and notes what it writes, if item is a tracked value.
func (r *renderer) track(item Value, body []node) error {
	d, ok := item.(*Dict)
	index, tracked := r.tracked[d]
	if !ok || !tracked || r.tracking >= 0 || r.captures > 0 {
		return r.run(body)
	}
	begin := r.out.Len()
	r.tracking = index
	err := r.run(body)
	r.tracking = -1
	if end := r.out.Len(); end > begin {
		r.items = append(r.items, ItemSpan{index, Span{begin, end}})
	}
	return err
}

// A loopState is the variable loop of an iteration.
type loopState struct {
	items []Value
	i     int
}

// attribute returns what loop has by that name.
func (l *loopState) attribute(name string) Value {
	i, n := int64(l.i), int64(len(l.items))
	switch {
	case name == "index":
		return i + 1
	case name == "index0":
		return i
	case name == "revindex":
		return n - i
	case name == "revindex0":
		return n - i - 1
	case name == "first":
		return i == 0
	case name == "last":
		return i == n-1
	case name == "length":
		return n
	case name == "previtem" && i > 0:
		return l.items[i-1]
	case name == "nextitem" && i < n-1:
		return l.items[i+1]
	case name == "cycle":
		return function(func(_ *renderer, args []Value, _ map[string]Value) (Value, error) {
			if len(args) == 0 {
				return nil, errors.New("loop.cycle wants values")
			}
			return args[l.i%len(args)], nil
		})
	}
	return undefined{"loop." + name}
}

type macroNode struct {
	name      string
	arguments []string
	defaults  []expression
	body      []node
}

func (n *macroNode) run(r *renderer) error {
	home := r.scope
	r.scope.values[n.name] = function(func(r *renderer, args []Value, named map[string]Value) (Value, error) {
		return n.call(r, home, args, named)
	})
	return nil
}

// call runs the macro with the names of where it was defined in sight.
func (n *macroNode) call(r *renderer, home *scope, args []Value, named map[string]Value) (Value, error) {
	if len(args) > len(n.arguments) {
		return nil, fmt.Errorf("macro %s takes at most %d arguments, not %d", n.name, len(n.arguments), len(args))
	}
	if r.depth++; r.depth > maxDepth {
		return nil, fmt.Errorf("macros call each other more than %d deep", maxDepth)
	}
	outer := r.scope
	defer func() { r.scope, r.depth = outer, r.depth-1 }()
	inner := &scope{values: map[string]Value{}, outer: home}
	r.scope = inner
	for i, name := range n.arguments {
		value, given := named[name]
		switch {
		case i < len(args):
			value = args[i]
		case given:
		case n.defaults[i] != nil:
			var err error
			if value, err = n.defaults[i].eval(r); err != nil {
				return nil, err
			}
		default:
			value = undefined{name}
		}
		inner.values[name] = value
	}
	for name := range named {
		if _, ok := inner.values[name]; !ok {
			return nil, fmt.Errorf("macro %s has no argument %s", n.name, name)
		}
	}
	return r.capture(n.body)
}
