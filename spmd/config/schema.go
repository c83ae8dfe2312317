package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// A section is a table of the schema, a key one of its fields.
type section struct {
	name string
	keys []key
}

type key struct {
	section, name string
	// field is the index of the key's field in the structs of Config.
	field []int
	typ   reflect.Type

	// The tags that Config's comment explains.
	values, later []string
	or, other     string
	bounds        interval
	only, feature string
	required      string
}

// String returns section.key.
func (k key) String() string { return k.section + "." + k.name }

// in returns the key's field of a configuration.
func (k key) in(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(k.field) }

// schema reads the sections and keys out of Config.
func schema() []section {
	var sections []section
	config := reflect.TypeFor[Config]()
	for i := range config.NumField() {
		name := config.Field(i).Tag.Get("toml")
		if name == "-" {
			continue
		}
		s := section{name: name}
		for j := range config.Field(i).Type.NumField() {
			f := config.Field(i).Type.Field(j)
			s.keys = append(s.keys, key{
				section: name, name: f.Tag.Get("toml"), field: []int{i, j}, typ: f.Type,
				values: split(f.Tag.Get("values")), later: split(f.Tag.Get("later")),
				or: f.Tag.Get("or"), other: f.Tag.Get("other"),
				bounds: parseInterval(f.Tag.Get("range")),
				only:   f.Tag.Get("only"), feature: f.Tag.Get("feature"),
				required: f.Tag.Get("required"),
			})
		}
		sections = append(sections, s)
	}
	return sections
}

func split(tag string) []string {
	if tag == "" {
		return nil
	}
	return strings.Split(tag, ",")
}

// An interval bounds a number.
type interval struct {
	low, high         float64
	openLow, openHigh bool
}

// parseInterval reads "[1,)", "(0,1]" and the like. Text that is no interval bounds nothing.
func parseInterval(s string) interval {
	in := interval{low: math.Inf(-1), high: math.Inf(1)}
	low, high, found := strings.Cut(s, ",")
	if !found {
		return in
	}
	in.openLow, in.openHigh = low[0] == '(', strings.HasSuffix(high, ")")
	if x, err := strconv.ParseFloat(low[1:], 64); err == nil {
		in.low = x
	}
	if x, err := strconv.ParseFloat(high[:len(high)-1], 64); err == nil {
		in.high = x
	}
	return in
}

func (in interval) contains(x float64) bool {
	return (x > in.low || x == in.low && !in.openLow) && (x < in.high || x == in.high && !in.openHigh)
}

// String returns the interval in words: "from 1 to 8", "at least 0", "more than 0", "from 0 to less than 1". It is empty
// where there is no bound.
func (in interval) String() string {
	low, high := fmt.Sprintf("at least %v", number(in.low)), fmt.Sprintf("at most %v", number(in.high))
	if in.openLow {
		low = fmt.Sprintf("more than %v", number(in.low))
	}
	if in.openHigh {
		high = fmt.Sprintf("less than %v", number(in.high))
	}
	switch {
	case math.IsInf(in.low, -1) && math.IsInf(in.high, 1):
		return ""
	case math.IsInf(in.high, 1):
		return low
	case math.IsInf(in.low, -1):
		return high
	case !in.openLow && !in.openHigh:
		return fmt.Sprintf("from %s to %s", number(in.low), number(in.high))
	}
	return low + " and " + high
}

// number writes a bound without an exponent where it is whole.
func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
