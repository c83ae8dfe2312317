package jinja

import (
	"fmt"
	"slices"
	"strconv"
)

// A node is a statement, or text.
type node interface{ run(r *renderer) error }

// An expression has a value.
type expression interface {
	eval(r *renderer) (Value, error)
}

// A parser is recursive descent over the tokens, by jinja2's grammar.
type parser struct {
	*environment
	tokens []token
	i      int
	depth  int
}

func (p *parser) peek() token { return p.tokens[p.i] }

func (p *parser) at(kind tokenKind, text string) bool {
	t := p.peek()
	return t.kind == kind && (text == "" || t.text == text)
}

// accept passes over a token if it is the given one.
func (p *parser) accept(kind tokenKind, text string) bool {
	if p.at(kind, text) {
		p.i++
		return true
	}
	return false
}

func (p *parser) expect(kind tokenKind, text, what string) (token, error) {
	if t := p.peek(); p.accept(kind, text) {
		return t, nil
	}
	return token{}, p.unexpected(what)
}

func (p *parser) operator(text string) bool { return p.accept(tokenOperator, text) }
func (p *parser) word(text string) bool     { return p.accept(tokenName, text) }

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d of the template: "+format, append([]any{p.peek().line}, args...)...)
}

func (p *parser) unexpected(want string) error {
	names := map[tokenKind]string{tokenEnd: "the end", tokenText: "text", tokenOutput: "{{", tokenOutputEnd: "}}", tokenBlock: "{%", tokenBlockEnd: "%}"}
	got, ok := names[p.peek().kind]
	if !ok {
		got = strconv.Quote(p.peek().text)
	}
	return p.errorf("%s instead of %s", got, want)
}

// deeper counts the nesting of what is being parsed.
func (p *parser) deeper() error {
	if p.depth++; p.depth > maxDepth {
		return p.errorf("nested more than %d deep", maxDepth)
	}
	return nil
}

// statements reads text and tags up to a tag that begins with one of the names in ends, or to the end of the template. That tag is
// left at its name.
func (p *parser) statements(ends ...string) ([]node, error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var body []node
	for {
		switch t := p.peek(); t.kind {
		case tokenText:
			p.i++
			body = append(body, textNode(t.text))
		case tokenOutput:
			p.i++
			e, err := p.tuple()
			if err != nil {
				return nil, err
			}
			if _, err := p.expect(tokenOutputEnd, "", "}}"); err != nil {
				return nil, err
			}
			body = append(body, &outputNode{e, t.line})
		case tokenBlock:
			p.i++
			if p.peek().kind == tokenName && slices.Contains(ends, p.peek().text) {
				return body, nil
			}
			n, err := p.statement()
			if err != nil {
				return nil, err
			}
			body = append(body, n)
		case tokenEnd:
			if len(ends) > 0 {
				return nil, p.unexpected("{% " + ends[len(ends)-1] + " %}")
			}
			return body, nil
		default:
			return nil, p.unexpected("text or a tag")
		}
	}
}

// end reads the rest of a tag.
func (p *parser) end() error {
	_, err := p.expect(tokenBlockEnd, "", "%}")
	return err
}

// closing reads the name of a closing tag and its end.
func (p *parser) closing(name string) error {
	if _, err := p.expect(tokenName, name, name); err != nil {
		return err
	}
	return p.end()
}

// block reads the rest of a tag, the statements in it, and its closing tag.
func (p *parser) block(closing string) ([]node, error) {
	if err := p.end(); err != nil {
		return nil, err
	}
	body, err := p.statements(closing)
	if err != nil {
		return nil, err
	}
	return body, p.closing(closing)
}

// statement reads a tag from its name on.
func (p *parser) statement() (node, error) {
	t, err := p.expect(tokenName, "", "the name of a statement")
	if err != nil {
		return nil, err
	}
	switch t.text {
	case "if":
		return p.ifStatement()
	case "for":
		return p.forStatement(t.line)
	case "set":
		return p.setStatement(t.line)
	case "macro":
		return p.macroStatement()
	case "break":
		return loopControl{errBreak}, p.end()
	case "continue":
		return loopControl{errContinue}, p.end()
	case "generation":
		body, err := p.block("endgeneration")
		return &generationNode{body}, err
	case "filter":
		return p.filterStatement(t.line)
	}
	p.i--
	return nil, p.errorf("the statement %q is not known", t.text)
}

func (p *parser) ifStatement() (node, error) {
	n := &ifNode{}
	for {
		test, err := p.tuple()
		if err != nil {
			return nil, err
		}
		if err := p.end(); err != nil {
			return nil, err
		}
		body, err := p.statements("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		n.tests, n.bodies = append(n.tests, test), append(n.bodies, body)
		if p.word("elif") {
			continue
		}
		if p.word("else") {
			if n.otherwise, err = p.block("endif"); err != nil {
				return nil, err
			}
			return n, nil
		}
		return n, p.closing("endif")
	}
}

func (p *parser) forStatement(line int) (node, error) {
	n := &forNode{line: line}
	var err error
	if n.names, err = p.targets(); err != nil {
		return nil, err
	}
	if _, err := p.expect(tokenName, "in", "in"); err != nil {
		return nil, err
	}
	// Without a conditional expression: an if here filters the items.
	if n.items, err = p.tupleOf(p.or); err != nil {
		return nil, err
	}
	if p.word("if") {
		if n.filter, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if n.body, err = p.statements("else", "endfor"); err != nil {
		return nil, err
	}
	if p.word("else") {
		n.otherwise, err = p.block("endfor")
		return n, err
	}
	return n, p.closing("endfor")
}

// targets reads the names that a loop or an assignment sets.
func (p *parser) targets() ([]string, error) {
	closing := p.operator("(")
	var names []string
	for {
		t, err := p.expect(tokenName, "", "a name")
		if err != nil {
			return nil, err
		}
		names = append(names, t.text)
		if !p.operator(",") || !p.at(tokenName, "") {
			break
		}
	}
	if closing && !p.operator(")") {
		return nil, p.unexpected(")")
	}
	return names, nil
}

func (p *parser) setStatement(line int) (node, error) {
	n := &setNode{line: line}
	var err error
	if n.names, err = p.targets(); err != nil {
		return nil, err
	}
	if len(n.names) == 1 && p.operator(".") {
		t, err := p.expect(tokenName, "", "the name of an attribute")
		if err != nil {
			return nil, err
		}
		n.attribute = t.text
	}
	if p.operator("=") {
		if n.value, err = p.tuple(); err != nil {
			return nil, err
		}
		return n, p.end()
	}
	capture := expression(nil)
	block := &captureExpr{}
	capture = block
	for p.operator("|") {
		if capture, err = p.filter(capture); err != nil {
			return nil, err
		}
	}
	if block.body, err = p.block("endset"); err != nil {
		return nil, err
	}
	n.value = capture
	return n, nil
}

func (p *parser) filterStatement(line int) (node, error) {
	block := &captureExpr{}
	e, err := p.filter(block)
	for err == nil && p.operator("|") {
		e, err = p.filter(e)
	}
	if err != nil {
		return nil, err
	}
	block.body, err = p.block("endfilter")
	return &outputNode{e, line}, err
}

func (p *parser) macroStatement() (node, error) {
	n := &macroNode{}
	t, err := p.expect(tokenName, "", "the name of a macro")
	if err != nil {
		return nil, err
	}
	n.name = t.text
	if !p.operator("(") {
		return nil, p.unexpected("(")
	}
	for !p.operator(")") {
		t, err := p.expect(tokenName, "", "the name of an argument")
		if err != nil {
			return nil, err
		}
		var otherwise expression
		if p.operator("=") {
			if otherwise, err = p.expression(); err != nil {
				return nil, err
			}
		}
		n.arguments, n.defaults = append(n.arguments, t.text), append(n.defaults, otherwise)
		if !p.operator(",") && !p.at(tokenOperator, ")") {
			return nil, p.unexpected(", or )")
		}
	}
	n.body, err = p.block("endmacro")
	return n, err
}
