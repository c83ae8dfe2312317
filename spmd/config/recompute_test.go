package config

import (
	"slices"
	"testing"
)

func TestRecomputeSelected(t *testing.T) {
	for _, test := range []struct {
		layers []string
		want   []int // nil where it is an error
	}{
		{nil, []int{0, 1, 2, 3}},
		{[]string{"2"}, []int{2}},
		{[]string{"0-1", "3"}, []int{0, 1, 3}},
		{[]string{"1 - 3", "2"}, []int{1, 2, 3}},
		{[]string{"4"}, nil}, {[]string{"2-4"}, nil}, {[]string{"3-2"}, nil}, {[]string{"-1"}, nil}, {[]string{"1-"}, nil},
		{[]string{"0", "x"}, nil}, {[]string{""}, nil}, {[]string{"99999999999999999999"}, nil},
	} {
		selected, err := Recompute{Layers: test.layers}.Selected(4)
		var got []int
		for i, s := range selected {
			if s {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%q: layers %v, %v; want %v", test.layers, got, err, test.want)
		}
	}
}
