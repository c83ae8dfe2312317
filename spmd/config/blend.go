package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
)

// decodeBlend stores the tables of data.blend.
func (l *loader) decodeBlend(k key, field reflect.Value, v any) {
	list, ok := v.([]any)
	if !ok {
		l.wrongType(k, v)
		return
	}
	var blend []Blend
	for i, v := range list {
		part, what := blendPart(v)
		if what != "" {
			l.problem(k.String(), fmt.Sprintf("part %d %s", i+1, what), `write [[data.blend]] with weight = 0.5 and paths = ["..."] below it`)
			return
		}
		blend = append(blend, part)
	}
	if len(blend) > 0 {
		field.Set(reflect.ValueOf(blend))
	}
}

// blendPart reads one table, or says what is wrong with it.
func blendPart(v any) (part Blend, what string) {
	table, ok := v.(map[string]any)
	if !ok {
		return part, "is " + describe(v) + ", not a table"
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		switch value := table[name].(type) {
		case int64:
			part.Weight = float64(value)
		case float64:
			part.Weight = value
		case string:
			part.Paths = []string{value}
		case []any:
			for _, path := range value {
				s, _ := path.(string)
				part.Paths = append(part.Paths, s)
			}
		}
		if name != "weight" && name != "paths" {
			return part, "has the unknown key " + tomlKey(name)
		}
	}
	switch {
	case !(part.Weight > 0) || math.IsInf(part.Weight, 0):
		return part, "needs a weight, a number more than 0"
	case len(part.Paths) == 0 || slices.Contains(part.Paths, ""):
		return part, "needs paths, a list of strings"
	}
	return part, ""
}
