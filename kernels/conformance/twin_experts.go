package conformance

import (
	"math"
	"slices"

	"lockstep/kernels"
)

// Route computes scores[T, E] from logits[T, E], and experts and weights [T, K]; bias[E] may be nil.
func Route(weights []float64, experts []int32, scores, logits, bias []float64, e int, o kernels.RouteOptions) {
	for t := range len(logits) / e {
		y := scores[t*e : (t+1)*e]
		routeScores(y, logits[t*e:(t+1)*e], o.Sigmoid)
		choice := slices.Clone(y)
		for i := range bias {
			choice[i] += bias[i]
		}
		dropGroups(choice, o)
		chosen, weight := experts[t*o.TopK:(t+1)*o.TopK], weights[t*o.TopK:(t+1)*o.TopK]
		sum := o.Epsilon
		for k := range chosen {
			best := slices.Index(choice, slices.Max(choice))
			chosen[k], weight[k] = int32(best), y[best]
			choice[best] = math.Inf(-1)
			sum += y[best]
		}
		for k := range weight {
			if o.Normalize {
				weight[k] /= sum
			}
			weight[k] *= o.Scale
		}
	}
}

// routeScores computes the sigmoids or the softmax of x.
func routeScores(y, x []float64, sigmoid bool) {
	sum, largest := 0.0, slices.Max(x)
	for i, v := range x {
		if sigmoid {
			y[i] = 1 / (1 + math.Exp(-v))
			continue
		}
		y[i] = math.Exp(v - largest)
		sum += y[i]
	}
	for i := range y {
		if !sigmoid {
			y[i] /= sum
		}
	}
}

// dropGroups sets the scores of all but the best o.TopGroups groups to -Inf.
func dropGroups(choice []float64, o kernels.RouteOptions) {
	if o.Groups < 2 {
		return
	}
	size := len(choice) / o.Groups
	worth := func(g int) float64 {
		group := slices.Sorted(slices.Values(choice[g*size : (g+1)*size]))
		if o.GroupTopTwo {
			return group[size-1] + group[size-2]
		}
		return group[size-1]
	}
	groups := make([]int, o.Groups)
	worths := make([]float64, o.Groups)
	for g := range groups {
		groups[g], worths[g] = g, worth(g)
	}
	slices.SortStableFunc(groups, func(a, b int) int { return -compare(worths[a], worths[b]) })
	for _, g := range groups[o.TopGroups:] {
		for i := range size {
			choice[g*size+i] = math.Inf(-1)
		}
	}
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// LeaveOutPadding takes the k experts of each token that is padding.
func LeaveOutPadding(experts, labels []int32, k int) {
	for i := range experts {
		if labels[i/k] == kernels.PaddingLabel {
			experts[i] = -1
		}
	}
}

// RouteBackward computes dlogits[T, E] from dweights[T, K], and from balance[G, E], the gradient of the scores' shares,
// which may be nil.
func RouteBackward(dlogits, dweights []float64, experts []int32, scores, balance []float64, e int, o kernels.RouteOptions) {
	tokens := len(scores) / e
	for t := range tokens {
		y, ds := scores[t*e:(t+1)*e], make([]float64, e)
		if experts[t*o.TopK] < 0 {
			clear(dlogits[t*e : (t+1)*e])
			continue
		}
		if balance != nil {
			run := t / (tokens / (len(balance) / e))
			sum, mean := 0.0, 0.0
			for i := range y {
				sum += y[i]
				mean += balance[run*e+i] * y[i]
			}
			for i := range y {
				ds[i] = (balance[run*e+i] - mean/sum) / sum
			}
		}
		chosen, dweight := experts[t*o.TopK:(t+1)*o.TopK], dweights[t*o.TopK:(t+1)*o.TopK]
		sum, product := o.Epsilon, 0.0
		for k, i := range chosen {
			sum += y[i]
			product += dweight[k] * y[i]
		}
		for k, i := range chosen {
			if o.Normalize {
				ds[i] += o.Scale * (dweight[k] - product/sum) / sum
			} else {
				ds[i] += o.Scale * dweight[k]
			}
		}
		mean := 0.0
		for i := range y {
			mean += ds[i] * y[i]
		}
		for i := range y {
			dlogits[t*e+i] = y[i] * (ds[i] - mean)
			if o.Sigmoid {
				dlogits[t*e+i] = ds[i] * y[i] * (1 - y[i])
			}
		}
	}
}

// CountAssignments computes, or adds to, counts[G, E] of G runs of assignments.
func CountAssignments(counts []float64, experts []int32, e int, accumulate bool) {
	overwrite(counts, accumulate)
	for i, expert := range experts {
		if expert >= 0 {
			counts[i/(len(experts)/(len(counts)/e))*e+int(expert)]++
		}
	}
}

// SumScores computes, or adds to, mass[G, E] of G runs of tokens' scores[T, E]; experts[T, K].
func SumScores(mass, scores []float64, experts []int32, e int, accumulate bool) {
	overwrite(mass, accumulate)
	tokens := len(scores) / e
	for t := range tokens {
		if experts[t*(len(experts)/tokens)] < 0 {
			continue
		}
		run, sum := t/(tokens/(len(mass)/e)), 0.0
		for _, v := range scores[t*e : (t+1)*e] {
			sum += v
		}
		for i, v := range scores[t*e : (t+1)*e] {
			mass[run*e+i] += v / sum
		}
	}
}

// BalanceLoss returns factor times the sum of f*mass/n over runs and experts, with f = load / the run's load and n the run's
// counts, and sets gradient[G, E] = weight * factor * f / n.
func BalanceLoss(gradient, counts, load, mass []float64, e int, factor, weight float64) float64 {
	sum := 0.0
	for i := range counts {
		n, all := 0.0, 0.0
		for j := i / e * e; j < i/e*e+e; j++ {
			n += counts[j]
			all += load[j]
		}
		gradient[i] = 0
		if n > 0 && all > 0 {
			sum += load[i] / all * mass[i] / n
			gradient[i] = weight * factor * load[i] / all / n
		}
	}
	return factor * sum
}

// RouterZLoss returns the sum over tokens of logsumexp(logits)^2 and adds weight times its gradient to dlogits[T, E]; experts[T, K].
func RouterZLoss(dlogits, logits []float64, experts []int32, e int, weight float64) float64 {
	loss, softmax := 0.0, make([]float64, e)
	for t := range len(logits) / e {
		if experts[t*(len(experts)/(len(logits)/e))] < 0 {
			continue
		}
		x := logits[t*e : (t+1)*e]
		routeScores(softmax, x, false)
		lse := x[0] - math.Log(softmax[0])
		loss += lse * lse
		for i := range x {
			dlogits[t*e+i] += weight * 2 * lse * softmax[i]
		}
	}
	return loss
}

// UpdateRouteBias moves bias[E] by rate against the load counts[E], where clip says that the step is finite.
func UpdateRouteBias(bias, counts, clip []float64, rate float64) {
	mean := 0.0
	for _, n := range counts {
		mean += n / float64(len(counts))
	}
	for i, n := range counts {
		if clip[2] != 0 {
			bias[i] += rate * float64(compare(mean, n))
		}
	}
}

// KeepAssignments copies experts[T, K] to kept[T, K] and replaces what is not kept by -1.
func KeepAssignments(kept, experts []int32, weights []float64, o kernels.KeepOptions) {
	for i, e := range experts {
		before := 0 // assignments that come before this one for its expert
		for j, other := range experts {
			first := j < i
			if !o.ByPosition && weights[j] != weights[i] {
				first = weights[j] > weights[i]
			}
			if other == e && first {
				before++
			}
		}
		kept[i] = e
		if before >= o.Capacity {
			kept[i] = -1
		}
	}
}

// SortByExpert computes position[T*K] and offsets[E+1] from experts[T*K].
func SortByExpert(position, offsets, experts []int32) {
	row := int32(0)
	for i := range position {
		position[i] = -1
	}
	for e := range len(offsets) - 1 {
		offsets[e] = row
		for i, expert := range experts {
			if int(expert) == e {
				position[i] = row
				row++
			}
		}
	}
	offsets[len(offsets)-1] = row
}

// SortRuns computes position[R] and offsets[E+1] from counts[G, E].
func SortRuns(position, offsets, counts []int32) {
	var experts []int32
	for i, n := range counts {
		experts = append(experts, slices.Repeat([]int32{int32(i % (len(offsets) - 1))}, int(n))...)
	}
	SortByExpert(position, offsets, experts)
}

// ShiftPositions adds to position[T*K] the shift[S] of the stretch that it is in; first[S] are their first rows.
func ShiftPositions(position, first, shift []int32) {
	for i, r := range position {
		for j := len(first) - 1; j >= 0; j-- {
			if first[j] <= r {
				position[i] += shift[j]
				break
			}
		}
	}
}

// Permute copies token x[T, C] to the rows y[R, C] of its K assignments.
func Permute(y, x []float64, position []int32, k, c int) {
	for i, r := range position {
		if r >= 0 {
			copy(y[int(r)*c:][:c], x[i/k*c:])
		}
	}
}

// Unpermute computes each token y[T, C] as the sum of the rows x[R, C] of its K assignments.
func Unpermute(y, x []float64, position []int32, k, c int) {
	clear(y)
	for i, r := range position {
		for j := 0; j < c && r >= 0; j++ {
			y[i/k*c+j] += x[int(r)*c+j]
		}
	}
}

// GroupedMatMul is MatMul on each expert's rows: c[R, n], a[R, k], b[E, k, n]; with transA c[E, m, n] from a[R, m] and b[R, n],
// m being k's place.
func GroupedMatMul(c, a, b []float64, offsets []int32, n, k int, o kernels.MatMulOptions) {
	for e := range len(offsets) - 1 {
		from, to := int(offsets[e]), int(offsets[e+1])
		if o.TransA {
			MatMul(c[e*k*n:][:k*n], a[from*k:to*k], b[from*n:to*n], k, n, to-from, true, false, o.Accumulate)
		} else {
			MatMul(c[from*n:to*n], a[from*k:to*k], b[e*k*n:][:k*n], to-from, n, k, false, o.TransB, o.Accumulate)
		}
	}
}

// ExpertSwiGLU computes row position[i] of y[R, I] as weights[i] * SwiGLU of that row of x[R, 2I].
func ExpertSwiGLU(y, x, weights []float64, position []int32, width int) {
	for i, r := range position {
		if r < 0 {
			continue
		}
		out := y[int(r)*width:][:width]
		SwiGLU(out, x[int(r)*2*width:][:2*width], width)
		for j := range out {
			out[j] *= weights[i]
		}
	}
}

// ExpertSwiGLUBackward computes dx[R, 2I] and dweights[T*K] from dy[R, I].
func ExpertSwiGLUBackward(dx, dweights, dy, x, weights []float64, position []int32, width int) {
	y, scaled := make([]float64, width), make([]float64, width)
	for i, r := range position {
		dweights[i] = 0
		if r < 0 {
			continue
		}
		row, gradient := x[int(r)*2*width:][:2*width], dy[int(r)*width:][:width]
		SwiGLU(y, row, width)
		for j := range y {
			dweights[i] += gradient[j] * y[j]
			scaled[j] = weights[i] * gradient[j]
		}
		SwiGLUBackward(dx[int(r)*2*width:][:2*width], scaled, row, width)
	}
}
