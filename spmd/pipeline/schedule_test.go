package pipeline

import (
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// allShapes makes TestEverySchedule go through all shapes, which takes half a minute.
var allShapes = flag.Bool("shapes", false, "simulate every schedule of up to 16 ranks")

// eachShape calls f with shapes that a schedule can have: p = 2..16 ranks and m = p..4p micro batches, or fewer.
func eachShape(name string, f func(s Shape)) {
	g := Generators()[name]
	virtual, most := []int{g.Virtual}, 5
	if *allShapes {
		most = 16
	}
	if g.Virtual == 0 {
		virtual = []int{2, 3, 4}
	}
	for p := 2; p <= most; p++ {
		for m := max(p, g.Least(p)); m <= 4*p; m++ {
			for _, v := range virtual {
				f(Shape{p, v, m})
			}
		}
	}
}

// A form is what the authors of a schedule say that it costs, in passes of a micro batch through a chunk, F = I = W = 1.
type form struct {
	idle  float64 // of each rank in a step
	peak  func(rank int) int
	holds bool // whether the shape is in the formula's domain
}

// forms are the closed forms of the schedules.
var forms = map[string]func(s Shape) form{
	// (p-1)(F+B); all micro batches are alive. Any m.
	"gpipe": func(s Shape) form {
		return form{3 * float64(s.Ranks-1), func(int) int { return s.MicroBatches }, true}
	},
	// (p-1)(F+B); p-r micro batches. m >= p.
	"1f1b": func(s Shape) form {
		return form{3 * float64(s.Ranks-1), func(r int) int { return s.Ranks - r }, s.MicroBatches >= s.Ranks}
	},
	// (p-1)(F+I-W); p micro batches. m >= p.
	"zb-h1": func(s Shape) form {
		return form{float64(s.Ranks - 1), func(int) int { return s.Ranks }, s.MicroBatches >= s.Ranks}
	},
	// (p-1)(F+B) of a chunk; p + (p-1)/v micro batches of a whole rank on the first, which is p*v + p-1 chunks', and two fewer on each
	// further rank. m a multiple of p, and at least 2p.
	"interleaved-1f1b": func(s Shape) form {
		return form{3 * float64(s.Ranks-1), func(r int) int { return s.Ranks*s.Virtual + s.Ranks - 1 - 2*r },
			s.MicroBatches%s.Ranks == 0 && s.MicroBatches >= 2*s.Ranks}
	},
	// No idle time but for the p-1 until the last rank can begin, and after the first has ended; 2p chunks' micro batches. m >= 2p-1.
	"zb-v": func(s Shape) form {
		return form{float64(s.Ranks - 1), func(int) int { return 2 * s.Ranks }, s.MicroBatches >= 2*s.Ranks-1}
	},
	// (P/2-1)(F&B + B - 3W) for the P = 2p chunks, where F&B is F + B; P+1 chunks' micro batches. m >= P, which is all that there are.
	"dualpipe-v": func(s Shape) form {
		return form{2 * float64(s.Ranks-1), func(int) int { return 2*s.Ranks + 1 }, true}
	},
}

// TestEverySchedule simulates all schedules, and so proves that they end, and compares what they cost with the formulas of their
// authors where those hold, and everywhere with the longest path through their passes.
func TestEverySchedule(t *testing.T) {
	for name, g := range Generators() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			held := 0
			eachShape(name, func(s Shape) {
				chunks := s.Ranks * s.Virtual
				schedule := g.Make(s)
				r, err := Simulate(schedule, chunks, s.MicroBatches, UnitCosts(chunks))
				if err != nil {
					t.Fatalf("%+v: %v", s, err)
				}
				if want := longestPath(schedule, UnitCosts(chunks)); r.Time != want {
					t.Errorf("%+v: the step takes %v, the longest path %v", s, r.Time, want)
				}
				work := float64(3 * s.Virtual * s.MicroBatches)
				form := forms[name](s)
				if !form.holds {
					return
				}
				held++
				if idle := r.Time - work; idle != form.idle || math.Abs(r.Bubble-form.idle/r.Time) > 1e-12 {
					t.Errorf("%+v: ranks idle for %v, the formula says %v; the bubble is %v", s, idle, form.idle, r.Bubble)
				}
				for rank, peak := range r.Peak {
					if want := form.peak(rank); peak != want {
						t.Errorf("%+v: rank %d keeps %d micro batches, the formula says %d", s, rank, peak, want)
					}
				}
			})
			if held == 0 {
				t.Error("no shape was in the formula's domain")
			}
		})
	}
}

// TestZeroBubbleVNeverPauses checks what ZB-V promises: from its first action to its last, a rank has something to do.
func TestZeroBubbleVNeverPauses(t *testing.T) {
	eachShape("zb-v", func(s Shape) {
		r, err := Simulate(zeroBubbleV(s), 2*s.Ranks, s.MicroBatches, UnitCosts(2*s.Ranks))
		if err != nil {
			t.Fatal(err)
		}
		for rank, times := range r.Times {
			if length := times[len(times)-1].To - times[0].From; s.MicroBatches >= 2*s.Ranks-1 && length != float64(6*s.MicroBatches) {
				t.Errorf("%+v: rank %d takes %v from its first action to its last", s, rank, length)
			}
		}
	})
}

// longestPath computes the length of a step another way than the simulator: it moves the start of each action behind all that it
// needs, until nothing moves any more.
func longestPath(s Schedule, c Costs) float64 {
	type node struct{ rank, index int }
	where := map[Action]node{}
	for r, list := range s {
		for i, a := range list {
			a.Overlapped = false
			where[a] = node{r, i}
		}
	}
	end := make([][]float64, len(s))
	for r := range s {
		end[r] = make([]float64, len(s[r]))
	}
	done := func(k Kind, microBatch, chunk int) float64 {
		if n, ok := where[Action{Kind: k, MicroBatch: microBatch, Chunk: chunk}]; ok {
			return end[n.rank][n.index]
		}
		return 0
	}
	chunks := s.NumChunks()
	needs := func(a Action) float64 {
		switch a.Kind {
		case Forward:
			return done(Forward, a.MicroBatch, a.Chunk-1)
		case BackwardWeight:
			return done(BackwardInput, a.MicroBatch, a.Chunk)
		}
		at := done(Forward, a.MicroBatch, a.Chunk)
		if a.Chunk < chunks-1 {
			at = max(at, done(Backward, a.MicroBatch, a.Chunk+1), done(BackwardInput, a.MicroBatch, a.Chunk+1))
		}
		return at
	}
	for moved := true; moved; {
		moved = false
		for r, list := range s {
			for i := 0; i < len(list); {
				group := list[i : i+1]
				if list[i].Overlapped {
					group = list[i : i+2]
				}
				at := 0.0
				if i > 0 {
					at = end[r][i-1]
				}
				length := 0.0
				for _, a := range group {
					at, length = max(at, needs(a)), length+c.of(a)
				}
				for range group {
					if end[r][i] < at+length {
						end[r][i], moved = at+length, true
					}
					i++
				}
			}
		}
	}
	longest := 0.0
	for r := range end {
		longest = max(longest, slices.Max(end[r]))
	}
	return longest
}

// TestUnevenCosts simulates schedules of chunks that take different times.
func TestUnevenCosts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, g := range Generators() {
		s := Shape{Ranks: 4, Virtual: max(2, g.Virtual), MicroBatches: 11}
		if g.Virtual == 1 {
			s.Virtual = 1
		}
		chunks := s.Ranks * s.Virtual
		random := func() (list []float64) {
			for range chunks {
				list = append(list, 0.1+rng.Float64())
			}
			return list
		}
		costs := Costs{random(), random(), random()}
		r, err := Simulate(g.Make(s), chunks, s.MicroBatches, costs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if want := longestPath(g.Make(s), costs); math.Abs(r.Time-want) > 1e-9 {
			t.Errorf("%s: the step takes %v, the longest path %v", name, r.Time, want)
		}
	}
}

// TestForwardPasses makes the tables of evaluations.
func TestForwardPasses(t *testing.T) {
	for name, g := range Generators() {
		s := Shape{Ranks: 4, Virtual: max(2, g.Virtual), MicroBatches: 9}
		if g.Virtual == 1 {
			s.Virtual = 1
		}
		chunks := s.Ranks * s.Virtual
		r, err := SimulateForward(g.Make(s), chunks, s.MicroBatches, UnitCosts(chunks))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if most := float64(s.Virtual*(s.MicroBatches+s.Ranks) + chunks); r.Time > most {
			t.Errorf("%s: the forward passes take %v, more than %v", name, r.Time, most)
		}
	}
}
