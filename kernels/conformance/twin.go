package conformance

import (
	"math"

	"lockstep/kernels"
)

// The twins define the operators: plain loops over dense row-major slices in float64, to be read next to the comments of
// kernels.Operators. A device's results differ from theirs by float32's rounding only.

// AddBias computes y[.., C] += bias[C].
func AddBias(y, bias []float64) {
	for i := range y {
		y[i] += bias[i%len(bias)]
	}
}

// AddBiasBackward computes dbias[C] = (or +=) the sum of dy[.., C] over its rows.
func AddBiasBackward(dbias, dy []float64, accumulate bool) {
	overwrite(dbias, accumulate)
	for i := range dy {
		dbias[i%len(dbias)] += dy[i]
	}
}

// Add computes y = a + b.
func Add(y, a, b []float64) {
	for i := range y {
		y[i] = a[i] + b[i]
	}
}

// RMSNorm computes rstd[rows] and y[rows, C] = x * rstd * gamma[C].
func RMSNorm(y, rstd, x, gamma []float64, eps float64) {
	c := len(gamma)
	for i := range rstd {
		sum := 0.0
		for _, v := range x[i*c : (i+1)*c] {
			sum += v * v
		}
		rstd[i] = 1 / math.Sqrt(sum/float64(c)+eps)
		for j := range c {
			y[i*c+j] = x[i*c+j] * rstd[i] * gamma[j]
		}
	}
}

// AddRMSNorm computes sum[rows, C] = a + b and its RMSNorm.
func AddRMSNorm(y, rstd, sum, a, b, gamma []float64, eps float64) {
	Add(sum, a, b)
	RMSNorm(y, rstd, sum, gamma, eps)
}

// RMSNormBackwardInput computes dx = residual + rstd * (g - x * rstd^2 * mean(g*x)) with g = dy * gamma. residual may be
// empty.
func RMSNormBackwardInput(dx, dy, x, rstd, gamma, residual []float64) {
	clear(dx)
	copy(dx, residual)
	c := len(gamma)
	for i := range rstd {
		mean := 0.0
		for j := range c {
			mean += dy[i*c+j] * gamma[j] * x[i*c+j] / float64(c)
		}
		for j := range c {
			at := i*c + j
			dx[at] += rstd[i] * (dy[at]*gamma[j] - x[at]*rstd[i]*rstd[i]*mean)
		}
	}
}

// RMSNormBackwardWeight computes dgamma[C] = (or +=) the sum over rows of dy * x * rstd.
func RMSNormBackwardWeight(dgamma, dy, x, rstd []float64, accumulate bool) {
	overwrite(dgamma, accumulate)
	c := len(dgamma)
	for i := range dy {
		dgamma[i%c] += dy[i] * x[i] * rstd[i/c]
	}
}

// RoPE rotates x[B,T,N,D] into y by the angles whose cos and sin are the rows of [P,D] with equal halves: the pairs (x[i],
// x[i+D/2]), or interleaved (x[2i], x[2i+1]). A token takes the row of its position [B,T], or where positions are nil, row
// t. The inverse rotates by the opposite angles.
func RoPE(y, x, cos, sin []float64, positions []int32, t, n, d int, o kernels.RoPEOptions) {
	sign := 1.0
	if o.Inverse {
		sign = -1
	}
	for head := range len(x) / d {
		from, to := x[head*d:(head+1)*d], y[head*d:(head+1)*d]
		angles := head / n % t * d
		if positions != nil {
			angles = int(positions[head/n]) * d
		}
		for j := range d / 2 {
			first, second := j, j+d/2
			if o.Interleaved {
				first, second = 2*j, 2*j+1
			}
			a, b := from[first], from[second]
			to[first] = a*cos[angles+j] - sign*b*sin[angles+j]
			to[second] = b*cos[angles+j] + sign*a*sin[angles+j]
		}
	}
}

// SumHeads computes y[B,T,1,D] as the sum of the n heads of x[B,T,N,D].
func SumHeads(y, x []float64, n, d int) {
	clear(y)
	for i, v := range x {
		y[i/(n*d)*d+i%d] += v
	}
}

// SwiGLU computes y[rows, I] = silu(gate) * up from x[rows, 2I] = (gate, up).
func SwiGLU(y, x []float64, width int) {
	for i := range y {
		at := i/width*2*width + i%width
		gate, up := x[at], x[at+width]
		y[i] = gate / (1 + math.Exp(-gate)) * up
	}
}

// SwiGLUBackward computes dx[rows, 2I] from dy[rows, I]: with s = sigmoid(gate), d silu(gate) = s * (1 + gate*(1-s)).
func SwiGLUBackward(dx, dy, x []float64, width int) {
	for i := range dy {
		at := i/width*2*width + i%width
		gate, up := x[at], x[at+width]
		s := 1 / (1 + math.Exp(-gate))
		dx[at] = dy[i] * up * s * (1 + gate*(1-s))
		dx[at+width] = dy[i] * gate * s
	}
}

// Embedding computes y[rows, C] = the rows of weight[V, C] that ids[rows] name.
func Embedding(y, weight []float64, ids []int32, c int) {
	for i, id := range ids {
		copy(y[i*c:(i+1)*c], weight[int(id)*c:])
	}
}

// EmbeddingBackward computes dweight[V, C] = (or +=) the sum of dy[rows, C] by id; a negative id has no row.
func EmbeddingBackward(dweight, dy []float64, ids []int32, c int, accumulate bool) {
	overwrite(dweight, accumulate)
	for i, id := range ids {
		for j := range c {
			if id < 0 {
				break
			}
			dweight[int(id)*c+j] += dy[i*c+j]
		}
	}
}

// CrossEntropy computes loss[rows] = logsumexp(logits) - logits[label] and dlogits[rows, V] = scale * (softmax(logits) -
// onehot(label)); both 0 where the label is negative.
func CrossEntropy(loss, dlogits, logits []float64, labels []int32, v int, scale float64) {
	for i, label := range labels {
		x, dx := logits[i*v:(i+1)*v], dlogits[i*v:(i+1)*v]
		if label < 0 {
			loss[i] = 0
			clear(dx)
			continue
		}
		largest := math.Inf(-1)
		for _, l := range x {
			largest = math.Max(largest, l)
		}
		sum := 0.0
		for _, l := range x {
			sum += math.Exp(l - largest)
		}
		loss[i] = largest + math.Log(sum) - x[label]
		for j, l := range x {
			dx[j] = scale * math.Exp(l-largest) / sum
		}
		dx[label] -= scale
	}
}

// SquaredNorm computes the sum of squares of each block of kernels.SquaredNormBlock elements.
func SquaredNorm(sums, x []float64) {
	clear(sums)
	for i, v := range x {
		sums[i/kernels.SquaredNormBlock] += v * v
	}
}

// AdamW updates p, m and v with g times clip's factor; nothing where clip says that the norm is not finite.
func AdamW(p, m, v, g, clip []float64, o kernels.AdamWOptions) {
	if clip[2] == 0 {
		return
	}
	correction1 := 1 - math.Pow(o.Beta1, float64(o.Step))
	correction2 := 1 - math.Pow(o.Beta2, float64(o.Step))
	for i := range p {
		gi := g[i] * clip[1]
		m[i] = o.Beta1*m[i] + (1-o.Beta1)*gi
		v[i] = o.Beta2*v[i] + (1-o.Beta2)*gi*gi
		p[i] *= 1 - o.LR*o.WeightDecay
		p[i] -= o.LR / correction1 * m[i] / (math.Sqrt(v[i])/math.Sqrt(correction2) + o.Eps)
	}
}

// overwrite clears an output that is not to be added to.
func overwrite(x []float64, accumulate bool) {
	if !accumulate {
		clear(x)
	}
}
