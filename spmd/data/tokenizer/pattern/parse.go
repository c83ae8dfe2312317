package pattern

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A tree is a parsed expression.
type tree struct {
	kind kind
	set  []span  // kindSet
	subs []*tree // kindSequence, kindChoice; one for kindRepeat and kindLook

	min, max  int  // kindRepeat; max -1 for no limit
	reluctant bool // kindRepeat: as few as possible first
	atomic    bool // kindRepeat: never gives back
	negative  bool // kindLook
}

type kind int

const (
	kindSet      kind = iota // one character
	kindSequence             // one after the other
	kindChoice               // the first that leads to a match
	kindRepeat               // several times
	kindLook                 // looks ahead and takes nothing
)

const (
	// maxPattern limits an expression; the longest known ones have some hundred bytes.
	maxPattern = 1 << 16
	// maxRepeat limits the numbers in {n,m}.
	maxRepeat = 1000
	// maxDepth limits groups within groups.
	maxDepth = 100
)

// A parser reads an expression from left to right.
type parser struct {
	text  string
	at    int
	fold  bool // under (?i:
	depth int
}

// parse reads a whole expression.
func parse(text string) (*tree, error) {
	p := &parser{text: text}
	if len(text) > maxPattern {
		return nil, fmt.Errorf("the expression has %d bytes, the limit is %d", len(text), maxPattern)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("the expression is not UTF-8")
	}
	t, err := p.choice()
	if err == nil && p.at < len(text) {
		err = p.errorf("a closing parenthesis without an opening one")
	}
	return t, err
}

// errorf makes an error that says where in the expression it is.
func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d of the expression %q: %s", p.at, p.text, fmt.Sprintf(format, args...))
}

// take moves past prefix if it is next.
func (p *parser) take(prefix string) bool {
	if !strings.HasPrefix(p.text[p.at:], prefix) {
		return false
	}
	p.at += len(prefix)
	return true
}

// next returns the next character and moves past it. There is one.
func (p *parser) next() rune {
	r, n := utf8.DecodeRuneInString(p.text[p.at:])
	p.at += n
	return r
}

func (p *parser) choice() (*tree, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.errorf("more than %d groups within one another", maxDepth)
	}
	defer func() { p.depth-- }()
	choice := &tree{kind: kindChoice}
	for {
		t, err := p.sequence()
		if err != nil {
			return nil, err
		}
		choice.subs = append(choice.subs, t)
		if !p.take("|") {
			break
		}
	}
	if len(choice.subs) == 1 {
		return choice.subs[0], nil
	}
	return choice, nil
}

func (p *parser) sequence() (*tree, error) {
	sequence := &tree{kind: kindSequence}
	for p.at < len(p.text) && p.text[p.at] != '|' && p.text[p.at] != ')' {
		t, err := p.atom()
		if err == nil {
			t, err = p.repeats(t)
		}
		if err != nil {
			return nil, err
		}
		sequence.subs = append(sequence.subs, t)
	}
	return sequence, nil
}

// atom reads a group, a class or a character.
func (p *parser) atom() (*tree, error) {
	switch c := p.text[p.at]; c {
	case '(':
		return p.group()
	case '[':
		spans, err := p.class()
		return &tree{kind: kindSet, set: spans}, err
	case '.':
		p.at++
		return &tree{kind: kindSet, set: complement([]span{{'\n', '\n'}})}, nil
	case '^', '$', '*', '+', '?':
		return nil, p.errorf("%q is not implemented here", c)
	case '\\':
		spans, err := p.escape()
		return p.folded(spans), err
	}
	r := p.next()
	return p.folded([]span{{r, r}}), nil
}

// folded returns a set, of both cases where they make no difference.
func (p *parser) folded(spans []span) *tree {
	if p.fold {
		spans = folded(spans)
	}
	return &tree{kind: kindSet, set: spans}
}

// group reads what is in parentheses. Captures are groups, as nothing refers to them.
func (p *parser) group() (*tree, error) {
	start, fold := p.at, p.fold
	p.at++
	var look *tree
	switch {
	case p.take("?i:"):
		p.fold = true
	case p.take("?!"):
		look = &tree{kind: kindLook, negative: true}
	case p.take("?="):
		look = &tree{kind: kindLook}
	case p.take("?:"):
	case p.take("?"):
		p.at = start
		return nil, p.errorf("a group of this kind is not implemented")
	}
	t, err := p.choice()
	p.fold = fold
	if err != nil {
		return nil, err
	}
	if !p.take(")") {
		p.at = start
		return nil, p.errorf("the group is not closed")
	}
	if look != nil {
		look.subs = []*tree{t}
		return look, nil
	}
	return t, nil
}

// repeats reads the quantifier after t, if there is one.
func (p *parser) repeats(t *tree) (*tree, error) {
	if p.at == len(p.text) {
		return t, nil
	}
	r := &tree{kind: kindRepeat, subs: []*tree{t}, max: -1}
	braces := false
	switch p.text[p.at] {
	case '?':
		r.max = 1
	case '*':
	case '+':
		r.min = 1
	case '{':
		end := strings.IndexByte(p.text[p.at:], '}')
		if end < 0 || !parseBounds(p.text[p.at+1:p.at+end], r) {
			return nil, p.errorf("the braces hold no numbers up to %d", maxRepeat)
		}
		p.at += end
		braces = true
	default:
		return t, nil
	}
	p.at++
	switch {
	case t.kind == kindLook:
		return nil, p.errorf("a lookahead that repeats is not implemented")
	case p.take("?"):
		r.reluctant = true
	case !braces && p.take("+"): // after braces Ruby's syntax takes it for another quantifier
		r.atomic = true
	}
	if p.at < len(p.text) && strings.IndexByte("?*+{", p.text[p.at]) >= 0 {
		return nil, p.errorf("a quantifier of a quantifier is not implemented")
	}
	return r, nil
}

// parseBounds reads "n", "n,", ",m" or "n,m" into r.
func parseBounds(text string, r *tree) bool {
	low, high, both := strings.Cut(text, ",")
	if low == "" && high == "" {
		return false
	}
	var err error
	if low != "" {
		if r.min, err = strconv.Atoi(low); err != nil {
			return false
		}
	}
	switch {
	case !both:
		r.max = r.min
	case high != "":
		if r.max, err = strconv.Atoi(high); err != nil || r.max < r.min {
			return false
		}
	}
	return r.min >= 0 && r.min <= maxRepeat && r.max <= maxRepeat && r.max != 0
}

// class reads a bracketed class.
func (p *parser) class() ([]span, error) {
	start := p.at
	p.at++
	negative := p.take("^")
	var spans []span
	for first := true; ; first = false {
		switch {
		case p.at == len(p.text):
			p.at = start
			return nil, p.errorf("the class is not closed")
		case p.text[p.at] == ']' && first:
			return nil, p.errorf("a class that begins with ] is not implemented; write \\]")
		case p.take("]"):
			if p.fold {
				spans = folded(spans)
			}
			if negative {
				spans = complement(spans)
			}
			return spans, nil
		case p.text[p.at] == '[', strings.HasPrefix(p.text[p.at:], "&&"):
			return nil, p.errorf("classes within classes are not implemented")
		}
		items, err := p.classItem()
		if err != nil {
			return nil, err
		}
		spans = append(spans, items...)
	}
}

// classItem reads a character, an escape or a range within a class.
func (p *parser) classItem() ([]span, error) {
	one := func() ([]span, error) {
		if p.text[p.at] == '\\' {
			return p.escape()
		}
		r := p.next()
		return []span{{r, r}}, nil
	}
	low, err := one()
	rest := p.text[p.at:]
	if err != nil || len(rest) < 2 || rest[0] != '-' || rest[1] == ']' {
		return low, err
	}
	p.at++
	if p.text[p.at] == '[' {
		return nil, p.errorf("classes within classes are not implemented")
	}
	high, err := one()
	if err != nil {
		return nil, err
	}
	if len(low) != 1 || len(high) != 1 || low[0].lo != low[0].hi || high[0].lo != high[0].hi || low[0].lo > high[0].lo {
		return nil, p.errorf("the range that ends here is none")
	}
	return []span{{low[0].lo, high[0].lo}}, nil
}

// controls are the characters that have letters of their own.
const controls = "n\nr\rt\tf\fa\ae\x1b"

// escape reads a backslash and what belongs to it.
func (p *parser) escape() ([]span, error) {
	start := p.at
	p.at++
	if p.at == len(p.text) {
		return nil, p.errorf("a backslash at the end")
	}
	r := p.next()
	switch {
	case r == 's' || r == 'S':
		return negated(tableSpans(unicode.White_Space), r == 'S'), nil
	case r == 'd' || r == 'D':
		return negated(property("Nd"), r == 'D'), nil
	case r == 'p' || r == 'P':
		return p.property(r == 'P')
	case r == 'u' && p.at+4 <= len(p.text):
		if code, err := strconv.ParseUint(p.text[p.at:p.at+4], 16, 16); err == nil && !unicode.Is(unicode.Cs, rune(code)) {
			p.at += 4
			return []span{{rune(code), rune(code)}}, nil
		}
	case r < utf8.RuneSelf && (unicode.IsPunct(r) || unicode.IsSymbol(r) || r == ' '):
		return []span{{r, r}}, nil
	default:
		if i := strings.IndexRune(controls, r); i >= 0 && i%2 == 0 {
			r = rune(controls[i+1])
			return []span{{r, r}}, nil
		}
	}
	p.at = start
	return nil, p.errorf("the escape \\%c is not implemented", r)
}

// property reads the name in \p{name} or \p{^name}.
func (p *parser) property(negative bool) ([]span, error) {
	end := strings.IndexByte(p.text[p.at:], '}')
	if end < 0 || p.text[p.at] != '{' {
		return nil, p.errorf("\\p wants a name in braces")
	}
	name := p.text[p.at+1 : p.at+end]
	if rest, ok := strings.CutPrefix(name, "^"); ok {
		name, negative = rest, !negative
	}
	spans := property(name)
	if spans == nil {
		return nil, p.errorf("the property %q is not known", name)
	}
	p.at += end + 1
	return negated(spans, negative), nil
}

// negated returns spans, or what is not in them.
func negated(spans []span, negative bool) []span {
	if negative {
		return complement(spans)
	}
	return spans
}
