package pipeline

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestSimulateRefuses(t *testing.T) {
	f := func(kind Kind, microBatch, chunk int) Action {
		return Action{Kind: kind, MicroBatch: microBatch, Chunk: chunk}
	}
	for name, c := range map[string]struct {
		s            Schedule
		microBatches int
		want         string
	}{
		"backward before forward": {Schedule{{f(Backward, 0, 0), f(Forward, 0, 0)}}, 1, "deadlock"},
		"ranks wait in a circle": {Schedule{
			{f(Forward, 0, 0), f(Backward, 0, 0)},
			{f(Backward, 0, 1), f(Forward, 0, 1)}}, 1, "deadlock"},
		"weights out of order":      {Schedule{{f(Forward, 0, 0), f(Forward, 1, 0), f(Backward, 1, 0), f(Backward, 0, 0)}}, 2, "before that of 0"},
		"losses out of order":       {Schedule{{f(Forward, 1, 0), f(Forward, 0, 0), f(Backward, 0, 0), f(Backward, 1, 0)}}, 2, "before that for 0"},
		"a pass twice":              {Schedule{{f(Forward, 0, 0), f(Forward, 0, 0)}}, 2, "has run before"},
		"a pass missing":            {Schedule{{f(Forward, 0, 0), f(Backward, 0, 0)}}, 2, "1 forward and 1 backward passes of 2"},
		"a weight gradient missing": {Schedule{{f(Forward, 0, 0), f(BackwardInput, 0, 0)}}, 1, "1 forward and 0 backward passes of 1"},
		"outside":                   {Schedule{{f(Forward, 0, 3)}}, 2, "outside"},
		"a chunk on two ranks":      {Schedule{{f(Forward, 0, 0)}, {f(Backward, 0, 0)}}, 1, "on rank 0 too"},
		"a chunk on none":           {Schedule{{f(Forward, 0, 1)}}, 1, "chunk 0 is on no rank"},
		"together with nothing":     {Schedule{{Action{Forward, 0, 0, true}}}, 1, "runs together"},
	} {
		chunks := max(len(c.s), c.s.NumChunks())
		if name == "outside" || name == "a chunk on two ranks" {
			chunks = 1
		}
		if _, err := Simulate(c.s, chunks, c.microBatches, UnitCosts(chunks)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestCorruptedTables swaps, repeats, moves or leaves out an action of a sound table: either what is left is sound too, or it is refused.
func TestCorruptedTables(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for name, g := range Generators() {
		s := Shape{Ranks: 3, Virtual: max(2, g.Virtual), MicroBatches: 7}
		if g.Virtual == 1 {
			s.Virtual = 1
		}
		chunks := s.Ranks * s.Virtual
		for range 60 {
			table := g.Make(s)
			r := rng.IntN(s.Ranks)
			i, j := rng.IntN(len(table[r])), rng.IntN(len(table[r]))
			whole := true // whether the passes are still all there, once each
			switch rng.IntN(3) {
			case 0:
				table[r][i], table[r][j] = table[r][j], table[r][i]
			case 1:
				table[r][i], whole = table[r][j], i == j
			case 2:
				table[r], whole = slices.Delete(table[r], i, i+1), false
			}
			_, err := Simulate(table, chunks, s.MicroBatches, UnitCosts(chunks))
			if err != nil {
				refused++
			} else if !whole {
				t.Errorf("%s: a table of which rank %d's action %d is gone was accepted", name, r, i)
			}
		}
	}
	if refused < 200 {
		t.Errorf("only %d corrupted tables were refused", refused)
	}
}

// TestVerifyRefuses takes away what makes a program sound.
func TestVerifyRefuses(t *testing.T) {
	s := Shape{Ranks: 2, Virtual: 1, MicroBatches: 4}
	for name, corrupt := range map[string]func(p []Program){
		"an exchange is left out":       func(p []Program) { p[0].Exchanges[1] = nil },
		"a rank receives out of turn":   func(p []Program) { e := p[1].Exchanges; e[0], e[1] = e[1], e[0] },
		"an action does not wait":       func(p []Program) { p[1].Instructions[first(p[1], Forward)].Await = none },
		"an action has another buffer":  func(p []Program) { p[0].Instructions[first(p[0], Backward)].OutGradient++ },
		"a buffer is written too early": func(p []Program) { p[0].Instructions[first(p[0], Forward)+2].Out = p[0].Instructions[0].Out },
	} {
		sim := &simulation{schedule: oneFOneB(s), chunks: 2, microBatches: 4, costs: UnitCosts(2), training: true}
		r, err := simulate(sim)
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Programs {
			r.Programs[i].Buffers += 2
		}
		if err := verify(r.Programs, sim); err != nil {
			t.Fatal(err)
		}
		if corrupt(r.Programs); verify(r.Programs, sim) == nil {
			t.Errorf("%s, and the program was accepted", name)
		}
	}
}

// first returns the number of the first instruction of a kind.
func first(p Program, k Kind) int {
	return slices.IndexFunc(p.Instructions, func(x Instruction) bool { return x.Exchange == none && x.Kind == k })
}

// TestRandomTables makes legal tables at random, of chunks on any ranks, whole and split backward passes and some that run together
// with a forward pass: all can run.
func TestRandomTables(t *testing.T) {
	rng, impossible := rand.New(rand.NewPCG(5, 6)), 0 // those of which two that run together need each other
	for range 400 {
		ranks, chunks, microBatches := 1+rng.IntN(4), 1+rng.IntN(7), 1+rng.IntN(6)
		ranks = min(ranks, chunks)
		s := randomTable(rng, ranks, chunks, microBatches)
		costs := UnitCosts(chunks)
		if rng.IntN(2) == 0 {
			for c := range chunks {
				costs.Forward[c] = 1 + float64(rng.IntN(4)) // the same list stands for all passes
			}
		}
		r, err := Simulate(s, chunks, microBatches, costs)
		if err != nil {
			if strings.Contains(err.Error(), "a pass that never comes") && slices.ContainsFunc(slices.Concat(s...), func(a Action) bool { return a.Overlapped }) {
				impossible++
				continue
			}
			t.Fatalf("%v: %v", s, err)
		}
		if want := longestPath(s, costs); math.Abs(r.Time-want) > 1e-9 {
			t.Errorf("%v: the step takes %v, the longest path %v", s, r.Time, want)
		}
	}
	if impossible > 100 {
		t.Errorf("%d tables of 400 are impossible", impossible)
	}
}

// randomTable runs actions that are possible in a random order.
func randomTable(rng *rand.Rand, ranks, chunks, microBatches int) Schedule {
	s := make(Schedule, ranks)
	home := rng.Perm(chunks) // the first chunks go to a rank each, so that none has nothing to do
	for i := range home {
		if home[i] >= ranks {
			home[i] = rng.IntN(ranks)
		}
	}
	forward, input, weights := make([]int, chunks), make([]int, chunks), make([]int, chunks) // micro batches done
	whole := make([]bool, chunks)
	for c := range whole {
		whole[c] = rng.IntN(2) == 0
	}
	for left := chunks * microBatches; left > 0; {
		c := rng.IntN(chunks)
		list := &s[home[c]]
		switch rng.IntN(3) {
		case 0:
			if m := forward[c]; m < microBatches && (c == 0 || forward[c-1] > m) {
				*list = append(*list, Action{MicroBatch: m, Chunk: c})
				forward[c]++
			}
		case 1:
			m := input[c]
			if forward[c] <= m || c < chunks-1 && input[c+1] <= m {
				continue
			}
			input[c]++
			if !whole[c] {
				*list = append(*list, Action{Kind: BackwardInput, MicroBatch: m, Chunk: c})
				continue
			}
			if n := len(*list); n > 0 && (*list)[n-1].Kind == Forward && rng.IntN(2) == 0 {
				f := &(*list)[n-1]
				f.Overlapped = f.Chunk != c && f.MicroBatch > m // else the one needs the other
			}
			*list = append(*list, Action{Kind: Backward, MicroBatch: m, Chunk: c})
			weights[c]++
			left--
		case 2:
			if m := weights[c]; !whole[c] && input[c] > m {
				*list = append(*list, Action{Kind: BackwardWeight, MicroBatch: m, Chunk: c})
				weights[c]++
				left--
			}
		}
	}
	return s
}
