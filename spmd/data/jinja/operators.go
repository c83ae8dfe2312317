package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// arithmetic applies an operator as Python does.
func arithmetic(operator string, a, b Value) (Value, error) {
	if operator == "~" {
		return text(a) + text(b), nil
	}
	switch x := a.(type) {
	case string:
		switch y := b.(type) {
		case string:
			if operator == "+" {
				return x + y, nil
			}
		case int64:
			if operator == "*" && int64(len(x))*max(y, 0) <= maxOutput && y <= maxOutput {
				return strings.Repeat(x, int(max(y, 0))), nil
			}
		}
	case *List:
		if y, ok := b.(*List); ok && operator == "+" && x.tuple == y.tuple && len(x.Items)+len(y.Items) <= maxItems {
			return &List{slices.Concat(x.Items, y.Items), x.tuple}, nil
		}
	}
	i, isInteger := a.(int64)
	j, both := b.(int64)
	if isInteger && both && operator != "/" {
		return integers(operator, i, j)
	}
	x, isNumber := number(a)
	y, both := number(b)
	if !isNumber || !both {
		return nil, fmt.Errorf("%s %s %s", typeOf(a), operator, typeOf(b))
	}
	return floats(operator, x, y)
}

func integers(operator string, a, b int64) (Value, error) {
	switch operator {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "**":
		return floats(operator, float64(a), float64(b))
	}
	if b == 0 {
		return nil, errors.New("division by zero")
	}
	quotient, rest := a/b, a%b
	if rest != 0 && (rest < 0) != (b < 0) { // Python rounds down
		quotient, rest = quotient-1, rest+b
	}
	if operator == "//" {
		return quotient, nil
	}
	return rest, nil
}

func floats(operator string, a, b float64) (Value, error) {
	switch operator {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "**":
		power := math.Pow(a, b)
		if power == math.Trunc(power) && math.Abs(power) < 1<<53 && a == math.Trunc(a) && b == math.Trunc(b) && b >= 0 {
			return int64(power), nil
		}
		return power, nil
	}
	if b == 0 {
		return nil, errors.New("division by zero")
	}
	switch operator {
	case "/":
		return a / b, nil
	case "//":
		return math.Floor(a / b), nil
	}
	return a - b*math.Floor(a/b), nil
}

func compare(operator string, a, b Value) (bool, error) {
	switch operator {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(b, a)
	case "not in":
		ok, err := contains(b, a)
		return !ok, err
	}
	order, err := ordered(a, b)
	if err != nil {
		return false, err
	}
	switch operator {
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">":
		return order > 0, nil
	}
	return order >= 0, nil
}

// ordered is below, equal to or above 0 as a is below, equal to or above b.
func ordered(a, b Value) (int, error) {
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	}
	x, isNumber := number(a)
	y, both := number(b)
	if !isNumber || !both {
		return 0, fmt.Errorf("%s and %s have no order", typeOf(a), typeOf(b))
	}
	switch {
	case x < y:
		return -1, nil
	case x > y:
		return 1, nil
	}
	return 0, nil
}

// contains is Python's `item in v`.
func contains(v, item Value) (bool, error) {
	switch v := v.(type) {
	case string:
		s, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("%s in a string", typeOf(item))
		}
		return strings.Contains(v, s), nil
	case *List:
		return slices.ContainsFunc(v.Items, func(other Value) bool { return equal(other, item) }), nil
	case *Dict:
		s, ok := item.(string)
		_, found := v.values[s]
		return ok && found, nil
	case undefined:
		return false, nil
	}
	return false, fmt.Errorf("in %s", typeOf(v))
}

// sliced returns the indices of [start:stop:step] of n elements.
func sliced(n int64, bounds [3]*int64) ([]int64, error) {
	step := int64(1)
	if bounds[2] != nil {
		step = *bounds[2]
	}
	if step == 0 {
		return nil, errors.New("the step of a slice is 0")
	}
	bound := func(b *int64, otherwise int64) int64 {
		if b == nil {
			return otherwise
		}
		i := *b
		if i < 0 {
			i += n
		}
		if step < 0 {
			return min(max(i, -1), n-1)
		}
		return min(max(i, 0), n)
	}
	var indices []int64
	if step > 0 {
		for i, stop := bound(bounds[0], 0), bound(bounds[1], n); i < stop; i += min(step, n) {
			indices = append(indices, i)
		}
		return indices, nil
	}
	for i, stop := bound(bounds[0], n-1), bound(bounds[1], -1); i > stop; i += max(step, -n) {
		indices = append(indices, i)
	}
	return indices, nil
}

// iterate returns what a loop over v goes through.
func iterate(v Value) ([]Value, error) {
	switch v := v.(type) {
	case *List:
		return v.Items, nil
	case *Dict:
		items := make([]Value, len(v.keys))
		for i, key := range v.keys {
			items[i] = key
		}
		return items, nil
	case string:
		items := make([]Value, 0, utf8.RuneCountInString(v))
		for _, c := range v {
			items = append(items, string(c))
		}
		return items, nil
	case undefined:
		return nil, nil
	}
	return nil, fmt.Errorf("%s has no elements", typeOf(v))
}
