package jinja

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenText             // between tags
	tokenOutput           // {{
	tokenOutputEnd
	tokenBlock // {%
	tokenBlockEnd
	tokenName
	tokenString
	tokenInteger
	tokenFloat
	tokenOperator
)

type token struct {
	kind tokenKind
	text string
	line int
}

// A lexer cuts a template into tokens.
type lexer struct {
	source string
	at     int
	line   int
	tokens []token
	// trim says what is cut off the beginning of the next text: nothing, a line break, or all white space.
	trim trim
}

type trim uint8

const (
	trimNothing trim = iota
	trimLine
	trimAll
)

func lex(source string) ([]token, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	l := &lexer{source: strings.TrimSuffix(source, "\n"), line: 1}
	for l.at < len(l.source) {
		if err := l.text(); err != nil {
			return nil, err
		}
	}
	l.add(tokenEnd, "")
	return l.tokens, nil
}

func (l *lexer) add(kind tokenKind, text string) {
	l.tokens = append(l.tokens, token{kind, text, l.line})
}

func (l *lexer) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d of the template: "+format, append([]any{l.line}, args...)...)
}

// text reads the text up to the next tag, and the tag.
func (l *lexer) text() error {
	rest := l.source[l.at:]
	end := nextTag(rest)
	text := rest[:end]
	tag := rest[end:min(end+2, len(rest))]
	mark := byte(0)
	if end+2 < len(rest) {
		mark = rest[end+2]
	}
	lines := strings.Count(text, "\n")
	switch l.trim {
	case trimLine:
		text = strings.TrimPrefix(text, "\n")
	case trimAll:
		text = strings.TrimLeft(text, whiteSpace)
	}
	l.trim = trimNothing
	switch {
	case tag == "":
	case mark == '-':
		text = strings.TrimRight(text, whiteSpace)
	case mark != '+' && tag != "{{":
		text = l.stripLine(text, end)
	}
	if text != "" {
		l.add(tokenText, text)
	}
	l.line += lines
	l.at += end
	if tag == "" {
		return nil
	}
	l.at += 2
	if mark == '-' || mark == '+' {
		l.at++
	}
	switch tag {
	case "{#":
		return l.comment()
	case "{{":
		l.add(tokenOutput, "")
		return l.expression("}}", tokenOutputEnd)
	}
	if raw := strings.TrimLeft(l.source[l.at:], whiteSpace); strings.HasPrefix(raw, "raw") {
		if end := strings.TrimLeft(raw[3:], whiteSpace); strings.HasPrefix(end, "%}") || strings.HasPrefix(end, "-%}") {
			return l.raw()
		}
	}
	l.add(tokenBlock, "")
	return l.expression("%}", tokenBlockEnd)
}

const whiteSpace = " \t\n\r\f\v"

// nextTag returns where the next tag begins, or the length of the text.
func nextTag(s string) int {
	for i := 0; ; i++ {
		k := strings.IndexByte(s[i:], '{')
		if k < 0 || i+k+1 == len(s) {
			return len(s)
		}
		if i += k; strings.IndexByte("{%#", s[i+1]) >= 0 {
			return i
		}
	}
}

// stripLine cuts off spaces before a tag that begins a line.
func (l *lexer) stripLine(text string, end int) string {
	line := strings.LastIndexByte(l.source[:l.at+end], '\n') + 1
	if strings.Trim(l.source[line:l.at+end], " \t\f\v") != "" {
		return text
	}
	return strings.TrimRight(text, " \t\f\v")
}

// comment passes over a comment.
func (l *lexer) comment() error {
	end := strings.Index(l.source[l.at:], "#}")
	if end < 0 {
		return l.errorf("a comment does not end")
	}
	comment := l.source[l.at : l.at+end]
	l.line += strings.Count(comment, "\n")
	l.at += end + 2
	l.trim = trimLine
	if strings.HasSuffix(comment, "-") {
		l.trim = trimAll
	}
	return nil
}

// raw reads {% raw %} up to its end as text.
func (l *lexer) raw() error {
	begin := l.at + strings.Index(l.source[l.at:], "%}")
	all := l.source[begin-1] == '-'
	begin += 2
	for at := begin; ; {
		k := strings.Index(l.source[at:], "{%")
		if k < 0 {
			return l.errorf("raw does not end")
		}
		at += k
		inside := strings.TrimLeft(strings.TrimLeft(l.source[at+2:], "-+"), whiteSpace)
		if !strings.HasPrefix(inside, "endraw") {
			at += 2
			continue
		}
		text := l.source[begin:at]
		l.line += strings.Count(text, "\n")
		if all {
			text = strings.TrimLeft(text, whiteSpace)
		} else {
			text = strings.TrimPrefix(text, "\n")
		}
		if l.source[at+2] == '-' {
			text = strings.TrimRight(text, whiteSpace)
		}
		if text != "" {
			l.add(tokenText, text)
		}
		end := strings.Index(l.source[at:], "%}")
		if end < 0 {
			return l.errorf("endraw does not end")
		}
		l.trim = trimLine
		if l.source[at+end-1] == '-' {
			l.trim = trimAll
		}
		l.at = at + end + 2
		return nil
	}
}

// operators, longer ones first.
var operators = []string{"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", ";"}

// expression reads the tokens of a tag up to its end.
func (l *lexer) expression(end string, kind tokenKind) error {
	depth := 0 // of brackets, within which }} is no end
	for l.at < len(l.source) {
		rest := l.source[l.at:]
		c := rest[0]
		switch {
		case c == '\n':
			l.line++
			l.at++
		case strings.IndexByte(whiteSpace, c) >= 0:
			l.at++
		case depth == 0 && l.ends(rest, end):
			l.add(kind, "")
			return nil
		case c == '"' || c == '\'':
			if err := l.string(c); err != nil {
				return err
			}
		case '0' <= c && c <= '9':
			l.number()
		case c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf:
			n := strings.IndexFunc(rest, func(r rune) bool { return !isNameRune(r) })
			if n < 0 {
				n = len(rest)
			}
			if n == 0 {
				return l.errorf("%q is not understood", rest[:1])
			}
			l.add(tokenName, rest[:n])
			l.at += n
		default:
			op := ""
			for _, o := range operators {
				if strings.HasPrefix(rest, o) {
					op = o
					break
				}
			}
			switch op {
			case "":
				return l.errorf("%q is not understood", c)
			case "(", "[", "{":
				depth++
			case ")", "]", "}":
				depth = max(depth-1, 0)
			}
			l.add(tokenOperator, op)
			l.at += len(op)
		}
	}
	return l.errorf("a tag does not end with %s", end)
}

// ends reads the end of a tag, with its mark for white space.
func (l *lexer) ends(rest, end string) bool {
	mark := rest[0]
	if mark == '-' || mark == '+' {
		rest = rest[1:]
	}
	if !strings.HasPrefix(rest, end) {
		return false
	}
	switch {
	case mark == '-':
		l.trim = trimAll
	case mark != '+' && end == "%}":
		l.trim = trimLine
	}
	l.at = len(l.source) - len(rest) + len(end)
	return true
}

func isNameRune(r rune) bool {
	return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// string reads a string with Python's escapes.
func (l *lexer) string(quote byte) error {
	var b strings.Builder
	for i := l.at + 1; i < len(l.source); i++ {
		switch c := l.source[i]; c {
		case quote:
			l.add(tokenString, b.String())
			l.line += strings.Count(l.source[l.at:i], "\n")
			l.at = i + 1
			return nil
		case '\\':
			i++
			if i == len(l.source) {
				continue
			}
			n, err := l.escape(&b, l.source[i:])
			if err != nil {
				return err
			}
			i += n - 1
		default:
			b.WriteByte(c)
		}
	}
	return l.errorf("a string does not end")
}

// escape appends what stands behind a backslash and returns how much of it that was.
func (l *lexer) escape(b *strings.Builder, s string) (int, error) {
	simple := map[byte]string{'n': "\n", 't': "\t", 'r': "\r", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '0': "\x00", '\\': "\\", '\'': "'", '"': `"`, '\n': ""}
	if text, ok := simple[s[0]]; ok {
		b.WriteString(text)
		return 1, nil
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]
	if digits == 0 { // Python keeps the backslash
		b.WriteByte('\\')
		b.WriteByte(s[0])
		return 1, nil
	}
	var r rune
	if len(s) <= digits {
		return 0, l.errorf("the escape \\%s is cut short", s)
	}
	if _, err := fmt.Sscanf(s[1:1+digits], "%x", &r); err != nil || !utf8.ValidRune(r) {
		return 0, l.errorf("the escape \\%s is not understood", s[:1+digits])
	}
	b.WriteRune(r)
	return 1 + digits, nil
}

// number reads an integer or a number with a fraction.
func (l *lexer) number() {
	digits := func(i int) int {
		for i < len(l.source) && ('0' <= l.source[i] && l.source[i] <= '9' || l.source[i] == '_') {
			i++
		}
		return i
	}
	end, kind := digits(l.at), tokenInteger
	if end+1 < len(l.source) && l.source[end] == '.' && '0' <= l.source[end+1] && l.source[end+1] <= '9' {
		end, kind = digits(end+1), tokenFloat
	}
	if end < len(l.source) && l.source[end]|0x20 == 'e' {
		exponent := end + 1
		if exponent < len(l.source) && (l.source[exponent] == '+' || l.source[exponent] == '-') {
			exponent++
		}
		if digits(exponent) > exponent {
			end, kind = digits(exponent), tokenFloat
		}
	}
	l.add(kind, strings.ReplaceAll(l.source[l.at:end], "_", ""))
	l.at = end
}
