package data

import "fmt"

// A sampleOrder says where the samples of a run come from.
type sampleOrder interface {
	// place returns the part that sample i of the run is from, and which of that part's samples it is.
	place(i int64) (part int, j int64)
	// share returns how many of the first n samples are from a part.
	share(part int, n int64) int64
}

// newOrder returns the order of a run: of one part, of a blend, or of parts one after the other.
func newOrder(o Options, parts []*part) (sampleOrder, error) {
	switch {
	case len(parts) == 1 && (o.Megatron == nil || o.HeldOut || o.Parts[0].Weight == 0):
		return single{}, nil
	case o.HeldOut || o.Parts[0].Weight == 0:
		return newJoined(parts), nil
	}
	if o.Megatron != nil {
		return newMegatronBlend(o)
	}
	return newBlend(o.weights())
}

// single is the order of one part.
type single struct{}

func (single) place(i int64) (int, int64) { return 0, i }
func (single) share(_ int, n int64) int64 { return n }

// joined is an epoch of each part, one after the other, again and again.
type joined struct {
	ends  []int64 // the sum of the parts' samples, up to each
	total int64
}

func newJoined(parts []*part) joined {
	var j joined
	for _, p := range parts {
		j.total += p.n
		j.ends = append(j.ends, j.total)
	}
	return j
}

func (o joined) place(i int64) (int, int64) {
	epoch, at := i/o.total, i%o.total
	begin := int64(0)
	for part, end := range o.ends {
		if at < end {
			return part, epoch*(end-begin) + at - begin
		}
		begin = end
	}
	panic("beyond the last part")
}

func (o joined) share(part int, n int64) int64 {
	begin := int64(0)
	if part > 0 {
		begin = o.ends[part-1]
	}
	size := o.ends[part] - begin
	return n/o.total*size + min(max(n%o.total-begin, 0), size)
}

// blendPeriod is the number of samples after which a blend repeats: shares are exact to one part in it.
const blendPeriod = 1 << 16

// A blend takes samples from parts by weight, each as it falls behind its share the most. Of each part it takes the samples in
// order. Since the pattern repeats, a place far into the run is found at once and without a table of the run's length.
type blend struct {
	parts  []uint16 // of the samples of a period
	before []uint16 // how many of the part's samples come before it in the period
	totals []int64  // of each part in a period
}

// newBlend makes the pattern of weights > 0.
func newBlend(weights []float64) (*blend, error) {
	b := &blend{parts: make([]uint16, blendPeriod), before: make([]uint16, blendPeriod), totals: make([]int64, len(weights))}
	choose := newChooser(weights)
	for part, share := range choose.weights {
		if share*blendPeriod < 1 {
			return nil, fmt.Errorf("weight %v of part %d of the blend is less than one sample in %s; leave the part out", weights[part], part+1, group(blendPeriod))
		}
	}
	for i := range b.parts {
		part, before := choose.next()
		b.parts[i], b.before[i] = uint16(part), uint16(before)
		b.totals[part]++
	}
	return b, nil
}

func (b *blend) place(i int64) (int, int64) {
	part := int(b.parts[i%blendPeriod])
	return part, i/blendPeriod*b.totals[part] + int64(b.before[i%blendPeriod])
}

func (b *blend) share(part int, n int64) int64 {
	share := n / blendPeriod * b.totals[part]
	for _, p := range b.parts[:n%blendPeriod] {
		if int(p) == part {
			share++
		}
	}
	return share
}

// A chooser decides from which part the next sample comes: the one whose share, in exact numbers, is the furthest ahead of the
// samples taken from it, the first of equal ones. It is Megatron-Core's build_blending_indices, to the last bit.
type chooser struct {
	weights []float64 // their sum is 1
	taken   []int64
	n       int64
}

func newChooser(weights []float64) *chooser {
	c := &chooser{weights: normalize(weights), taken: make([]int64, len(weights))}
	return c
}

// next returns the part of the next sample and how many samples came from it before.
func (c *chooser) next() (part int, before int64) {
	n := max(float64(c.n), 1)
	most := 0.0
	for i, weight := range c.weights {
		// The product is rounded before the difference, as C++ does without fused operations.
		behind := float64(weight*n) - float64(c.taken[i])
		if i == 0 || behind > most {
			part, most = i, behind
		}
	}
	before = c.taken[part]
	c.taken[part]++
	c.n++
	return part, before
}
