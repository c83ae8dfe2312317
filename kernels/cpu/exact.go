package cpu

import (
	"math"
	"math/bits"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// AddExact adds the elements of x to an exact sum.
func (d *Device) AddExact(s device.Stream, sum, x kernels.Tensor) {
	c := call{name: "AddExact", run: runAddExact}
	c.operands(1, sum, x)
	d.launch(s, kernels.CheckAddExact(sum, x), c)
}

// exactBits is the width of an exact sum's digits, exactLowest the exponent of its lowest bit.
const (
	exactBits   = 32
	exactMask   = 1<<exactBits - 1
	exactLowest = -1074
)

// carryEvery is after how many additions carries are made at the latest: each adds less than 2^32 to a digit of 64 bits.
const carryEvery = 1 << 31

// An exactSum is an exact sum while it is worked on: kernels.ExactSumDigits digits, and one that takes the carry of the highest.
type exactSum [kernels.ExactSumDigits + 1]uint64

func runAddExact(_ *Device, c *call) error {
	sum, x := f64(c.args[0]), f64(c.args[1])
	infinities, nans := &sum[kernels.ExactSumDigits], &sum[kernels.ExactSumDigits+1]
	a := loadExact(sum)
	for i, v := range x {
		if i%carryEvery == carryEvery-1 {
			a.carry()
		}
		switch {
		case v != v:
			*nans++
		case math.IsInf(v, 0):
			*infinities++
		default:
			a.add(v)
		}
	}
	a.carry()
	a.store(sum)
	return nil
}

func loadExact(digits []float64) (a exactSum) {
	for i := range kernels.ExactSumDigits {
		a[i] = uint64(digits[i])
	}
	return a
}

// store leaves the carry of the highest digit in it.
func (a *exactSum) store(digits []float64) {
	const last = kernels.ExactSumDigits - 1
	for i := range last {
		digits[i] = float64(a[i])
	}
	digits[last] = float64(a[last+1]<<exactBits | a[last])
}

// add adds v, which is finite and not negative.
func (a *exactSum) add(v float64) {
	fraction, exponent := math.Float64bits(v)&(1<<52-1), int(math.Float64bits(v)>>52)
	if exponent > 0 {
		fraction |= 1 << 52
		exponent--
	}
	// v is fraction * 2^(exponent + exactLowest), and lies in three digits at most.
	i, shift := exponent/exactBits, exponent%exactBits
	high, low := fraction>>(64-shift), fraction<<shift
	a[i] += low & exactMask
	a[i+1] += low >> exactBits
	if high != 0 {
		a[i+2] += high
	}
}

// carry brings all digits below 2^32.
func (a *exactSum) carry() {
	var over uint64
	for i, d := range a {
		d += over
		a[i], over = d&exactMask, d>>exactBits
	}
}

// round returns the nearest float64, with ties to even. All digits are below 2^32.
func (a *exactSum) round() float64 {
	top := len(a) - 1
	for top > 1 && a[top] == 0 {
		top--
	}
	// Two digits have at least the 53 bits of a float64 once the third has filled them up, and one more that stands for
	// all that is below: it decides ties.
	head := a[top]<<exactBits | a[top-1]
	shift := bits.LeadingZeros64(head) % exactBits
	var below uint64
	if top > 1 {
		below = a[top-2] << shift
	}
	head = head<<shift | below>>exactBits
	rest := below & exactMask
	for _, d := range a[:max(0, top-2)] {
		rest |= d
	}
	if rest != 0 {
		head |= 1
	}
	return math.Ldexp(float64(head), (top-1)*exactBits+exactLowest-shift)
}

// ClipFactor computes clip = {norm, factor, finite} from the exact sum of squares.
func (d *Device) ClipFactor(s device.Stream, clip, sum kernels.Tensor, maxNorm float64) {
	c := call{name: "ClipFactor", run: runClipFactor}
	c.operands(1, clip, sum)
	c.f[0] = maxNorm
	d.launch(s, kernels.CheckClipFactor(clip, sum), c)
}

func runClipFactor(_ *Device, c *call) error {
	sum := f64(c.args[1])
	a := loadExact(sum)
	a.carry()
	norm, factor, finite := math.Sqrt(a.round()), 1.0, 1.0
	switch infinities, nans := sum[kernels.ExactSumDigits], sum[kernels.ExactSumDigits+1]; {
	case nans > 0:
		norm = math.NaN()
	case infinities > 0:
		norm = math.Inf(1)
	}
	if maxNorm := c.f[0]; maxNorm != 0 {
		factor = min(1, maxNorm/(norm+1e-6))
	}
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		finite = 0
	}
	clip := f64(c.args[0])
	clip[0], clip[1], clip[2] = norm, factor, finite
	return nil
}
