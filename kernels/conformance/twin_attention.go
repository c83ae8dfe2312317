package conformance

import (
	"fmt"
	"math"
)

// AttentionShape is the problem of Attention: q [B,Tq,N,D], k [B,Tk,Nkv,D], v [B,Tk,Nkv,Dv].
type AttentionShape struct {
	B, Tq, Tk, N, Nkv, D, Dv int
	Scale                    float64
	Causal                   bool
	// Documents has the first key of each query's document, [B,Tq]; nil where each row is one document.
	Documents []int32
}

// String returns the shape as the name of a test.
func (s AttentionShape) String() string {
	name := fmt.Sprintf("B=%d Tq=%d Tk=%d N=%d Nkv=%d D=%d Dv=%d", s.B, s.Tq, s.Tk, s.N, s.Nkv, s.D, s.Dv)
	if s.Causal {
		name += " causal"
	}
	if s.Documents != nil {
		name += " documents"
	}
	return name
}

// seen returns the keys [from, to) that query i of row b sees: those of its document, as far as the causal mask goes, by
// which the last query sees the last key.
func (s AttentionShape) seen(b, i int) (from, to int) {
	to = s.Tk
	if s.Causal {
		to = max(0, min(s.Tk, i+s.Tk-s.Tq+1))
	}
	if s.Documents != nil {
		from = min(int(s.Documents[b*s.Tq+i]), to)
	}
	return from, to
}

// head calls visit with the position of each query row and of the first key and value row that it sees, and how many it
// sees; rows of one head are N*D, Nkv*D and Nkv*Dv apart. row counts the queries in the order [B,N,Tq] of the
// log-sum-exps.
func (s AttentionShape) head(visit func(row, seen, q, o, k, v int)) {
	for b := range s.B {
		for n := range s.N {
			kv := n / (s.N / s.Nkv)
			for i := range s.Tq {
				row := (b*s.Tq+i)*s.N + n
				from, to := s.seen(b, i)
				key := (b*s.Tk+from)*s.Nkv + kv
				visit((b*s.N+n)*s.Tq+i, to-from, row*s.D, row*s.Dv, key*s.D, key*s.Dv)
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
func (s AttentionShape) probabilities(q, k []float64, seen int) ([]float64, float64) {
	p := make([]float64, seen)
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
	s.head(func(row, seen, qAt, oAt, kAt, vAt int) {
		p, l := s.probabilities(q[qAt:], k[min(kAt, len(k)):], seen)
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
	s.head(func(_, seen, qAt, oAt, kAt, vAt int) {
		p, _ := s.probabilities(q[qAt:], k[min(kAt, len(k)):], seen)
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
