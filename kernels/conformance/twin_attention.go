package conformance

import "math"

// AttentionShape is the problem of Attention: q [B,Tq,N,D], k [B,Tk,Nkv,D], v [B,Tk,Nkv,Dv].
type AttentionShape struct {
	B, Tq, Tk, N, Nkv, D, Dv int
	Scale                    float64
	Causal                   bool
}

// visible returns how many keys query i sees: the last query sees all of them.
func (s AttentionShape) visible(i int) int {
	if !s.Causal {
		return s.Tk
	}
	return max(0, min(s.Tk, i+s.Tk-s.Tq+1))
}

// head calls visit with the position of each query row and of its head's first key and value row; rows of one head are
// N*D, Nkv*D and Nkv*Dv apart. row counts the queries in the order [B,N,Tq] of the log-sum-exps.
func (s AttentionShape) head(visit func(row, i, q, o, k, v int)) {
	for b := range s.B {
		for n := range s.N {
			kv := n / (s.N / s.Nkv)
			for i := range s.Tq {
				row := (b*s.Tq+i)*s.N + n
				key := b*s.Tk*s.Nkv + kv
				visit((b*s.N+n)*s.Tq+i, i, row*s.D, row*s.Dv, key*s.D, key*s.Dv)
			}
		}
	}
}

func dot(x, y []float64) float64 {
	sum := 0.0
	for i := range x {
		sum += x[i] * y[i]
	}
	return sum
}

// probabilities returns the softmax of one query row's scores over the keys that it sees, and its log-sum-exp.
func (s AttentionShape) probabilities(q, k []float64, visible int) ([]float64, float64) {
	p := make([]float64, visible)
	most := math.Inf(-1)
	for j := range p {
		p[j] = s.Scale * dot(q[:s.D], k[j*s.Nkv*s.D:][:s.D])
		most = math.Max(most, p[j])
	}
	sum := 0.0
	for j := range p {
		p[j] = math.Exp(p[j] - most)
		sum += p[j]
	}
	for j := range p {
		p[j] /= sum
	}
	return p, most + math.Log(sum)
}

// Attention is the definition of kernels.Operators.Attention in float64, on dense tensors. lse [B,N,Tq] takes the
// log-sum-exp of each row of scores. A query that sees no key has output 0.
func Attention(o, lse, q, k, v []float64, s AttentionShape) {
	clear(o)
	s.head(func(row, i, qAt, oAt, kAt, vAt int) {
		p, l := s.probabilities(q[qAt:], k[kAt:], s.visible(i))
		lse[row] = l
		for j := range p {
			for d := range s.Dv {
				o[oAt+d] += p[j] * v[vAt+j*s.Nkv*s.Dv+d]
			}
		}
	})
}

// AttentionBackward is the definition of kernels.Operators.AttentionBackward in float64, on dense tensors.
func AttentionBackward(dq, dk, dv, do, q, k, v []float64, s AttentionShape) {
	clear(dq)
	clear(dk)
	clear(dv)
	s.head(func(_, i, qAt, oAt, kAt, vAt int) {
		p, _ := s.probabilities(q[qAt:], k[kAt:], s.visible(i))
		dp, delta := make([]float64, len(p)), 0.0
		for j := range p {
			dp[j] = dot(do[oAt:][:s.Dv], v[vAt+j*s.Nkv*s.Dv:][:s.Dv])
			delta += p[j] * dp[j]
		}
		for j := range p {
			ds := p[j] * (dp[j] - delta) * s.Scale
			for d := range s.Dv {
				dv[vAt+j*s.Nkv*s.Dv+d] += p[j] * do[oAt+d]
			}
			for d := range s.D {
				dq[qAt+d] += ds * k[kAt+j*s.Nkv*s.D+d]
				dk[kAt+j*s.Nkv*s.D+d] += ds * q[qAt+d]
			}
		}
	})
}
