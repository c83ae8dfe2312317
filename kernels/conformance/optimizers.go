package conformance

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// clips are what ClipFactor may have left: no clipping, some, and a norm that is not finite.
var clips = [][]float64{{1, 1, 1}, {2, 0.5, 1}, {math.NaN(), math.NaN(), 0}}

// wide makes a Float64 operand of the given values.
func (s *suite) wide(values ...float64) operand {
	s.t.Helper()
	return s.operand(device.Float64, layout{}, func(i int) float64 { return values[i] }, len(values))
}

// squares makes an operand of values that are not negative, about a quarter of them zero.
func (s *suite) squares(scale float64, shape ...int) operand {
	s.t.Helper()
	return s.operand(device.Float32, layout{}, func(int) float64 {
		x := math.Max(0, s.random()+1)
		return float64(float32(scale * x * x))
	}, shape...)
}

// few is the tolerance of a handful of roundings of numbers below 8.
var few = tolerance{relative: 4 * ulp, absolute: 16 * ulp}

func testLerp(s *suite) {
	for _, n := range []int{1, 31, 20_011} {
		for _, weight := range []float64{1e-4, 0.3, 1} {
			y, x := s.input(layout{}, n), s.input(layout{special: true}, n)
			want := y.values()
			Lerp(want, x.values(), weight)
			s.d.Lerp(s.s, y.Tensor, x.Tensor, weight)
			s.check("Lerp y", y, want, few)
		}
	}
}

func testAddScaled(s *suite) {
	for _, shape := range [][]int{{1}, {77}, {131, 157}} {
		a, b := s.input(layout{special: true}, shape...), s.input(layout{}, shape...)
		y, want := s.output(device.Float32, layout{}, shape...), a.values()
		AddScaled(want, a.values(), b.values(), 3.4, -4.7)
		s.d.AddScaled(s.s, y.Tensor, a.Tensor, b.Tensor, 3.4, -4.7)
		s.check("AddScaled y", y, want, tolerance{relative: 4 * ulp, absolute: 32 * ulp})
		AddScaled(want, a.values(), nil, 0.7, 0)
		s.d.AddScaled(s.s, a.Tensor, a.Tensor, kernels.Tensor{}, 0.7, 0)
		s.check("AddScaled in place", a, want, few)
	}
}

func testNormalize(s *suite) {
	for _, n := range []int{3, 3*kernels.SquaredNormBlock + 17} {
		for _, eps := range []float64{1e-7, 1e9} {
			x, y := s.input(layout{}, n), s.output(device.Float32, layout{}, n)
			sums, want := make([]float64, kernels.SquaredNormBlocks(n)), make([]float64, n)
			SquaredNorm(sums, x.values())
			Normalize(want, x.values(), sums, eps)
			s.d.Normalize(s.s, y.Tensor, x.Tensor, s.wide(sums...).Tensor, eps)
			s.check("Normalize y", y, want, tolerance{relative: 4 * ulp})
		}
	}
}

func testSumSquares(s *suite) {
	for _, shape := range [][2]int{{1, 1}, {37, 1}, {5, 70}, {301, 333}} {
		for _, accumulate := range []bool{false, true} {
			x, rows, columns := s.input(layout{special: shape[0] == 5}, shape[:]...), s.output(device.Float32, layout{}, shape[0]), s.target(accumulate, layout{}, shape[1])
			wantRows, wantColumns := make([]float64, shape[0]), columns.values()
			overwrite(wantColumns, accumulate)
			SumSquares(wantRows, wantColumns, x.values())
			s.d.SumSquares(s.s, rows.Tensor, columns.Tensor, x.Tensor, accumulate)
			s.check("SumSquares rows", rows, wantRows, tolerance{relative: 2 * ulp})
			s.check("SumSquares columns", columns, wantColumns, tolerance{relative: 100 * ulp, absolute: 1e-6})
			s.d.SumSquares(s.s, rows.Tensor, kernels.Tensor{}, x.Tensor, false)
			s.check("SumSquares rows alone", rows, wantRows, tolerance{relative: 2 * ulp})
		}
	}
}

func testApplyUpdate(s *suite) {
	for _, n := range []int{1, 77, 20_011} {
		for _, clip := range clips {
			for _, decay := range []float64{1, 0.997} {
				p, u := s.input(layout{}, n), s.input(layout{}, n)
				want := p.values()
				ApplyUpdate(want, u.values(), clip, decay, 0.02*0.25)
				s.d.ApplyUpdate(s.s, p.Tensor, u.Tensor, s.wide(0.25).Tensor, s.wide(clip...).Tensor, decay, 0.02)
				s.check("ApplyUpdate p", p, want, few)
				ApplyUpdate(want, u.values(), clip, decay, 0.02)
				s.d.ApplyUpdate(s.s, p.Tensor, u.Tensor, kernels.Tensor{}, s.wide(clip...).Tensor, decay, 0.02)
				s.check("ApplyUpdate without a size", p, want, few)
			}
		}
	}
}

func testMuonMomentum(s *suite) {
	for _, o := range []kernels.MuonOptions{{Momentum: 0.95, Nesterov: true}, {Momentum: 0.95}, {Momentum: 0.2, Nesterov: true}, {}} {
		for _, clip := range clips {
			g, m := s.input(layout{}, 131, 47), s.input(layout{}, 131, 47)
			u := s.input(layout{}, 131, 47)
			wantU, wantM := u.values(), m.values()
			MuonMomentum(wantU, wantM, g.values(), clip, o)
			s.d.MuonMomentum(s.s, u.Tensor, m.Tensor, g.Tensor, s.wide(clip...).Tensor, o)
			s.check("MuonMomentum m", m, wantM, few)
			if clip[2] != 0 { // else it may be anything
				s.check("MuonMomentum u", u, wantU, few)
			}
		}
	}
}

func testAdafactorMoments(s *suite) {
	for _, clip := range clips {
		for _, eps := range []float64{1e-7, 10} {
			row, rows, column, columns := s.squares(1, 37), s.squares(50, 37), s.squares(1, 50), s.squares(37, 50)
			mean := s.wide(7)
			wantRow, wantColumn, wantMean := row.values(), column.values(), 7.0
			if clip[2] != 0 {
				wantMean = AdafactorMoments(wantRow, wantColumn, rows.values(), columns.values(), clip, 0.3, eps)
			}
			s.d.AdafactorMoments(s.s, row.Tensor, column.Tensor, mean.Tensor, rows.Tensor, columns.Tensor, s.wide(clip...).Tensor, 0.3, eps)
			s.check("AdafactorMoments row", row, wantRow, few)
			s.check("AdafactorMoments column", column, wantColumn, few)
			s.check("AdafactorMoments mean", mean, []float64{wantMean}, few)
		}
	}
	vector, sums, mean := s.squares(1, 37), s.squares(1, 37), s.wide(7)
	want := vector.values()
	wantMean := AdafactorMoments(want, nil, sums.values(), nil, clips[1], 0.7, 1e-7)
	s.d.AdafactorMoments(s.s, vector.Tensor, kernels.Tensor{}, mean.Tensor, sums.Tensor, kernels.Tensor{}, s.wide(clips[1]...).Tensor, 0.7, 1e-7)
	s.check("AdafactorMoments of a vector", vector, want, few)
	s.check("AdafactorMoments mean of a vector", mean, []float64{wantMean}, tolerance{})
}

// testAdafactorScale has rows and columns whose moments are zero, and bounds on them that all, none and some elements reach.
func testAdafactorScale(s *suite) {
	for _, eps := range []float64{1e-7, 0.5, 1e5} {
		for _, shape := range [][2]int{{1, 1}, {301, 33}} {
			g, row, column := s.input(layout{}, shape[:]...), s.squares(1, shape[0]), s.squares(1, shape[1])
			u, want := s.output(device.Float32, layout{}, shape[:]...), g.values()
			AdafactorScale(want, g.values(), row.values(), column.values(), 0.8, clips[1], eps)
			s.d.AdafactorScale(s.s, u.Tensor, g.Tensor, row.Tensor, column.Tensor, s.wide(0.8).Tensor, s.wide(clips[1]...).Tensor, eps)
			s.check("AdafactorScale u", u, want, tolerance{relative: 8 * ulp})
			s.d.AdafactorScale(s.s, g.Tensor, g.Tensor, row.Tensor, column.Tensor, s.wide(0.8).Tensor, s.wide(clips[1]...).Tensor, eps)
			s.check("AdafactorScale in place", g, want, tolerance{relative: 8 * ulp})
		}
		g, row := s.input(layout{}, 37, 1), s.squares(1, 37)
		want := g.values()
		AdafactorScale(want, g.values(), row.values(), nil, 1, clips[1], eps)
		s.d.AdafactorScale(s.s, g.Tensor, g.Tensor, row.Tensor, kernels.Tensor{}, s.wide(1).Tensor, s.wide(clips[1]...).Tensor, eps)
		s.check("AdafactorScale of a vector", g, want, tolerance{relative: 8 * ulp})
	}
}

func testAdafactorSize(s *suite) {
	for _, o := range []kernels.AdafactorOptions{{LR: 1e-2, Step: 1, MinScale: 1e-3, Threshold: 1}, {LR: 1, Step: 100, MinScale: 5, Threshold: 2}} {
		for _, updates := range [][]float64{{1, 2}, {3e4, 5e4}} {
			size, weights, n := s.output(device.Float64, layout{}, 1), []float64{40, 3}, kernels.SquaredNormBlock+9
			s.d.AdafactorSize(s.s, size.Tensor, s.wide(weights...).Tensor, s.wide(updates...).Tensor, n, o)
			s.check("AdafactorSize", size, []float64{AdafactorSize(weights, updates, n, o)}, tolerance{relative: 1e-15})
		}
	}
}

// digestUpdates covers the optimizers beside AdamW.
func (s *suite) digestUpdates(add func(name string, outputs ...operand)) {
	const r, c = 301, 133
	in := func() operand { return s.input(layout{}, r, c) }
	p, m, u, g, average := in(), in(), in(), in(), in()
	clip, sums, size := s.wide(2, 0.5, 1), s.output(device.Float64, layout{}, kernels.SquaredNormBlocks(r*c)), s.output(device.Float64, layout{}, 1)
	s.d.MuonMomentum(s.s, u.Tensor, m.Tensor, g.Tensor, clip.Tensor, kernels.MuonOptions{Momentum: 0.95, Nesterov: true})
	s.d.SquaredNorm(s.s, sums.Tensor, u.Tensor)
	s.d.Normalize(s.s, u.Tensor, u.Tensor, sums.Tensor, 1e-7)
	s.d.AddScaled(s.s, u.Tensor, u.Tensor, m.Tensor, 3.4, -4.7)
	s.d.ApplyUpdate(s.s, p.Tensor, u.Tensor, kernels.Tensor{}, clip.Tensor, 0.99, 0.02)
	s.d.Lerp(s.s, average.Tensor, p.Tensor, 0.01)
	add("Muon", m, u, p, average)
	row, column, mean, rows, columns := s.squares(1, r), s.squares(1, c), s.wide(0), s.squares(1, r), s.squares(1, c)
	s.d.SumSquares(s.s, rows.Tensor, columns.Tensor, g.Tensor, true)
	s.d.AdafactorMoments(s.s, row.Tensor, column.Tensor, mean.Tensor, rows.Tensor, columns.Tensor, clip.Tensor, 0.3, 1e-7)
	s.d.AdafactorScale(s.s, g.Tensor, g.Tensor, row.Tensor, column.Tensor, mean.Tensor, clip.Tensor, 0.1)
	s.d.SquaredNorm(s.s, sums.Tensor, g.Tensor)
	s.d.AdafactorSize(s.s, size.Tensor, sums.Tensor, sums.Tensor, r*c, kernels.AdafactorOptions{LR: 0.01, Step: 5, MinScale: 1e-3, Threshold: 1})
	s.d.ApplyUpdate(s.s, p.Tensor, g.Tensor, size.Tensor, clip.Tensor, 1, 1)
	add("Adafactor", row, column, mean, g, size, p)
}
