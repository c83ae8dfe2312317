// Package shard says which part of a tensor a rank holds.
//
// Tensor and expert parallelism cut a tensor into boxes, ZeRO cuts what a rank has of it into ranges of elements, and a
// checkpoint written by one layout of ranks is read by another. All of that is one notion: a Slice is a range of the elements
// of a box of the whole tensor. Two Slices of one tensor overlap in runs of elements that lie together in both, and copying
// those runs is all that resharding is.
package shard

import (
	"fmt"
	"iter"
	"slices"
)

// A Slice is a part of a tensor: of the box that begins at From and has the given Shape, in row-major order, the elements
// [Begin, End). Its elements are numbered from 0, which is Begin.
type Slice struct {
	// Whole is the tensor's shape, as files have it.
	Whole []int
	// From is where the box begins, Shape its shape: as many numbers as Whole has.
	From, Shape []int
	// Begin and End count elements of the box.
	Begin, End int
}

// All returns the slice that is the whole tensor.
func All(whole ...int) Slice {
	return Slice{Whole: slices.Clone(whole), From: make([]int, len(whole)), Shape: slices.Clone(whole), End: product(whole)}
}

// Cut returns the part of a box with the indices [from, to) of dimension dim, counted from where the box begins. s must be a
// whole box.
func (s Slice) Cut(dim, from, to int) Slice {
	if !s.IsBox() || from < 0 || from > to || to > s.Shape[dim] {
		panic(fmt.Sprintf("shard: [%d, %d) of dimension %d is no part of %v", from, to, dim, s))
	}
	s.From, s.Shape = slices.Clone(s.From), slices.Clone(s.Shape)
	s.From[dim] += from
	s.Shape[dim] = to - from
	s.End = product(s.Shape)
	return s
}

// Range returns the elements [from, to) of s.
func (s Slice) Range(from, to int) Slice {
	if from < 0 || from > to || to > s.Len() {
		panic(fmt.Sprintf("shard: [%d, %d) is no part of %v", from, to, s))
	}
	s.Begin, s.End = s.Begin+from, s.Begin+to
	return s
}

// Along returns where the box is along dimension dim, as a slice of a vector: what belongs to each row or column of a matrix.
func (s Slice) Along(dim int) Slice {
	return All(s.Whole[dim]).Cut(0, s.From[dim], s.From[dim]+s.Shape[dim])
}

// Len returns the number of elements.
func (s Slice) Len() int { return s.End - s.Begin }

// WholeLen returns the number of elements of the whole tensor.
func (s Slice) WholeLen() int { return product(s.Whole) }

// IsBox reports whether s is all of its box.
func (s Slice) IsBox() bool { return s.Begin == 0 && s.End == product(s.Shape) }

// IsWhole reports whether s is the whole tensor.
func (s Slice) IsWhole() bool { return s.Len() == s.WholeLen() }

// Check returns an error where s, which came from outside, is impossible.
func (s Slice) Check() error {
	if len(s.From) != len(s.Whole) || len(s.Shape) != len(s.Whole) {
		return fmt.Errorf("a box at %v of shape %v does not have the dimensions of %v", s.From, s.Shape, s.Whole)
	}
	const most = 1 << 50 // elements: far beyond any tensor, far below what overflows
	elements := 1
	for i, n := range s.Whole {
		if n < 0 || n > 0 && elements > most/n {
			return fmt.Errorf("a tensor of shape %v is impossible", s.Whole)
		}
		elements *= n
		if s.From[i] < 0 || s.Shape[i] < 0 || s.From[i] > n || s.Shape[i] > n-s.From[i] {
			return fmt.Errorf("a box at %v of shape %v is not inside %v", s.From, s.Shape, s.Whole)
		}
	}
	if s.Begin < 0 || s.Begin > s.End || s.End > product(s.Shape) {
		return fmt.Errorf("elements [%d, %d) are not inside a box of shape %v", s.Begin, s.End, s.Shape)
	}
	return nil
}

// Equal reports whether s and o are described by the same numbers.
func (s Slice) Equal(o Slice) bool {
	return slices.Equal(s.Whole, o.Whole) && slices.Equal(s.From, o.From) && slices.Equal(s.Shape, o.Shape) && s.Begin == o.Begin && s.End == o.End
}

// String describes the slice, such as "[8 4] of [16 4] at [8 0]".
func (s Slice) String() string {
	text := fmt.Sprint(s.Shape)
	if !slices.Equal(s.Shape, s.Whole) {
		text = fmt.Sprintf("%v of %v at %v", s.Shape, s.Whole, s.From)
	}
	if s.IsBox() {
		return text
	}
	return fmt.Sprintf("elements [%d, %d) of %s", s.Begin, s.End, text)
}

// A Run is a stretch of elements that lie together in the slice and in the whole tensor, in row-major order.
type Run struct {
	Whole int // the first element's place in the whole tensor
	Slice int // and in the slice
	Len   int
}

// Runs lists the runs of the slice, in order: as few as there can be.
func (s Slice) Runs() iter.Seq[Run] {
	return func(yield func(Run) bool) {
		c := newCursor(s)
		for r, ok := c.next(0); ok; r, ok = c.next(0) {
			if !yield(r) {
				return
			}
		}
	}
}

// A Copy is a stretch of elements that two slices of one tensor have in common.
type Copy struct{ To, From, Len int }

// Overlap lists what the slices to and from have in common, as places in the one and the other.
func Overlap(to, from Slice) iter.Seq[Copy] {
	return func(yield func(Copy) bool) {
		a, b := newCursor(to), newCursor(from)
		x, okX := a.next(0)
		y, okY := b.next(0)
		for okX && okY {
			first, end := max(x.Whole, y.Whole), min(x.Whole+x.Len, y.Whole+y.Len)
			if first < end && !yield(Copy{x.Slice + first - x.Whole, y.Slice + first - y.Whole, end - first}) {
				return
			}
			if x.Whole+x.Len <= y.Whole+y.Len {
				x, okX = a.next(y.Whole)
			} else {
				y, okY = b.next(x.Whole)
			}
		}
	}
}

// A cursor goes through the runs of a slice.
type cursor struct {
	s     Slice
	at    int   // the next element of the box
	run   int   // elements of the box that lie together in the whole
	outer int   // the number of dimensions that count runs
	steps []int // by dimension: the distance of neighbours in the whole
}

func newCursor(s Slice) *cursor {
	c := &cursor{s: s, at: s.Begin, run: 1, outer: len(s.Whole), steps: make([]int, len(s.Whole))}
	step := 1
	for i := len(s.Whole) - 1; i >= 0; i-- {
		c.steps[i] = step
		step *= s.Whole[i]
	}
	for c.outer > 0 { // the dimensions of a run: whole ones, and the first that is not
		c.outer--
		c.run *= s.Shape[c.outer]
		if s.Shape[c.outer] != s.Whole[c.outer] {
			break
		}
	}
	return c
}

// place returns where element i of the box is in the whole.
func (c *cursor) place(i int) int {
	at := i % c.run
	for d, n := range c.s.From {
		at += n * c.steps[d]
	}
	i /= c.run
	for d := c.outer - 1; d >= 0; d-- {
		at += i % c.s.Shape[d] * c.steps[d]
		i /= c.s.Shape[d]
	}
	return at
}

// next returns the next run; it may skip runs that end before place least of the whole.
func (c *cursor) next(least int) (Run, bool) {
	if c.at >= c.s.End {
		return Run{}, false
	}
	if c.place(c.at)+c.run < least {
		// Runs are in the order of the whole: halve the distance to the first that reaches least.
		first, last := c.at/c.run, (c.s.End-1)/c.run
		for first < last {
			middle := (first + last) / 2
			if c.place(middle*c.run)+c.run > least {
				last = middle
			} else {
				first = middle + 1
			}
		}
		c.at = max(c.at, first*c.run)
	}
	r := Run{Whole: c.place(c.at), Slice: c.at - c.s.Begin, Len: min(c.run-c.at%c.run, c.s.End-c.at)}
	c.at += r.Len
	return r, true
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
