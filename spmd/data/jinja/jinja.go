// Package jinja renders chat templates: the part of the Jinja language that chat_template of a Hugging Face tokenizer uses, as
// Transformers renders it with jinja2 (trim_blocks, lstrip_blocks, loop controls, its tojson, and the {% generation %} tag),
// to the same bytes.
//
// It knows what a template engine for web pages need not: which parts of the text lie between {% generation %} and
// {% endgeneration %}, and which were written while a loop was at which message. Values keep the order of their JSON, as
// Python's do. Statements that read other files (include, import, extends) are refused, as are loops and texts without end.
package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// A Template is a parsed template. It is safe for concurrent use.
type Template struct {
	*environment
	body []node
}

// A Span is a part of a text, bytes [Start,End).
type Span struct{ Start, End int }

// An ItemSpan is what was written while a loop was at one of the tracked values.
type ItemSpan struct {
	Item int // its index among them
	Span
}

// A Result is a rendered text.
type Result struct {
	Text string
	// Generated are the parts inside of {% generation %}, in order.
	Generated []Span
	// Items are the parts, none of them empty, that loops over the tracked values wrote, in order.
	Items []ItemSpan
}

// Limits of what a template may do; no real one comes near.
const (
	maxSource = 1 << 20
	maxDepth  = 100
	maxSteps  = 1_000_000
	maxOutput = 256 << 20
	maxRange  = 100_000 // as in jinja2's sandbox
	maxItems  = 1 << 20 // of a list made of two
)

// Parse parses a template. Errors name the line.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("the template has %d bytes, more than %d", len(source), maxSource)
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	e := newEnvironment()
	p := &parser{environment: e, tokens: tokens}
	body, err := p.statements()
	if err == nil && !p.at(tokenEnd, "") {
		err = p.unexpected("the end of the template")
	}
	if err != nil {
		return nil, err
	}
	return &Template{e, body}, nil
}

// Render renders the template with the given variables. tracked are the values, most often the messages, whose parts of the text
// the result tells. A template that calls raise_exception gives a *RaisedError.
func (t *Template) Render(variables map[string]Value, tracked []*Dict) (Result, error) {
	r := &renderer{environment: t.environment, out: &strings.Builder{}, scope: &scope{values: map[string]Value{}}, tracked: map[*Dict]int{}, tracking: -1}
	for name, value := range variables {
		r.scope.values[name] = value
	}
	for i, d := range tracked {
		r.tracked[d] = i
	}
	err := r.run(t.body)
	switch {
	case errors.Is(err, errBreak), errors.Is(err, errContinue):
		err = errors.New("break or continue outside of a loop")
	}
	return Result{r.out.String(), r.generated, r.items}, err
}

// A RaisedError is what a template says about its input with raise_exception.
type RaisedError struct{ Message string }

func (e *RaisedError) Error() string { return "the chat template refuses it: " + e.Message }
