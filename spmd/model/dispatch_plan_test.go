package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestDispatchPlan sends rows as the plans of all ranks say, and compares what each rank gets with the rows for its experts.
func TestDispatchPlan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		ranks, held, limit := 1+random.IntN(5), 1+random.IntN(4), 1+random.IntN(40)
		width := ranks*held + 1
		offsets := make([]int32, ranks*width)
		for i := range offsets {
			if i%width > 0 {
				offsets[i] = offsets[i-1] + int32(max(0, random.IntN(12)-4))
			}
		}
		plans := make([]*dispatchPlan, ranks)
		for me := range plans {
			plans[me] = newDispatchPlan(ranks, me, held, limit, 8)
			for _, all := range [][]int32{make([]int32, len(offsets)), offsets} { // memory of an earlier plan is used again
				copy(plans[me].offsets, all)
				plans[me].plan()
			}
		}
		got := make([][]string, ranks) // by rank: rows by the number of their expert, their rank and their number there
		for round := range plans[0].rounds {
			if err := makeRound(plans, round, got); err != nil {
				t.Fatalf("%d ranks with %d experts, limit %d, offsets %v: round %d: %v", ranks, held, limit, offsets, round, err)
			}
		}
		for to, rows := range got {
			var want []string
			for from := range ranks {
				for e := to * held; e < (to+1)*held; e++ {
					for row := offsets[from*width+e]; row < offsets[from*width+e+1]; row++ {
						want = append(want, fmt.Sprintf("%d: %d/%d", e-to*held, from, row))
					}
				}
			}
			if !slices.Equal(rows, want) {
				t.Fatalf("%d ranks with %d experts, limit %d, offsets %v: rank %d got %v, want %v", ranks, held, limit, offsets, to, rows, want)
			}
		}
	}
}

// makeRound makes one round and appends what each rank receives.
func makeRound(plans []*dispatchPlan, round int, got [][]string) error {
	for to, p := range plans {
		if len(p.rounds) != len(plans[0].rounds) {
			return fmt.Errorf("rank %d plans %d rounds, rank 0 %d", to, len(p.rounds), len(plans[0].rounds))
		}
		r := p.rounds[round]
		if r.received > p.limit {
			return fmt.Errorf("rank %d receives %d rows", to, r.received)
		}
		n := 0
		for from, q := range plans {
			out := q.rounds[round]
			if out.rowsOut[to] != r.rowsIn[from] || out.weightsOut[to]*2 != r.rowsIn[from] || r.weightsIn[from]*2 != r.rowsIn[from] {
				return fmt.Errorf("rank %d sends %d bytes to rank %d, which expects %d", from, out.rowsOut[to], to, r.rowsIn[from])
			}
			sent := sentRows(q, round, to)
			for e, rows := range r.runs[from*p.held : (from+1)*p.held] {
				for _, row := range sent[:rows] {
					got[to] = append(got[to], fmt.Sprintf("%d: %d/%d", e, from, row))
				}
				sent, n = sent[rows:], n+int(rows)
			}
			if len(sent) > 0 {
				return fmt.Errorf("rank %d expects %d rows less than rank %d sends", to, len(sent), from)
			}
		}
		if n != r.received {
			return fmt.Errorf("rank %d receives %d rows in runs of %d", to, r.received, n)
		}
	}
	return nil
}

// sentRows returns which of its rows, as SortByExpert numbers them, a rank sends to another in a round: those that lie where the
// part for that rank does once they are sorted by round.
func sentRows(p *dispatchPlan, round, to int) (rows []int) {
	r := p.rounds[round]
	at := r.start
	for _, bytes := range r.weightsOut[:to] {
		at += bytes / weightBytes
	}
	all := int(p.offsets[(p.me+1)*(p.ranks*p.held+1)-1])
	for row := range all {
		place := row
		for i := len(p.first) - 1; i >= 0; i-- {
			if int(p.first[i]) <= row {
				place += int(p.shift[i])
				break
			}
		}
		if place >= at && place < at+r.weightsOut[to]/weightBytes {
			rows = append(rows, row)
		}
	}
	return rows
}
