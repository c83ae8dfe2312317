package conformance

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// routeOptions are the routers of Qwen3-MoE, DeepSeek-V2 and DeepSeek-V3, and one that takes all experts.
func routeOptions(e int) []kernels.RouteOptions {
	return []kernels.RouteOptions{
		{TopK: 3, Normalize: true, Scale: 1},
		{TopK: 2, Groups: e / 4, TopGroups: 2, Scale: 1.5},
		{Sigmoid: true, TopK: 4, Groups: e / 4, TopGroups: 2, GroupTopTwo: true, Normalize: true, Epsilon: 1e-20, Scale: 2.5},
		{Sigmoid: true, TopK: e, Scale: 1},
	}
}

func testRoute(s *suite) {
	const e, runs = 16, 5
	for _, tokens := range []int{0, 5, 1100} {
		for _, o := range routeOptions(e) {
			for _, pad := range []int{0, 3} {
				s.route(tokens, e, runs, pad, o)
			}
		}
	}
}

// route checks all of a router's operators on one choice of experts.
func (s *suite) route(tokens, e, runs, pad int, o kernels.RouteOptions) {
	s.t.Helper()
	logits, bias := s.input(layout{pad: pad}, tokens, e), s.operand(device.Float32, layout{}, func(int) float64 { return s.random() / 64 }, e)
	out := func(l layout, width int) operand { return s.output(device.Float32, l, tokens, width) }
	weights, scores, experts := out(layout{}, o.TopK), out(layout{pad: 1}, e), s.output(device.Int32, layout{}, tokens, o.TopK)
	wantWeights, wantScores, chosen := make([]float64, weights.Len()), make([]float64, scores.Len()), make([]int32, experts.Len())
	Route(wantWeights, chosen, wantScores, logits.values(), bias.values(), e, o)
	s.d.Route(s.s, weights.Tensor, experts.Tensor, scores.Tensor, logits.Tensor, bias.Tensor, o)
	s.check("Route experts", experts, numbersOf(chosen), tolerance{})
	s.check("Route scores", scores, wantScores, tolerance{relative: 12 * ulp})
	s.check("Route weights", weights, wantWeights, tolerance{relative: 30 * ulp})

	labels := make([]int32, tokens)
	for i := range labels {
		labels[i] = int32(i%9) - 3
	}
	LeaveOutPadding(chosen, labels, o.TopK)
	s.d.LeaveOutPadding(s.s, experts.Tensor, s.numbered(layout{}, labels, tokens))
	s.check("LeaveOutPadding experts", experts, numbersOf(chosen), tolerance{})

	counts, mass := s.output(device.Float64, layout{}, runs, e), s.output(device.Float64, layout{}, runs, e)
	wantCounts, wantMass := make([]float64, runs*e), make([]float64, runs*e)
	for _, accumulate := range []bool{false, true} {
		CountAssignments(wantCounts, chosen, e, accumulate)
		SumScores(wantMass, wantScores, chosen, e, accumulate)
		s.d.CountAssignments(s.s, counts.Tensor, experts.Tensor, accumulate)
		s.d.SumScores(s.s, mass.Tensor, scores.Tensor, experts.Tensor, accumulate)
	}
	s.check("CountAssignments counts", counts, wantCounts, tolerance{})
	s.check("SumScores mass", mass, wantMass, tolerance{relative: 24 * ulp})

	loss, balance, wantBalance := s.output(device.Float64, layout{}, 1), s.output(device.Float32, layout{}, runs, e), make([]float64, runs*e)
	load := s.operand(device.Float64, layout{}, func(i int) float64 { return wantCounts[i] + float64(i%3) }, runs, e)
	wantLoss := BalanceLoss(wantBalance, wantCounts, load.values(), wantMass, e, 0.25, 10)
	s.d.BalanceLoss(s.s, loss.Tensor, balance.Tensor, counts.Tensor, load.Tensor, mass.Tensor, 0.25, 10)
	s.check("BalanceLoss loss", loss, []float64{wantLoss}, tolerance{relative: 24 * ulp})
	s.check("BalanceLoss gradient", balance, wantBalance, tolerance{relative: ulp})

	dweights, dlogits, want := s.input(layout{}, tokens, o.TopK), out(layout{pad: pad}, e), make([]float64, tokens*e)
	tol := tolerance{relative: 40 * ulp, absolute: 200 * ulp}
	RouteBackward(want, dweights.values(), chosen, wantScores, nil, e, o)
	s.d.RouteBackward(s.s, dlogits.Tensor, dweights.Tensor, experts.Tensor, scores.Tensor, kernels.Tensor{}, o)
	s.check("RouteBackward dlogits", dlogits, want, tol)
	RouteBackward(want, dweights.values(), chosen, wantScores, wantBalance, e, o)
	s.d.RouteBackward(s.s, dlogits.Tensor, dweights.Tensor, experts.Tensor, scores.Tensor, balance.Tensor, o)
	s.check("RouteBackward dlogits with a balancing loss", dlogits, want, tol)
	wantLoss = RouterZLoss(want, logits.values(), chosen, e, 0.1)
	s.d.RouterZLoss(s.s, loss.Tensor, dlogits.Tensor, logits.Tensor, experts.Tensor, 0.1)
	s.check("RouterZLoss loss", loss, []float64{wantLoss}, tolerance{relative: 24 * ulp})
	s.check("RouterZLoss dlogits", dlogits, want, tol)
}

// numbersOf converts for check.
func numbersOf(values []int32) []float64 {
	x := make([]float64, len(values))
	for i, v := range values {
		x[i] = float64(v)
	}
	return x
}

func testUpdateRouteBias(s *suite) {
	for _, finite := range []float64{0, 1} {
		load, clip := []float64{5, 3, 4, 4, 0, 8}, []float64{1, 1, finite}
		bias, want := s.input(layout{}, 6), []float64(nil)
		counts := s.operand(device.Float64, layout{}, func(i int) float64 { return load[i] }, 6)
		of := s.operand(device.Float64, layout{}, func(i int) float64 { return clip[i] }, 3)
		want = bias.values()
		UpdateRouteBias(want, load, clip, 0x1p-10)
		s.d.UpdateRouteBias(s.s, bias.Tensor, counts.Tensor, of.Tensor, 0x1p-10)
		s.check("UpdateRouteBias bias", bias, want, tolerance{relative: ulp})
	}
}

// An assignment is a choice of experts with the rows that follow from it.
type assignment struct {
	experts, position, offsets []int32
	positions, firsts          operand // position and offsets as the device has them
	tokens, k, e               int
}

// assign chooses experts for tokens, some expert for no token and none for some, and checks SortByExpert.
func (s *suite) assign(tokens, k, e int) *assignment {
	s.t.Helper()
	a := &assignment{tokens: tokens, k: k, e: e, experts: make([]int32, tokens*k), position: make([]int32, tokens*k), offsets: make([]int32, e+1)}
	for i := range a.experts {
		a.experts[i] = int32((i*i + i/3) % e)
		if a.experts[i] == 2 {
			a.experts[i] = 1
		}
		if i%7 == 3 || i/k == 4 {
			a.experts[i] = -1
		}
	}
	experts := s.operand(device.Int32, layout{}, func(i int) float64 { return float64(a.experts[i]) }, tokens, k)
	a.positions, a.firsts = s.output(device.Int32, layout{}, tokens, k), s.output(device.Int32, layout{}, e+1)
	SortByExpert(a.position, a.offsets, a.experts)
	s.d.SortByExpert(s.s, a.positions.Tensor, a.firsts.Tensor, experts.Tensor)
	s.check("SortByExpert position", a.positions, numbersOf(a.position), tolerance{})
	s.check("SortByExpert offsets", a.firsts, numbersOf(a.offsets), tolerance{})
	return a
}

func assignmentShapes() [][3]int { return [][3]int{{0, 2, 5}, {1, 1, 4}, {9, 2, 5}, {301, 3, 8}} }

func testPermute(s *suite) {
	for _, n := range assignmentShapes() {
		for _, l := range layouts() {
			const width = 37
			a := s.assign(n[0], n[1], n[2])
			x, y := s.input(l, a.tokens, width), s.input(layout{pad: 2}, a.tokens*a.k+2, width)
			want := y.values()
			Permute(want, x.values(), a.position, a.k, width)
			s.d.Permute(s.s, y.Tensor, x.Tensor, a.positions.Tensor)
			s.check("Permute y", y, want, tolerance{})

			rows, sum := s.input(l, a.tokens*a.k, width), s.output(device.Float32, layout{pad: 2}, a.tokens, width)
			want = make([]float64, sum.Len())
			Unpermute(want, rows.values(), a.position, a.k, width)
			s.d.Unpermute(s.s, sum.Tensor, rows.Tensor, a.positions.Tensor)
			s.check("Unpermute y", sum, want, tolerance{absolute: 4 * ulp * float64(a.k)})
		}
	}
}

func testKeepAssignments(s *suite) {
	for _, n := range assignmentShapes() {
		tokens, k, e := n[0], n[1], n[2]
		a := s.assign(tokens, k, e)
		weights := s.operand(device.Float32, layout{}, func(i int) float64 { return float64(i * i % 11) }, tokens, k)
		experts := s.numbered(layout{}, a.experts, tokens, k)
		for _, o := range []kernels.KeepOptions{{Capacity: 3}, {Capacity: 2, ByPosition: true}, {Capacity: tokens/2 + 1}, {Capacity: tokens + 1}} {
			kept, want := s.output(device.Int32, layout{}, tokens, k), make([]int32, tokens*k)
			KeepAssignments(want, a.experts, weights.values(), o)
			s.d.KeepAssignments(s.s, kept.Tensor, experts, weights.Tensor, o)
			s.check(fmt.Sprintf("KeepAssignments kept with %+v", o), kept, numbersOf(want), tolerance{})
		}
	}
}

func testSortRuns(s *suite) {
	for _, n := range [][3]int{{1, 1, 0}, {3, 5, 0}, {1, 4, 9}, {4, 6, 11}} {
		runs, experts, most := n[0], n[1], n[2]
		counts, rows := make([]int32, runs*experts), 0
		for i := range counts {
			counts[i] = int32(i * i % (most + 1))
			rows += int(counts[i])
		}
		position, offsets := s.output(device.Int32, layout{}, rows, 1), s.output(device.Int32, layout{}, experts+1)
		wantPosition, wantOffsets := make([]int32, rows), make([]int32, experts+1)
		SortRuns(wantPosition, wantOffsets, counts)
		s.d.SortRuns(s.s, position.Tensor, offsets.Tensor, s.numbered(layout{}, counts, runs, experts))
		s.check("SortRuns position", position, numbersOf(wantPosition), tolerance{})
		s.check("SortRuns offsets", offsets, numbersOf(wantOffsets), tolerance{})
	}
}

func testShiftPositions(s *suite) {
	first, shift, want := []int32{0, 3, 3, 8, 30}, []int32{5, 100, -3, 2, 1}, make([]int32, 40)
	for i := range want {
		want[i] = int32(i*7%33) - 1
	}
	position := s.operand(device.Int32, layout{}, func(i int) float64 { return float64(want[i]) }, 10, 4)
	s.d.ShiftPositions(s.s, position.Tensor, s.numbered(layout{}, first, 5), s.numbered(layout{}, shift, 5))
	ShiftPositions(want, first, shift)
	s.check("ShiftPositions position", position, numbersOf(want), tolerance{})
}

func testExpertSwiGLU(s *suite) {
	for _, n := range assignmentShapes() {
		for _, l := range layouts() {
			const width = 37
			a := s.assign(n[0], n[1], n[2])
			r := a.tokens*a.k + 1
			x, weights, y := s.input(l, r, 2*width), s.input(layout{}, a.tokens, a.k), s.input(layout{pad: 1}, r, width)
			want := y.values()
			ExpertSwiGLU(want, x.values(), weights.values(), a.position, width)
			s.d.ExpertSwiGLU(s.s, y.Tensor, x.Tensor, weights.Tensor, a.positions.Tensor)
			s.check("ExpertSwiGLU y", y, want, tolerance{relative: 14 * ulp})

			dy, dweights := s.input(l, r, width), s.output(device.Float32, layout{}, a.tokens, a.k)
			want, wantWeights := x.values(), make([]float64, weights.Len())
			ExpertSwiGLUBackward(want, wantWeights, dy.values(), x.values(), weights.values(), a.position, width)
			s.d.ExpertSwiGLUBackward(s.s, x.Tensor, dweights.Tensor, dy.Tensor, x.Tensor, weights.Tensor, a.positions.Tensor)
			s.check("ExpertSwiGLUBackward dx in place of x", x, want, tolerance{relative: 14 * ulp, absolute: 80 * ulp})
			s.check("ExpertSwiGLUBackward dweights", dweights, wantWeights, tolerance{relative: 14 * ulp, absolute: 8 * ulp * width})
		}
	}
}

func testGroupedMatMul(s *suite) {
	for _, n := range assignmentShapes() {
		for bits := range 12 {
			o := kernels.MatMulOptions{TransA: bits/4 == 1, TransB: bits/4 == 2, Accumulate: bits&1 != 0}
			s.groupedMatMul(s.assign(n[0], n[1], n[2]), 29, 43, layout{pad: bits & 2}, o)
		}
	}
}

// groups returns operands of GroupedMatMul, and how many products add up to an element.
func (s *suite) groups(a *assignment, n, k int, l layout, o kernels.MatMulOptions) (x, b, c operand, depth int) {
	s.t.Helper()
	r := a.tokens * a.k
	x = s.input(l, r, k)
	switch {
	case o.TransA:
		return x, s.input(l, r, n), s.target(o.Accumulate, layout{}, a.e, k, n), r
	case o.TransB:
		return x, s.input(layout{}, a.e, n, k), s.target(o.Accumulate, l, r, n), k
	}
	return x, s.input(layout{}, a.e, k, n), s.target(o.Accumulate, l, r, n), k
}

func (s *suite) groupedMatMul(a *assignment, n, k int, l layout, o kernels.MatMulOptions) {
	s.t.Helper()
	x, b, c, depth := s.groups(a, n, k, l, o)
	want := c.values()
	GroupedMatMul(want, x.values(), b.values(), a.offsets, n, k, o)
	s.d.GroupedMatMul(s.s, c.Tensor, x.Tensor, b.Tensor, a.firsts.Tensor, o)
	s.check("GroupedMatMul c", c, want, tolerance{relative: 8 * ulp, absolute: ulp * float64(4*depth+4)})
}
