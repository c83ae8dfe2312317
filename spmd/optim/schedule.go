package optim

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// ScheduleOptions describe how the learning rate moves over a run. With i the step from 0, w = WarmupSteps, T = Steps and
// p = (i-w)/max(1,T-w) the progress after the warmup, the rate of step i is LR*i/w while i < w, then
//
//	cosine           MinLR + (LR-MinLR) * (1 + cos(pi*p))/2
//	linear           MinLR + (LR-MinLR) * (1-p)
//	constant         LR
//	cosine-restarts  MinLR + (LR-MinLR) * (1 + cos(pi*frac(Cycles*p)))/2
//	polynomial       MinLR + (LR-MinLR) * (1-p)^Power
//	wsd              LR until the last DecaySteps steps, over which it falls to MinLR in a straight line
//
// and MinLR from step T on, but for constant. The formulas are those of MindSpore Transformers and, where MinLR is 0, of
// Hugging Face Transformers. The first step of a warmup has rate 0: it fills the optimizer's moments and moves no weight.
//
// An option that the type has no use for must be zero.
type ScheduleOptions struct {
	// Type is one of ScheduleTypes.
	Type string
	// LR is the rate at the end of the warmup, MinLR the one at the end of the run, at most LR.
	LR, MinLR float64
	// Steps is the length of the run, at least 1; WarmupSteps that of the warmup, 0 for none.
	Steps, WarmupSteps int
	// Cycles is how often cosine-restarts falls from LR; 0 means 1, which is cosine.
	Cycles float64
	// Power is the exponent of polynomial; 0 means 1, which is linear.
	Power float64
	// DecaySteps is the length of the fall of wsd (warmup, stable, decay), from 1 to Steps-WarmupSteps.
	DecaySteps int
}

// ScheduleTypes returns the names of the schedules.
func ScheduleTypes() []string {
	return []string{"cosine", "linear", "constant", "cosine-restarts", "polynomial", "wsd"}
}

// A Schedule gives the learning rate of each step. It has no state: a resumed run asks for the step it is at.
type Schedule struct{ o ScheduleOptions }

// NewSchedule checks o. The error names the option, its value and a legal one.
func NewSchedule(o ScheduleOptions) (*Schedule, error) {
	finite := func(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
	only := func(t string) string { return fmt.Sprintf("it belongs to schedule %q, not to %q", t, o.Type) }
	var problem string
	switch {
	case !slices.Contains(ScheduleTypes(), o.Type):
		problem = fmt.Sprintf("schedule %q is not known; use one of %s", o.Type, strings.Join(ScheduleTypes(), ", "))
	case !finite(o.LR) || o.LR < 0:
		problem = fmt.Sprintf("learning rate %v; use a finite number from 0 on", o.LR)
	case !finite(o.MinLR) || o.MinLR < 0 || o.MinLR > o.LR:
		problem = fmt.Sprintf("minimum learning rate %v; use a number from 0 to the learning rate %v", o.MinLR, o.LR)
	case o.Type == "constant" && o.MinLR != 0:
		problem = fmt.Sprintf("minimum learning rate %v, but schedule \"constant\" never falls; leave it out", o.MinLR)
	case o.Steps < 1:
		problem = fmt.Sprintf("%d steps; use at least 1", o.Steps)
	case o.WarmupSteps < 0:
		problem = fmt.Sprintf("%d warmup steps; use 0 or more", o.WarmupSteps)
	case o.Cycles != 0 && o.Type != "cosine-restarts":
		problem = fmt.Sprintf("%v cycles; %s", o.Cycles, only("cosine-restarts"))
	case !finite(o.Cycles) || o.Cycles < 0:
		problem = fmt.Sprintf("%v cycles; use a number above 0", o.Cycles)
	case o.Power != 0 && o.Type != "polynomial":
		problem = fmt.Sprintf("power %v; %s", o.Power, only("polynomial"))
	case !finite(o.Power) || o.Power < 0:
		problem = fmt.Sprintf("power %v; use a number above 0", o.Power)
	case o.DecaySteps != 0 && o.Type != "wsd":
		problem = fmt.Sprintf("%d decay steps; %s", o.DecaySteps, only("wsd"))
	case o.Type == "wsd" && (o.DecaySteps < 1 || o.DecaySteps > o.Steps-o.WarmupSteps):
		problem = fmt.Sprintf("%d decay steps; use at least 1, and at most what %d warmup steps leave of %d",
			o.DecaySteps, o.WarmupSteps, o.Steps)
	}
	if problem != "" {
		return nil, fmt.Errorf("learning rate schedule: %s", problem)
	}
	if o.Cycles == 0 {
		o.Cycles = 1
	}
	if o.Power == 0 {
		o.Power = 1
	}
	return &Schedule{o}, nil
}

// LR returns the learning rate of a step, counted from 0. It is the same float64 on every machine.
func (s *Schedule) LR(step int) float64 {
	o := &s.o
	if step < o.WarmupSteps {
		return o.LR * float64(step) / float64(o.WarmupSteps)
	}
	if o.Type == "constant" {
		return o.LR
	}
	if step >= o.Steps {
		return o.MinLR
	}
	p := float64(step-o.WarmupSteps) / float64(max(1, o.Steps-o.WarmupSteps))
	switch o.Type {
	case "cosine":
		return s.cosine(p)
	case "cosine-restarts":
		_, p = math.Modf(o.Cycles * p)
		return s.cosine(p)
	case "polynomial":
		return s.between(math.Pow(1-p, o.Power))
	case "wsd":
		left := float64(o.Steps - step)
		return s.between(min(1, left/float64(o.DecaySteps)))
	}
	return s.between(1 - p) // linear
}

// between returns the rate at a fraction of the way up from MinLR to LR. The conversions keep the compiler from fusing
// product and sum into one operation, which would round differently on machines that have it.
func (s *Schedule) between(fraction float64) float64 {
	if fraction == 1 {
		return s.o.LR // exactly
	}
	return s.o.MinLR + float64((s.o.LR-s.o.MinLR)*fraction)
}

// cosine returns the rate at p of half a wave, in the order of operations that is usual in PyTorch schedules, so that
// recorded curves agree to the last bit.
func (s *Schedule) cosine(p float64) float64 {
	return s.o.MinLR + float64(0.5*(s.o.LR-s.o.MinLR)*(1+cosine(math.Pi*p)))
}

// cosine returns cos x, correctly rounded, for x in [0, pi]. math.Cos may be off by the last bit, and not by the same one
// on every architecture; the C library's, which PyTorch scripts use, almost never is. This is the Taylor series in pairs of
// float64 (T. J. Dekker, "A Floating-Point Technique for Extending the Available Precision", 1971), which carry about 106
// bits: the sum of the terms' sizes is cosh(pi) < 12, so the result's absolute error is below 2^-98.
func cosine(x float64) float64 {
	squareHi := float64(x * x)
	square := pair{squareHi, math.FMA(x, x, -squareHi)}
	sum, term := pair{1, 0}, pair{1, 0}
	for k := 1.0; math.Abs(term.hi) > 0x1p-110; k += 2 {
		term = term.times(square).over(-k * (k + 1))
		sum = sum.plus(term)
	}
	return sum.hi + sum.lo
}

// A pair is the unevaluated sum of two float64, the second below half a unit in the last place of the first. The conversions
// keep the compiler from fusing operations whose rounding errors are computed.
type pair struct{ hi, lo float64 }

// normalized returns hi + lo as a pair, for |hi| >= |lo|.
func normalized(hi, lo float64) pair {
	sum := hi + lo
	return pair{sum, lo - (sum - hi)}
}

func (a pair) plus(b pair) pair {
	sum := a.hi + b.hi
	part := sum - a.hi
	lost := (a.hi - (sum - part)) + (b.hi - part)
	return normalized(sum, lost+a.lo+b.lo)
}

func (a pair) times(b pair) pair {
	product := float64(a.hi * b.hi)
	return normalized(product, math.FMA(a.hi, b.hi, -product)+float64(a.hi*b.lo)+float64(a.lo*b.hi))
}

// over returns a / d.
func (a pair) over(d float64) pair {
	quotient := a.hi / d
	return normalized(quotient, (math.FMA(-quotient, d, a.hi)+a.lo)/d)
}
