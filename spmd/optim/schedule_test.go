package optim

import (
	"math"
	"strings"
	"testing"
)

func mustSchedule(t *testing.T, o ScheduleOptions) *Schedule {
	t.Helper()
	s, err := NewSchedule(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The values were computed in Python with the formulas of ScheduleOptions, that is with the C library's cosine; the
// cosine schedule must have their bits.
func TestCosineHasTheBitsOfPython(t *testing.T) {
	s := mustSchedule(t, ScheduleOptions{Type: "cosine", LR: 1e-3, MinLR: 1e-4, Steps: 20, WarmupSteps: 5})
	for i, want := range []float64{0.0, 0.0002, 0.0004, 0.0006000000000000001, 0.0008, 0.001, 0.0009901664203302125,
		0.0009610954559391703, 0.0009140576474687263, 0.0008511087728614862, 0.0007750000000000001, 0.0006890576474687264,
		0.0005970378084704442, 0.000502962191529556, 0.0004109423525312737, 0.0003250000000000001, 0.00024889122713851394,
		0.00018594235253127368, 0.00013890454406082956, 0.00010983357966978745} {
		if got := s.LR(i); got != want {
			t.Errorf("step %d: %v, want %v", i, got, want)
		}
	}
	s = mustSchedule(t, ScheduleOptions{Type: "cosine", LR: 3e-4, MinLR: 3e-5, Steps: 1000, WarmupSteps: 10})
	for i, want := range map[int]float64{0: 0, 1: 2.9999999999999997e-05, 9: 0.00026999999999999995, 10: 0.0003,
		11: 0.00029999932027574935, 137: 0.0002891843044167214, 332: 0.00023544596650096816, 505: 0.00016499999999999997,
		506: 0.00016457160172077896, 700: 8.669231720788825e-05, 998: 3.0002718890157623e-05, 999: 3.0000679724250607e-05} {
		if got := s.LR(i); got != want {
			t.Errorf("step %d: %v, want %v", i, got, want)
		}
	}
}

func TestSchedules(t *testing.T) {
	base := ScheduleOptions{LR: 1e-3, MinLR: 1e-5, Steps: 103, WarmupSteps: 3}
	with := func(change func(o *ScheduleOptions)) ScheduleOptions {
		o := base
		change(&o)
		return o
	}
	for _, test := range []struct {
		name string
		o    ScheduleOptions
		want map[int]float64
	}{
		{"linear", with(func(o *ScheduleOptions) { o.Type = "linear" }),
			map[int]float64{0: 0, 1: 1e-3 / 3, 3: 1e-3, 4: 0.0009901, 28: 0.0007525, 77: 0.0002674, 102: 1.99e-05, 103: 1e-5}},
		{"constant", with(func(o *ScheduleOptions) { o.Type, o.MinLR = "constant", 0 }),
			map[int]float64{0: 0, 2: 2e-3 / 3, 3: 1e-3, 50: 1e-3, 103: 1e-3}},
		{"two restarts", with(func(o *ScheduleOptions) { o.Type, o.Cycles = "cosine-restarts", 2 }),
			map[int]float64{0: 0, 3: 0.001, 28: 0.000505, 42: 0.00012359594482598438, 53: 0.001, 77: 0.0005360813071670102,
				102: 1.0976769428005579e-05, 103: 1e-5}},
		{"half a wave over", with(func(o *ScheduleOptions) { o.Type, o.Cycles = "cosine-restarts", 2.5 }),
			map[int]float64{3: 0.001, 28: 0.0003155717009792806, 42: 1.1525919802101659e-05, 43: 0.001,
				53: 0.000855017856687341, 102: 0.0005438372523852832, 103: 1e-5}},
		{"squared", with(func(o *ScheduleOptions) { o.Type, o.Power = "polynomial", 2 }),
			map[int]float64{0: 0, 3: 0.001, 28: 0.000566875, 53: 0.0002575, 78: 7.1875e-05, 102: 1.0099e-05, 200: 1e-5}},
		{"wsd", with(func(o *ScheduleOptions) { o.Type, o.DecaySteps = "wsd", 20 }),
			map[int]float64{0: 0, 3: 1e-3, 50: 1e-3, 83: 1e-3, 84: 0.0009505, 93: 0.000505, 102: 5.95e-05, 103: 1e-5}},
		{"no warmup", ScheduleOptions{Type: "linear", LR: 1, Steps: 4}, map[int]float64{0: 1, 1: 0.75, 2: 0.5, 3: 0.25, 4: 0}},
		{"all warmup", ScheduleOptions{Type: "cosine", LR: 1, Steps: 4, WarmupSteps: 4}, map[int]float64{0: 0, 2: 0.5, 3: 0.75, 4: 0}},
	} {
		s := mustSchedule(t, test.o)
		for i, want := range test.want {
			if got := s.LR(i); math.Abs(got-want) > 1e-15*math.Abs(want) {
				t.Errorf("%s, step %d: %v, want %v", test.name, i, got, want)
			}
		}
	}
}

// Defaults that name another schedule must be it, bit for bit.
func TestSchedulesThatAreOthers(t *testing.T) {
	at := func(name string) *Schedule {
		o := ScheduleOptions{Type: name, LR: 7e-4, MinLR: 3e-6, Steps: 211, WarmupSteps: 11}
		if name == "wsd" {
			o.DecaySteps = 200
		}
		return mustSchedule(t, o)
	}
	for _, pair := range [][2]string{{"cosine", "cosine-restarts"}, {"linear", "polynomial"}} {
		a, b := at(pair[0]), at(pair[1])
		for i := range 220 {
			if a.LR(i) != b.LR(i) {
				t.Errorf("step %d: %s has %v, %s %v", i, pair[0], a.LR(i), pair[1], b.LR(i))
			}
		}
	}
	for i := range 220 { // the same line, by another way of rounding
		if a, b := at("linear").LR(i), at("wsd").LR(i); math.Abs(a-b) > 1e-18 {
			t.Errorf("step %d: linear has %v, wsd that only decays %v", i, a, b)
		}
	}
}

// A schedule never jumps, neither at the end of the warmup nor where it begins to fall nor at the end, and never leaves
// its bounds.
func TestSchedulesAreContinuous(t *testing.T) {
	for _, name := range ScheduleTypes() {
		o := ScheduleOptions{Type: name, LR: 1, MinLR: 0.125, Steps: 1000, WarmupSteps: 100}
		switch name {
		case "constant":
			o.MinLR = 0
		case "wsd":
			o.DecaySteps = 300
		case "polynomial":
			o.Power = 1.5
		}
		s := mustSchedule(t, o)
		for i := range 1100 {
			if d := math.Abs(s.LR(i+1) - s.LR(i)); d > 0.0101 { // 1/100 in the warmup, less after it
				t.Errorf("%s jumps by %v after step %d", name, d, i)
			}
			if lr := s.LR(i); lr > o.LR || i >= o.WarmupSteps && lr < o.MinLR {
				t.Errorf("%s: the rate of step %d is %v", name, i, lr)
			}
		}
		if s.LR(100) != 1 {
			t.Errorf("%s: the rate after the warmup is %v", name, s.LR(100))
		}
	}
}

func TestCosineIsRounded(t *testing.T) {
	for x, want := range map[float64]float64{
		0: 1, math.Pi / 2: 6.123233995736766e-17, math.Pi: -1, 1e-300: 1, 1.0471975511965976: 0.5000000000000001, 1: 0.5403023058681398,
	} {
		if got := cosine(x); got != want {
			t.Errorf("cos %v = %v, want %v", x, got, want)
		}
	}
	for i := range 2000 {
		x := math.Pi * float64(i) / 1999
		if got, want := cosine(x), math.Cos(x); math.Abs(got-want) > 2.3e-16 {
			t.Errorf("cos %v = %v, math.Cos has %v", x, got, want)
		}
	}
}

func TestNewScheduleErrors(t *testing.T) {
	good := ScheduleOptions{Type: "wsd", LR: 1e-3, MinLR: 1e-5, Steps: 100, WarmupSteps: 10, DecaySteps: 20}
	mustSchedule(t, good)
	for want, change := range map[string]func(o *ScheduleOptions){
		`schedule "cosin" is not known; use one of cosine, linear`:    func(o *ScheduleOptions) { o.Type = "cosin" },
		"learning rate -1; use a finite number":                       func(o *ScheduleOptions) { o.LR = -1 },
		"learning rate NaN":                                           func(o *ScheduleOptions) { o.LR = math.NaN() },
		"minimum learning rate 0.01; use a number from 0 to":          func(o *ScheduleOptions) { o.MinLR = 0.01 },
		"minimum learning rate NaN":                                   func(o *ScheduleOptions) { o.MinLR = math.NaN() },
		`but schedule "constant" never falls`:                         func(o *ScheduleOptions) { o.Type, o.DecaySteps = "constant", 0 },
		"0 steps; use at least 1":                                     func(o *ScheduleOptions) { o.Steps = 0 },
		"-1 warmup steps":                                             func(o *ScheduleOptions) { o.WarmupSteps = -1 },
		`2 cycles; it belongs to schedule "cosine-restarts"`:          func(o *ScheduleOptions) { o.Cycles = 2 },
		"-2 cycles; use a number above 0":                             func(o *ScheduleOptions) { o.Type, o.Cycles, o.DecaySteps = "cosine-restarts", -2, 0 },
		`power 2; it belongs to schedule "polynomial", not to "wsd"`:  func(o *ScheduleOptions) { o.Power = 2 },
		"power +Inf; use a number":                                    func(o *ScheduleOptions) { o.Type, o.Power, o.DecaySteps = "polynomial", math.Inf(1), 0 },
		`20 decay steps; it belongs to schedule "wsd"`:                func(o *ScheduleOptions) { o.Type = "linear" },
		"0 decay steps; use at least 1":                               func(o *ScheduleOptions) { o.DecaySteps = 0 },
		"91 decay steps; use at least 1, and at most what 10 warmup ": func(o *ScheduleOptions) { o.DecaySteps = 91 },
	} {
		o := good
		change(&o)
		if _, err := NewSchedule(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", o, err, want)
		}
	}
}
