package jinja

import (
	"slices"
	"strconv"
)

// tuple reads an expression, or several with commas between them.
func (p *parser) tuple() (expression, error) { return p.tupleOf(p.expression) }

func (p *parser) tupleOf(one func() (expression, error)) (expression, error) {
	first, err := one()
	if err != nil || !p.at(tokenOperator, ",") {
		return first, err
	}
	list := &listExpr{items: []expression{first}, tuple: true}
	for p.operator(",") {
		if k := p.peek(); k.kind == tokenOutputEnd || k.kind == tokenBlockEnd || k.kind == tokenOperator && k.text == ")" {
			break
		}
		item, err := one()
		if err != nil {
			return nil, err
		}
		list.items = append(list.items, item)
	}
	return list, nil
}

// expression reads `a if b else c`, or what binds closer.
func (p *parser) expression() (expression, error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	e, err := p.or()
	for err == nil && p.word("if") {
		c := &conditionalExpr{then: e}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.word("else") {
			if c.otherwise, err = p.expression(); err != nil {
				return nil, err
			}
		}
		e = c
	}
	return e, err
}

// binary reads operands of one level with the operators between them.
func (p *parser) binary(operand func() (expression, error), kind tokenKind, operators ...string) (expression, error) {
	e, err := operand()
	for err == nil {
		t := p.peek()
		if t.kind != kind || !slices.Contains(operators, t.text) {
			return e, nil
		}
		p.i++
		var right expression
		if right, err = operand(); err == nil {
			e = &binaryExpr{t.text, e, right, t.line}
		}
	}
	return nil, err
}

func (p *parser) or() (expression, error)  { return p.binary(p.and, tokenName, "or") }
func (p *parser) and() (expression, error) { return p.binary(p.not, tokenName, "and") }

func (p *parser) not() (expression, error) {
	if !p.word("not") {
		return p.compare()
	}
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	e, err := p.not()
	return &notExpr{e}, err
}

// compare reads comparisons, which may follow each other as in `1 < x < 3`.
func (p *parser) compare() (expression, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	var c *compareExpr
	for {
		t := p.peek()
		op := ""
		switch {
		case t.kind == tokenOperator && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			op = t.text
			p.i++
		case p.word("in"):
			op = "in"
		case t.kind == tokenName && t.text == "not" && p.tokens[p.i+1].kind == tokenName && p.tokens[p.i+1].text == "in":
			op = "not in"
			p.i += 2
		case c != nil:
			return c, nil
		default:
			return first, nil
		}
		right, err := p.sum()
		if err != nil {
			return nil, err
		}
		if c == nil {
			c = &compareExpr{first: first, line: t.line}
		}
		c.operators, c.operands = append(c.operators, op), append(c.operands, right)
	}
}

func (p *parser) sum() (expression, error)    { return p.binary(p.concat, tokenOperator, "+", "-") }
func (p *parser) concat() (expression, error) { return p.binary(p.product, tokenOperator, "~") }
func (p *parser) product() (expression, error) {
	return p.binary(p.power, tokenOperator, "*", "/", "//", "%")
}
func (p *parser) power() (expression, error) {
	return p.binary(func() (expression, error) { return p.unary(true) }, tokenOperator, "**")
}

// unary reads a sign, or a primary expression with what follows it. Filters bind to all of it.
func (p *parser) unary(filters bool) (expression, error) {
	t := p.peek()
	var e expression
	var err error
	if p.operator("-") || p.operator("+") {
		if err := p.deeper(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		if e, err = p.unary(false); err == nil && t.text == "-" {
			e = &negateExpr{e, t.line}
		}
	} else {
		e, err = p.primary()
		if err == nil {
			e, err = p.postfix(e)
		}
	}
	for err == nil && filters {
		switch {
		case p.operator("|"):
			e, err = p.filter(e)
		case p.word("is"):
			e, err = p.test(e)
		case p.at(tokenOperator, "("):
			e, err = p.postfix(e)
		default:
			return e, nil
		}
	}
	return e, err
}

// primary reads a literal, a name, or an expression in brackets.
func (p *parser) primary() (expression, error) {
	t := p.peek()
	p.i++
	switch t.kind {
	case tokenName:
		switch t.text {
		case "true", "True":
			return literal{true}, nil
		case "false", "False":
			return literal{false}, nil
		case "none", "None":
			return literal{nil}, nil
		}
		return nameExpr(t.text), nil
	case tokenString:
		text := t.text
		for p.peek().kind == tokenString { // strings next to each other are one
			text += p.peek().text
			p.i++
		}
		return literal{text}, nil
	case tokenInteger:
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return nil, p.errorf("the number %s is too large", t.text)
		}
		return literal{n}, nil
	case tokenFloat:
		x, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, p.errorf("the number %s is too large", t.text)
		}
		return literal{x}, nil
	case tokenOperator:
		switch t.text {
		case "(":
			if p.operator(")") {
				return &listExpr{tuple: true}, nil
			}
			e, err := p.tuple()
			if err == nil && !p.operator(")") {
				err = p.unexpected(")")
			}
			return e, err
		case "[":
			items, err := p.items("]")
			return &listExpr{items: items}, err
		case "{":
			return p.dict()
		}
	}
	p.i--
	return nil, p.unexpected("an expression")
}

// items reads expressions with commas between them up to a closing bracket.
func (p *parser) items(closing string) ([]expression, error) {
	var items []expression
	for !p.operator(closing) {
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !p.operator(",") && !p.at(tokenOperator, closing) {
			return nil, p.unexpected(", or " + closing)
		}
	}
	return items, nil
}

func (p *parser) dict() (expression, error) {
	d := &dictExpr{line: p.peek().line}
	for !p.operator("}") {
		key, err := p.expression()
		if err != nil {
			return nil, err
		}
		if !p.operator(":") {
			return nil, p.unexpected(":")
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, key), append(d.values, value)
		if !p.operator(",") && !p.at(tokenOperator, "}") {
			return nil, p.unexpected(", or }")
		}
	}
	return d, nil
}

// postfix reads attributes, subscripts and calls.
func (p *parser) postfix(e expression) (expression, error) {
	for {
		line := p.peek().line
		switch {
		case p.operator("."):
			t := p.peek()
			if t.kind != tokenName && t.kind != tokenInteger {
				return nil, p.unexpected("the name of an attribute")
			}
			p.i++
			if t.kind == tokenInteger {
				n, err := strconv.ParseInt(t.text, 10, 64)
				if err != nil {
					return nil, p.errorf("the index %s is too large", t.text)
				}
				e = &indexExpr{e, literal{n}, line}
			} else {
				e = &attributeExpr{e, t.text, line}
			}
		case p.operator("["):
			index, err := p.subscript(e, line)
			if err != nil {
				return nil, err
			}
			e = index
		case p.operator("("):
			c := &callExpr{function: e, line: line}
			if err := p.arguments(&c.arguments); err != nil {
				return nil, err
			}
			e = c
		default:
			return e, nil
		}
	}
}

// subscript reads an index or a slice.
func (p *parser) subscript(e expression, line int) (expression, error) {
	var parts [3]expression
	colons := 0
	for !p.operator("]") {
		if p.operator(":") {
			if colons++; colons > 2 {
				return nil, p.unexpected("]")
			}
			continue
		}
		if parts[colons] != nil {
			return nil, p.unexpected("]")
		}
		part, err := p.expression()
		if err != nil {
			return nil, err
		}
		parts[colons] = part
	}
	if colons > 0 {
		return &sliceExpr{e, parts, line}, nil
	}
	if parts[0] == nil {
		return nil, p.unexpected("an index")
	}
	return &indexExpr{e, parts[0], line}, nil
}

// arguments are those of a call, a filter or a test.
type arguments struct {
	positional []expression
	names      []string
	named      []expression
}

// arguments reads up to the closing bracket.
func (p *parser) arguments(a *arguments) error {
	for !p.operator(")") {
		if next := p.tokens[p.i+1]; p.at(tokenName, "") && next.kind == tokenOperator && next.text == "=" {
			a.names = append(a.names, p.peek().text)
			p.i += 2
			e, err := p.expression()
			if err != nil {
				return err
			}
			a.named = append(a.named, e)
		} else {
			e, err := p.expression()
			if err != nil {
				return err
			}
			a.positional = append(a.positional, e)
		}
		if !p.operator(",") && !p.at(tokenOperator, ")") {
			return p.unexpected(", or )")
		}
	}
	return nil
}

// filter reads the name of a filter and its arguments.
func (p *parser) filter(e expression) (expression, error) {
	t, err := p.expect(tokenName, "", "the name of a filter")
	if err != nil {
		return nil, err
	}
	f := &filterExpr{input: e, name: t.text, line: t.line}
	if f.filter = p.filters[t.text]; f.filter == nil {
		p.i--
		return nil, p.errorf("the filter %q is not known", t.text)
	}
	if p.operator("(") {
		err = p.arguments(&f.arguments)
	}
	return f, err
}

// test reads the name of a test and its argument.
func (p *parser) test(e expression) (expression, error) {
	negated := p.word("not")
	t := p.peek()
	if t.kind != tokenName && !(t.kind == tokenOperator && p.tests[t.text] != nil) {
		return nil, p.unexpected("the name of a test")
	}
	p.i++
	n := &testExpr{input: e, name: t.text, negated: negated, line: t.line}
	if n.test = p.tests[t.text]; n.test == nil {
		p.i--
		return nil, p.errorf("the test %q is not known", t.text)
	}
	switch next := p.peek(); {
	case p.operator("("):
		return n, p.arguments(&n.arguments)
	case next.kind == tokenString, next.kind == tokenInteger, next.kind == tokenFloat, p.at(tokenOperator, "["), p.at(tokenOperator, "{"),
		next.kind == tokenName && !slices.Contains([]string{"else", "or", "and", "is", "if", "in", "not"}, next.text):
		argument, err := p.primary()
		if err == nil {
			argument, err = p.postfix(argument)
		}
		if err != nil {
			return nil, err
		}
		n.arguments.positional = []expression{argument}
	}
	return n, nil
}
