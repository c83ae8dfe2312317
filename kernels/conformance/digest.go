package conformance

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Digest runs every operator on shapes that make many parts and returns a digest of the bits of all outputs, by operator.
// It is equal for any number of threads, for any kind of stream, and wherever the kernel set is the same.
func Digest(t *testing.T, open Open) map[string]string {
	t.Helper()
	d, stream := open(t)
	s := &suite{t: t, d: d, s: stream}
	sums := map[string]string{}
	add := func(name string, outputs ...operand) {
		hash := sha256.New()
		for _, o := range outputs {
			hash.Write(encode(o.DType, s.memoryNow(o)))
		}
		sums[name] = hex.EncodeToString(hash.Sum(nil)[:8])
	}
	s.digestRows(add)
	s.digestTables(add)
	s.digestOptimizer(add)
	s.digestProducts(add)
	s.digestFused(add)
	s.digestBFloat16(add)
	s.digestExperts(add)
	s.digestUpdates(add)
	s.digestFurtherKeys(add)
	s.digestActivations(add)
	return sums
}

// digestRows covers the operators that work row by row, and the sums over rows.
func (s *suite) digestRows(add func(name string, outputs ...operand)) {
	const rows, width = 301, 333
	in := func(shape ...int) operand { return s.input(layout{}, shape...) }
	x, dy, gamma, bias := in(rows, width), in(rows, width), in(width), in(width)
	y, rstd := in(rows, width), in(rows)
	s.d.RMSNorm(s.s, y.Tensor, rstd.Tensor, x.Tensor, gamma.Tensor, 1e-5)
	add("RMSNorm", y, rstd)
	dx, dgamma, dbias := in(rows, width), in(width), in(width)
	s.d.RMSNormBackwardInput(s.s, dx.Tensor, dy.Tensor, x.Tensor, rstd.Tensor, gamma.Tensor, dx.Tensor)
	s.d.RMSNormBackwardWeight(s.s, dgamma.Tensor, dy.Tensor, x.Tensor, rstd.Tensor, true)
	add("RMSNormBackward", dx, dgamma)
	s.d.AddBias(s.s, y.Tensor, bias.Tensor)
	s.d.AddBiasBackward(s.s, dbias.Tensor, dy.Tensor, true)
	s.d.Add(s.s, dx.Tensor, dx.Tensor, y.Tensor)
	add("AddBias", y, dbias, dx)
	s.d.Dropout(s.s, dx.Tensor, y.Tensor, kernels.DropoutOptions{Scale: 2, Rate: 0.5, Key: 3, Stream: 4})
	add("Dropout", dx)
	both, half := in(rows, 2*width), in(rows, width)
	s.d.SwiGLU(s.s, half.Tensor, both.Tensor)
	add("SwiGLU", half)
	s.d.SwiGLUBackward(s.s, both.Tensor, dy.Tensor, both.Tensor)
	add("SwiGLUBackward", both)
}

// digestTables covers the operators with ids and with positions.
func (s *suite) digestTables(add func(name string, outputs ...operand)) {
	const rows, width, v = 301, 130, 517
	in := func(shape ...int) operand { return s.input(layout{}, shape...) }
	ids, weight, y := s.ids(someIDs(rows, v)...), in(v, width), in(rows, width)
	s.d.Embedding(s.s, y.Tensor, weight.Tensor, ids.Tensor)
	s.d.EmbeddingBackward(s.s, weight.Tensor, y.Tensor, ids.Tensor, true)
	add("Embedding", y, weight)
	loss, logits, sum := in(rows), in(rows, v), s.output(device.Float64, layout{}, 1)
	s.d.CrossEntropy(s.s, loss.Tensor, logits.Tensor, logits.Tensor, ids.Tensor, 1.0/rows)
	s.d.Sum(s.s, sum.Tensor, loss.Tensor)
	add("CrossEntropy", loss, logits, sum)
	x, cos, sin := in(2, 151, 5, 34), in(151, 34), in(151, 34)
	s.d.RoPE(s.s, x.Tensor, x.Tensor, cos.Tensor, sin.Tensor, kernels.Tensor{}, kernels.RoPEOptions{})
	add("RoPE", x)
}

// digestOptimizer covers a step of the optimizer.
func (s *suite) digestOptimizer(add func(name string, outputs ...operand)) {
	const n = 50_001
	in := func() operand { return s.input(layout{}, n) }
	p, m, g, v := in(), in(), in(), s.operand(device.Float32, layout{}, func(i int) float64 { return float64(i%7) / 8 }, n)
	sums, clip := s.output(device.Float64, layout{}, kernels.SquaredNormBlocks(n)), s.output(device.Float64, layout{}, 3)
	sum := s.exactSum()
	s.d.SquaredNorm(s.s, sums.Tensor, g.Tensor)
	s.d.AddExact(s.s, sum.Tensor, sums.Tensor)
	s.d.ClipFactor(s.s, clip.Tensor, sum.Tensor, 1)
	add("ClipFactor", sums, sum, clip)
	s.d.AdamW(s.s, p.Tensor, m.Tensor, v.Tensor, g.Tensor, clip.Tensor,
		kernels.AdamWOptions{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Step: 3})
	add("AdamW", p, m, v)
}

// digestProducts covers MatMul and Attention.
func (s *suite) digestProducts(add func(name string, outputs ...operand)) {
	in := func(shape ...int) operand { return s.input(layout{}, shape...) }
	a, b, c := in(301, 270), in(333, 270), in(301, 333)
	s.d.MatMul(s.s, c.Tensor, a.Tensor, b.Tensor, kernels.MatMulOptions{TransB: true, Accumulate: true})
	add("MatMul", c)
	q, k, v := in(2, 131, 6, 20), in(2, 131, 2, 20), in(2, 131, 2, 12)
	o, do := in(2, 131, 6, 12), in(2, 131, 6, 12)
	shape, bytes := s.d.AttentionSizes(q.Tensor, k.Tensor, v.Tensor)
	statistics := in(shape...)
	workspace, err := s.d.Alloc(max(bytes, 1))
	if err != nil {
		s.t.Fatal(err)
	}
	opt := kernels.AttentionOptions{Scale: 0.3, Causal: true}
	s.d.Attention(s.s, o.Tensor, statistics.Tensor, q.Tensor, k.Tensor, v.Tensor, opt)
	add("Attention", o)
	dq, dk, dv := in(2, 131, 6, 20), in(2, 131, 2, 20), in(2, 131, 2, 12)
	s.d.AttentionBackward(s.s, dq.Tensor, dk.Tensor, dv.Tensor, do.Tensor, q.Tensor, k.Tensor, v.Tensor, o.Tensor,
		statistics.Tensor, kernels.NewTensor(workspace, 0, device.Uint8, bytes), opt)
	add("AttentionBackward", dq, dk, dv)
	opt.Documents = s.numbered(layout{}, packed(2*131, 131, 30, 1, 77, 4), 2, 131)
	s.d.Attention(s.s, o.Tensor, statistics.Tensor, q.Tensor, k.Tensor, v.Tensor, opt)
	s.d.AttentionBackward(s.s, dq.Tensor, dk.Tensor, dv.Tensor, do.Tensor, q.Tensor, k.Tensor, v.Tensor, o.Tensor,
		statistics.Tensor, kernels.NewTensor(workspace, 0, device.Uint8, bytes), opt)
	add("Attention of documents", o, dq, dk, dv)
}

// digestFurtherKeys covers attention that goes on with other keys, for the later half of the queries.
func (s *suite) digestFurtherKeys(add func(name string, outputs ...operand)) {
	in := func(shape ...int) operand { return s.input(layout{}, shape...) }
	late := func(t operand, dim int) kernels.Tensor { return t.Narrow(dim, 65, 131) }
	q, k, v, o, do, dq := in(2, 131, 6, 20), in(2, 77, 2, 20), in(2, 77, 2, 12), in(2, 131, 6, 12), in(2, 131, 6, 12), in(2, 131, 6, 20)
	dk, dv := in(2, 77, 2, 20), in(2, 77, 2, 12)
	shape, bytes := s.d.AttentionSizes(q.Tensor, k.Tensor, v.Tensor)
	statistics := in(shape...)
	workspace, err := s.d.Alloc(max(bytes, 1))
	if err != nil {
		s.t.Fatal(err)
	}
	opt := kernels.AttentionOptions{Scale: 0.3, Accumulate: true}
	s.d.Attention(s.s, late(o, 1), late(statistics, 2), late(q, 1), k.Tensor, v.Tensor, opt)
	s.d.AttentionBackward(s.s, late(dq, 1), dk.Tensor, dv.Tensor, late(do, 1), late(q, 1), k.Tensor, v.Tensor, late(o, 1),
		late(statistics, 2), kernels.NewTensor(workspace, 0, device.Uint8, bytes), opt)
	add("Attention of further keys", o, statistics, dq, dk, dv)
}

// digestFused covers the operators that do the work of several in one pass.
func (s *suite) digestFused(add func(name string, outputs ...operand)) {
	const rows, width = 301, 333
	in := func(shape ...int) operand { return s.input(layout{}, shape...) }
	a, b, gamma, y, rstd, sum := in(rows, width), in(rows, width), in(width), in(rows, width), in(rows), in(rows, width)
	s.d.AddRMSNorm(s.s, y.Tensor, rstd.Tensor, sum.Tensor, a.Tensor, b.Tensor, gamma.Tensor, 1e-5)
	add("AddRMSNorm", y, rstd, sum)
}

// digestBFloat16 covers what has operands of bfloat16.
func (s *suite) digestBFloat16(add func(name string, outputs ...operand)) {
	a, b, narrowB, c := s.bfloat16Input(layout{}, 301, 270), s.input(layout{}, 333, 270), s.output(device.BFloat16, layout{}, 333, 270),
		s.output(device.Float32, layout{}, 301, 333)
	s.d.Cast(s.s, narrowB.Tensor, b.Tensor)
	s.d.MatMul(s.s, c.Tensor, a.Tensor, narrowB.Tensor, kernels.MatMulOptions{TransB: true})
	add("MatMulBFloat16", narrowB, c)
	for _, o := range []kernels.MatMulOptions{{TransB: true, BFloat16: true}, {TransB: true, Accumulate: true, BFloat16: true}} {
		s.d.MatMul(s.s, c.Tensor, a.Tensor, b.Tensor, o)
	}
	add("ProductsInBFloat16", c)
}

// digestActivations covers operators whose activations are bfloat16.
func (s *suite) digestActivations(add func(name string, outputs ...operand)) {
	s.state = 0 // inputs that do not depend on what came before
	const rows, width = 531, 70
	narrow := func(shape ...int) operand { return s.bfloat16Input(layout{}, shape...) }
	x, weight, y, gamma, rstd := narrow(rows, 400), s.input(layout{}, width, 400), narrow(rows, width), s.input(layout{}, width), s.input(layout{}, rows)
	s.d.MatMul(s.s, y.Tensor, x.Tensor, weight.Tensor, kernels.MatMulOptions{TransB: true, Accumulate: true})
	sum, normed, half := narrow(rows, width), narrow(rows, width), narrow(rows, width/2)
	s.d.AddRMSNorm(s.s, normed.Tensor, rstd.Tensor, sum.Tensor, sum.Tensor, y.Tensor, gamma.Tensor, 1e-5)
	s.d.SwiGLU(s.s, half.Tensor, normed.Tensor)
	s.d.RMSNormBackwardWeight(s.s, gamma.Tensor, normed.Tensor, sum.Tensor, rstd.Tensor, true)
	s.d.MatMul(s.s, weight.Tensor, y.Tensor, x.Tensor, kernels.MatMulOptions{TransA: true, Accumulate: true})
	add("Activations", y, sum, normed, rstd, half, gamma, weight)
	q, k, v, o, statistics := narrow(2, 131, 6, 20), narrow(2, 131, 2, 20), narrow(2, 131, 2, 12), narrow(2, 131, 6, 12), s.input(layout{}, 2, 6, 131)
	opt := kernels.AttentionOptions{Scale: 0.3, Causal: true}
	s.d.Attention(s.s, o.Tensor, statistics.Tensor, q.Tensor, k.Tensor, v.Tensor, opt)
	dq, dk, dv, do := narrow(2, 131, 6, 20), narrow(2, 131, 2, 20), narrow(2, 131, 2, 12), narrow(2, 131, 6, 12)
	s.d.AttentionBackward(s.s, dq.Tensor, dk.Tensor, dv.Tensor, do.Tensor, q.Tensor, k.Tensor, v.Tensor, o.Tensor, statistics.Tensor,
		s.workspace(q.Tensor, k.Tensor, v.Tensor), opt)
	add("AttentionBFloat16", o, dq, dk, dv)
}

// digestExperts covers a mixture of experts.
func (s *suite) digestExperts(add func(name string, outputs ...operand)) {
	const tokens, e, width = 901, 16, 50
	in := func(shape ...int) operand { return s.input(layout{}, shape...) }
	o := kernels.RouteOptions{TopK: 4, Groups: 4, TopGroups: 2, GroupTopTwo: true, Sigmoid: true, Normalize: true, Scale: 2.5}
	logits, scores, weights, dlogits := in(tokens, e), in(tokens, e), in(tokens, o.TopK), in(tokens, e)
	experts, position, offsets := s.output(device.Int32, layout{}, tokens, o.TopK), s.output(device.Int32, layout{}, tokens, o.TopK), s.output(device.Int32, layout{}, e+1)
	counts, mass, loss := s.output(device.Float64, layout{}, 1, e), s.output(device.Float64, layout{}, 1, e), s.output(device.Float64, layout{}, 1)
	s.d.Route(s.s, weights.Tensor, experts.Tensor, scores.Tensor, logits.Tensor, kernels.Tensor{}, o)
	s.d.CountAssignments(s.s, counts.Tensor, experts.Tensor, false)
	s.d.SumScores(s.s, mass.Tensor, scores.Tensor, experts.Tensor, false)
	s.d.RouteBackward(s.s, dlogits.Tensor, weights.Tensor, experts.Tensor, scores.Tensor, kernels.Tensor{}, o)
	s.d.RouterZLoss(s.s, loss.Tensor, dlogits.Tensor, logits.Tensor, experts.Tensor, 0.1)
	add("Route", weights, experts, scores, counts, mass, dlogits, loss)
	s.d.SortByExpert(s.s, position.Tensor, offsets.Tensor, experts.Tensor)
	x, rows, b, product, half := in(tokens, width), in(tokens*o.TopK, width), in(e, 2*width, width), in(tokens*o.TopK, 2*width), in(tokens*o.TopK, width)
	s.d.Permute(s.s, rows.Tensor, x.Tensor, position.Tensor)
	s.d.GroupedMatMul(s.s, product.Tensor, rows.Tensor, b.Tensor, offsets.Tensor, kernels.MatMulOptions{TransB: true})
	s.d.ExpertSwiGLU(s.s, half.Tensor, product.Tensor, weights.Tensor, position.Tensor)
	s.d.Unpermute(s.s, x.Tensor, half.Tensor, position.Tensor)
	s.d.GroupedMatMul(s.s, b.Tensor, product.Tensor, half.Tensor, offsets.Tensor, kernels.MatMulOptions{TransA: true, Accumulate: true})
	dweights := in(tokens, o.TopK)
	s.d.ExpertSwiGLUBackward(s.s, product.Tensor, dweights.Tensor, half.Tensor, product.Tensor, weights.Tensor, position.Tensor)
	add("Experts", position, offsets, x, b, product, dweights)
}
