package pipeline

import (
	"math"
	"strings"
	"testing"
)

func TestOneFOneB(t *testing.T) {
	for ranks := 1; ranks <= 8; ranks++ {
		for microBatches := 1; microBatches <= 12; microBatches++ {
			r, err := Simulate(OneFOneB(ranks, microBatches), ranks, microBatches)
			if err != nil {
				t.Fatalf("%d ranks, %d micro batches: %v", ranks, microBatches, err)
			}
			for rank, peak := range r.Peak {
				if want := min(ranks-rank, microBatches); peak != want {
					t.Errorf("%d ranks, %d micro batches: rank %d keeps %d records, want %d", ranks, microBatches, rank, peak, want)
				}
			}
			// The published bubble: (p-1)/(m+p-1), with a backward pass twice as long as a forward pass.
			if want := float64(ranks-1) / float64(microBatches+ranks-1); microBatches >= ranks && math.Abs(r.Bubble-want) > 1e-12 {
				t.Errorf("%d ranks, %d micro batches: bubble %g, want %g", ranks, microBatches, r.Bubble, want)
			}
		}
	}
}

func TestSimulateRefuses(t *testing.T) {
	f := func(kind Kind, microBatch, chunk int) Action { return Action{kind, microBatch, chunk} }
	for name, c := range map[string]struct {
		s    Schedule
		want string
	}{
		"backward before forward": {Schedule{{f(Backward, 0, 0), f(Forward, 0, 0)}}, "deadlock"},
		"ranks wait in a circle": {Schedule{
			{f(Forward, 0, 0), f(Backward, 0, 0)},
			{f(Backward, 0, 1), f(Forward, 0, 1)}}, "deadlock"},
		"weights out of order": {Schedule{{f(Forward, 0, 0), f(Forward, 1, 0), f(Backward, 1, 0), f(Backward, 0, 0)}}, "before that of 0"},
		"a pass twice":         {Schedule{{f(Forward, 0, 0), f(Forward, 0, 0)}}, "has run before"},
		"a pass missing":       {Schedule{{f(Forward, 0, 0), f(Backward, 0, 0)}}, "1 of 2"},
		"outside":              {Schedule{{f(Forward, 0, 3)}}, "outside"},
	} {
		microBatches := 2
		chunks := len(c.s)
		if name == "ranks wait in a circle" || name == "backward before forward" {
			microBatches = 1
		}
		if _, err := Simulate(c.s, chunks, microBatches); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
