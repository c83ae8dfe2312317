package pipeline

import (
	"fmt"
	"testing"
)

// sum runs the lane steps on expressions instead of numbers, all ranks and the tree over ranks included.
func sum(t *testing.T, microBatches, lanes, ranks int) (expr string, buffers int) {
	t.Helper()
	parts := make([]string, ranks)
	for r := range ranks {
		steps, n, err := Lanes(microBatches, lanes, r, ranks)
		if err != nil {
			t.Fatal(err)
		}
		buffers = max(buffers, n)
		b := make([]string, n)
		for k, s := range steps {
			mb := fmt.Sprint(r*microBatches/ranks + k)
			if s.Accumulate {
				mb = "(" + b[s.Buffer] + "+" + mb + ")"
			}
			b[s.Buffer] = mb
			for _, m := range s.Merges {
				b[m.Into] = "(" + b[m.Into] + "+" + b[m.From] + ")"
			}
		}
		parts[r] = b[0]
	}
	for len(parts) > 1 {
		var next []string
		for i := 0; i < len(parts); i += 2 {
			next = append(next, "("+parts[i]+"+"+parts[i+1]+")")
		}
		parts = next
	}
	return parts[0], buffers
}

func TestLanesSumAlikeOnAnyNumberOfRanks(t *testing.T) {
	for _, lanes := range []int{1, 2, 4, 8, 16} {
		for microBatches := 1; microBatches <= 40; microBatches++ {
			want, _ := sum(t, microBatches, lanes, 1)
			for ranks := 2; ranks <= lanes && microBatches%ranks == 0; ranks *= 2 {
				if got, _ := sum(t, microBatches, lanes, ranks); got != want {
					t.Errorf("%d micro batches, %d lanes: on %d ranks %s, on one %s", microBatches, lanes, ranks, got, want)
				}
			}
		}
	}
}

func TestLanesKnownTrees(t *testing.T) {
	for _, c := range []struct {
		microBatches, lanes, buffers int
		want                         string
	}{
		{8, 8, 4, "(((0+1)+(2+3))+((4+5)+(6+7)))"},
		{16, 8, 4, "((((0+1)+(2+3))+((4+5)+(6+7)))+(((8+9)+(10+11))+((12+13)+(14+15))))"},
		{2, 8, 2, "(0+1)"},
		{3, 8, 3, "((0+1)+2)"},         // lanes 0, 2 and 5
		{5, 4, 3, "(((0+1)+2)+(3+4))"}, // lanes 0, 0, 1, 2, 3
		{4, 1, 1, "(((0+1)+2)+3)"},
	} {
		got, buffers := sum(t, c.microBatches, c.lanes, 1)
		if got != c.want || buffers > c.buffers {
			t.Errorf("%d micro batches, %d lanes: %s in %d buffers, want %s in at most %d", c.microBatches, c.lanes, got, buffers, c.want, c.buffers)
		}
	}
}

func TestLanesRefuseWhatDoesNotDivide(t *testing.T) {
	for _, c := range [][4]int{{6, 8, 0, 4}, {6, 8, 0, 3}, {6, 6, 0, 2}} {
		if _, _, err := Lanes(c[0], c[1], c[2], c[3]); err == nil {
			t.Errorf("%v was accepted", c)
		}
	}
}
