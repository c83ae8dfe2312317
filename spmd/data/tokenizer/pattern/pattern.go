// Package pattern matches the regular expressions of tokenizer.json files.
//
// Hugging Face's tokenizers run them with Oniguruma, in Ruby's syntax, on Unicode text: the first alternative that
// matches counts, repetitions take as much as they can and give back, and \s+(?!\S) looks at what follows. Go's regexp has
// no lookahead, so this package has its own matcher, which tries one alternative after the other. It is quick on such
// expressions because it knows which alternatives can begin with a character, and because a repetition is always of a
// set of characters.
//
// Sets, classes, Unicode properties, groups, (?i: ), lookahead and all quantifiers of sets are implemented; everything else is refused.
// Letter case is ignored by Unicode's simple folding alone.
package pattern

import (
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// A Pattern is a compiled expression. It is safe for concurrent use.
type Pattern struct {
	root *node
	// first are the alternatives of root, here one, that can begin with a character.
	first dispatch
}

// A node is a step of a match, and leads to the next; nil is the end of a match.
type node struct {
	kind kind // kindSet does not occur: it is a repetition of one
	next *node

	set       *set // kindRepeat
	min, max  int
	reluctant bool
	atomic    bool

	choices []*node // kindChoice, in order; each leads to what follows by itself
	first   dispatch

	look     *node // kindLook
	negative bool
}

// A dispatch says which of up to 64 alternatives, as bits, can begin with a character.
type dispatch struct {
	ascii [utf8.RuneSelf]uint64
	other uint64 // any other character
	empty uint64 // the end of the text, and any character
}

// maxChoices is how many alternatives a dispatch can tell apart.
const maxChoices = 64

// Compile prepares an expression. What is not implemented is an error that names it, as is an expression that matches
// the empty string: it would not split a text.
func Compile(expression string) (*Pattern, error) {
	t, err := parse(expression)
	if err != nil {
		return nil, err
	}
	root, err := compile(t, nil)
	if err != nil {
		return nil, fmt.Errorf("the expression %q: %w", expression, err)
	}
	p := &Pattern{root: root}
	p.first.add(0, root, map[*node]bool{})
	if p.first.empty != 0 {
		return nil, fmt.Errorf("the expression %q matches the empty string", expression)
	}
	return p, nil
}

// compile returns the first node of t, followed by next.
func compile(t *tree, next *node) (n *node, err error) {
	switch t.kind {
	case kindSet:
		return &node{kind: kindRepeat, set: newSet(t.set), min: 1, max: 1, next: next}, nil
	case kindSequence:
		for i := len(t.subs) - 1; i >= 0 && err == nil; i-- {
			next, err = compile(t.subs[i], next)
		}
		return next, err
	case kindChoice:
		return compileChoice(t.subs, next)
	case kindLook:
		n = &node{kind: kindLook, negative: t.negative, next: next}
		n.look, err = compile(t.subs[0], nil)
		return n, err
	}
	sub := t.subs[0]
	if sub.kind == kindSequence && len(sub.subs) == 1 {
		sub = sub.subs[0]
	}
	switch {
	case sub.kind == kindSet:
		return &node{kind: kindRepeat, set: newSet(sub.set), min: t.min, max: t.max, reluctant: t.reluctant, atomic: t.atomic, next: next}, nil
	case t.min != 0 || t.max != 1 || t.atomic:
		return nil, errors.New("a group that repeats is not implemented, other than (...)?")
	case t.reluctant:
		return compileChoice([]*tree{{kind: kindSequence}, sub}, next)
	}
	return compileChoice([]*tree{sub, {kind: kindSequence}}, next)
}

// compileChoice returns a choice among alternatives, each followed by next.
func compileChoice(alternatives []*tree, next *node) (*node, error) {
	if len(alternatives) > maxChoices {
		return nil, fmt.Errorf("more than %d alternatives", maxChoices)
	}
	n := &node{kind: kindChoice}
	for i, alternative := range alternatives {
		choice, err := compile(alternative, next)
		if err != nil {
			return nil, err
		}
		n.choices = append(n.choices, choice)
		n.first.add(i, choice, map[*node]bool{})
	}
	return n, nil
}

// add notes what alternative i can begin with: what n can, which is not in seen.
func (d *dispatch) add(i int, n *node, seen map[*node]bool) {
	bit := uint64(1) << i
	for ; !seen[n]; n = n.next {
		seen[n] = true
		switch {
		case n == nil:
			d.empty |= bit
			return
		case n.kind == kindChoice:
			for _, choice := range n.choices {
				d.add(i, choice, seen)
			}
			return
		case n.kind == kindRepeat:
			for c := range byte(utf8.RuneSelf) {
				if n.set.hasASCII(c) {
					d.ascii[c] |= bit
				}
			}
			if n.set.hasOther() {
				d.other |= bit
			}
			if n.min > 0 {
				return
			}
		}
	}
}

// at returns the alternatives that can match at text[i:].
func (d *dispatch) at(text string, i int) uint64 {
	if i == len(text) {
		return d.empty
	}
	if c := text[i]; c < utf8.RuneSelf {
		return d.ascii[c] | d.empty
	}
	return d.other | d.empty
}

// Find returns where the first match in text, not before from, begins and ends; -1, -1 if there is none. text is valid
// UTF-8. A lookahead at the end of text sees its end.
func (p *Pattern) Find(text string, from int) (begin, end int) {
	for i := from; i < len(text); {
		if p.first.at(text, i) != 0 {
			if end := p.root.match(text, i); end >= 0 {
				return i, end
			}
		}
		_, n := utf8.DecodeRuneInString(text[i:])
		i += n
	}
	return -1, -1
}

// match returns where a match of n and all that follows it ends that begins at text[i:], -1 if there is none.
func (n *node) match(text string, i int) int {
	for ; n != nil; n = n.next {
		switch n.kind {
		case kindLook:
			if (n.look.match(text, i) < 0) != n.negative {
				return -1
			}
		case kindChoice:
			for may := n.first.at(text, i); may != 0; may &= may - 1 {
				if end := n.choices[bits.TrailingZeros64(may)].match(text, i); end >= 0 {
					return end
				}
			}
			return -1
		default:
			if n.reluctant {
				return n.matchFew(text, i)
			}
			least, most := n.run(text, i)
			if most < 0 {
				return -1
			}
			if n.next != nil && !n.atomic {
				return n.giveBack(text, least, most)
			}
			i = most
		}
	}
	return i
}

// run returns where the longest repetition at text[i:] ends, and the shortest; -1 if there are too few.
func (n *node) run(text string, i int) (least, most int) {
	least = -1
	for k := 0; ; k++ {
		if k == n.min {
			least = i
		}
		if k == n.max {
			return least, i
		}
		w := n.set.width(text, i)
		if w == 0 {
			break
		}
		i += w
	}
	if least < 0 {
		return -1, -1
	}
	return least, i
}

// giveBack matches what follows a repetition that ends at most, else one character earlier, and so on until least.
func (n *node) giveBack(text string, least, most int) int {
	for i := most; ; {
		if end := n.next.match(text, i); end >= 0 || i == least {
			return end
		}
		_, w := utf8.DecodeLastRuneInString(text[:i])
		i -= w
	}
}

// matchFew matches what follows as few repetitions as possible.
func (n *node) matchFew(text string, i int) int {
	for k := 0; ; k++ {
		if k >= n.min {
			if end := n.next.match(text, i); end >= 0 {
				return end
			}
		}
		w := n.set.width(text, i)
		if w == 0 || k == n.max {
			return -1
		}
		i += w
	}
}
