package main

import (
	"fmt"
	"testing"
)

func TestCut(t *testing.T) {
	for _, test := range []struct {
		cores []int
		n     int
		want  string
	}{
		{[]int{0, 1, 2, 3}, 2, "[[0 1] [2 3]]"},
		{[]int{0, 2, 4, 6, 8}, 3, "[[0] [2 4] [6 8]]"},
		{[]int{4, 5}, 5, "[[4] [4] [4] [5] [5]]"},
		{[]int{7}, 2, "[[7] [7]]"},
	} {
		if got := fmt.Sprint(cut(test.cores, test.n)); got != test.want {
			t.Errorf("%v among %d ranks: %s, want %s", test.cores, test.n, got, test.want)
		}
	}
}
