// Package kernels is the operator set that models are written against, once, for every kind of device.
//
// An operator is enqueued on a device.Stream and returns at once. Its outputs and workspaces are arguments, its operands
// are Tensors (views of device memory), and it reports nothing: a wrong shape or a failure sticks to the stream and comes
// out of Synchronize, with the operator's name. Operators come in forward and backward pairs. Gradients of inputs and of
// weights are separate operators, so that a schedule may delay the latter.
//
// The set stays close to the fused operators of Ascend's aclnn library. The CPU's implementation is in kernels/cpu, a
// deferred device that faults on missing synchronisation in kernels/deferred; kernels/conformance is the suite that every
// implementation passes.
//
// In comments, B is the batch, T the sequence length, C the hidden size, V the vocabulary, N a number of attention heads,
// D a head's dimension, I the feed-forward width. The leading dimensions are written [.., C] where any number is accepted.
// "accumulate" means that the operator adds to its output instead of overwriting it.
package kernels

import "lockstep/kernels/device"

// A Device is a device with operators.
type Device interface {
	device.Device
	Operators
	// KernelSet names the arithmetic, such as "avx2" or "generic". Results have the same bits only within one set: the
	// ranks of a job must agree on it and checkpoints record it.
	KernelSet() string
}

// MatMulOptions modifies MatMul.
type MatMulOptions struct {
	// TransA and TransB use the transpose of the operand.
	TransA, TransB bool
	// Accumulate adds the product to C.
	Accumulate bool
	// BFloat16 lets a device multiply bfloat16 where that is faster for it: elements of operands that are Float32 are rounded to
	// it first, and subnormal ones may count as zeros. Sums are Float32 all the same.
	BFloat16 bool
}

// RoPEOptions modifies RoPE.
type RoPEOptions struct {
	// Inverse rotates back, which is the backward pass.
	Inverse bool
	// Interleaved rotates the pairs (x[2i], x[2i+1]) by the angles of the tables' first halves, instead of (x[i], x[i+D/2]).
	Interleaved bool
}

// AttentionOptions modifies Attention and its backward pass.
type AttentionOptions struct {
	// Scale multiplies the scores; Transformers' default is 1/sqrt(D).
	Scale float64
	// Causal lets query i of Tq see key j of Tk only where j <= i + Tk - Tq.
	Causal bool
	// Documents keeps packed documents apart: an Int32 operand [B,Tq] with, for each query, the number of the first key of
	// its document. A query sees no key before that one. Causal ends what it sees; without it that is all keys from there
	// on, as where the keys are those of earlier tokens. The numbers lie in [0, Tk] and never decrease along a row, so that
	// a device finds what a block of queries or of keys has to do with at its ends, and passes over the rest. The zero
	// Tensor: each row is one document.
	Documents Tensor
	// Accumulate is for attention over keys that come in several parts, one call for each. Attention merges what these keys
	// add into the o and statistics that earlier calls have left for the same queries, and the outcome is that over all
	// keys. AttentionBackward takes the o and statistics of the last call, for each part of the keys, and adds to dq; dk and
	// dv are those of its own keys, and overwritten. A call may be for some of the queries alone, with views of all that
	// belongs to them.
	Accumulate bool
}

// DropoutOptions modifies Dropout.
type DropoutOptions struct {
	// Scale multiplies the elements that are kept.
	Scale float64
	// Rate is the probability, in [0, 1), with which an element is dropped.
	Rate float64
	// Key and Stream choose the random numbers.
	Key, Stream uint64
	// First is the number of the first element: that of a tensor which is a part of a larger one, some rows and columns that
	// follow one another. Columns is the number of the larger one's columns; 0 means that there are no others.
	First, Columns int
}

// AdamWOptions are one step's hyperparameters.
type AdamWOptions struct {
	LR, Beta1, Beta2, Eps, WeightDecay float64
	// Step counts from 1 and sets the bias correction.
	Step int
}

// SquaredNormBlock is the number of elements whose squares SquaredNorm adds into one block sum.
const SquaredNormBlock = 4096

// SquaredNormBlocks returns how many block sums a parameter of n elements has.
func SquaredNormBlocks(n int) int { return (n + SquaredNormBlock - 1) / SquaredNormBlock }

// Operators is what a device computes. Elements are Float32 unless a comment says otherwise. Operands may be views with a
// dense last dimension, outputs may not overlap inputs, both unless said otherwise.
//
// Activations and their gradients may be BFloat16 instead, those of one operator all of one type: the operands called x, y, a, b,
// sum, residual, q, k, v, o, and their gradients. In Add, AddRMSNorm, RMSNorm and its backward pass each has a type of its own.
// An operator then computes what it does with operands cast to Float32, and
// rounds an element of an output once, as Cast does, when all that adds to it has been added. Statistics, scores, logits, losses,
// gradients of weights and what optimizers work on are Float32.
type Operators interface {
	// MatMul computes C = op(A) op(B), or C += op(A) op(B): C [M,N], op(A) [M,K], op(B) [K,N], each Float32 or BFloat16,
	// whether they are activations or weights. The order of summation over K depends on the shape alone.
	MatMul(s device.Stream, c, a, b Tensor, o MatMulOptions)

	// AddBias computes y[.., C] += bias[C].
	AddBias(s device.Stream, y, bias Tensor)
	// AddBiasBackward computes dbias[C] = (or +=) the sum of dy[.., C] over its rows.
	AddBiasBackward(s device.Stream, dbias, dy Tensor, accumulate bool)

	// Add computes y = a + b, all of one shape. y may be a or b.
	Add(s device.Stream, y, a, b Tensor)
	// Copy computes y = x, of one shape and type, of any type.
	Copy(s device.Stream, y, x Tensor)
	// Cast converts x to y, of one shape, one BFloat16 and the other Float32. It rounds to nearest, ties to even, and
	// numbers beyond BFloat16's range to infinity; a NaN stays a NaN. The other way is exact.
	Cast(s device.Stream, y, x Tensor)
	// Dropout computes y[.., C] = Scale * x[.., C], with zeros for the elements that are dropped: element i of the row-major
	// order, of the tensor that First and Columns say, is, where word i%4 of Philox4x32-10 with the counter {i/4, Stream} and the
	// key Key, low words first, is below Rate * 2^32. So the same options drop the same elements again. y may be x. With Rate 0 it scales.
	Dropout(s device.Stream, y, x Tensor, o DropoutOptions)
	// Zero fills a dense tensor of any type with zeros.
	Zero(s device.Stream, x Tensor)

	// RMSNorm computes y = x * rstd * gamma with rstd = 1/sqrt(mean(x^2) + eps) over the last dimension: x, y [.., C],
	// gamma [C], rstd [rows] dense.
	RMSNorm(s device.Stream, y, rstd, x, gamma Tensor, eps float64)
	// AddRMSNorm computes sum = a + b, and y and rstd as the RMSNorm of sum, of what is stored there: a, b, sum, y [.., C],
	// gamma [C], rstd [rows] dense. sum may be a or b.
	AddRMSNorm(s device.Stream, y, rstd, sum, a, b, gamma Tensor, eps float64)
	// RMSNormBackwardInput computes dx = residual + the gradient of x: dx, dy, x, residual [.., C], rstd [rows], gamma [C].
	// residual is the gradient that reaches x past the norm; it may be none. dx may be dy or residual.
	RMSNormBackwardInput(s device.Stream, dx, dy, x, rstd, gamma, residual Tensor)
	// RMSNormBackwardWeight computes dgamma[C] = (or +=) the sum over rows of dy * x * rstd.
	RMSNormBackwardWeight(s device.Stream, dgamma, dy, x, rstd Tensor, accumulate bool)

	// RoPE rotates the pairs (x[i], x[i+D/2]) of each head by its position's angle: x, y [B,T,N,D], cos, sin [P,D] with
	// equal halves (Transformers' rotate_half). positions [B,T] Int32 in [0, P) say which row of the tables a token takes;
	// without them, as the zero Tensor, token t takes row t and P is T. A device whose own operator wants a row for each
	// token may gather them first. y may be x.
	RoPE(s device.Stream, y, x, cos, sin, positions Tensor, o RoPEOptions)
	// SumHeads computes y [B,T,1,D] = the sum of x [B,T,N,D] over the heads, in order: the backward pass of a head that all
	// share.
	SumHeads(s device.Stream, y, x Tensor)

	// AttentionSizes returns the shape of the statistics that Attention leaves for its backward pass, and the bytes of
	// workspace that AttentionBackward needs: q [B,Tq,N,D], k [B,Tk,Nkv,D], v [B,Tk,Nkv,Dv]. Dimension 2 of the statistics is
	// that of the queries, and statistics of some queries may be a view of it.
	AttentionSizes(q, k, v Tensor) (statistics []int, workspace int)
	// Attention computes softmax(scale * q k^T + mask) v for each head, N/Nkv query heads sharing one head of k and v:
	// o [B,Tq,N,Dv], statistics as AttentionSizes says (on the CPU the log of each row's softmax denominator).
	Attention(s device.Stream, o, statistics, q, k, v Tensor, opt AttentionOptions)
	// AttentionBackward computes dq, dk and dv (shapes of q, k and v), which may be views of one buffer. workspace is a
	// Uint8 tensor.
	AttentionBackward(s device.Stream, dq, dk, dv, do, q, k, v, o, statistics, workspace Tensor, opt AttentionOptions)

	// SwiGLU computes y = silu(gate) * up: x [.., 2I] holds gate in its first half and up in its second, y [.., I].
	SwiGLU(s device.Stream, y, x Tensor)
	// SwiGLUBackward computes dx [.., 2I] from dy [.., I] and x. dx may be x.
	SwiGLUBackward(s device.Stream, dx, dy, x Tensor)

	// Embedding gathers rows: y [rows, C], weight [V,C] Float32 or BFloat16, ids [rows] Int32 in [0, V).
	Embedding(s device.Stream, y, weight, ids Tensor)
	// EmbeddingBackward scatters rows, in the order of ids: dweight [V,C] = (or +=) sum of dy [rows, C] by id. A row with a
	// negative id goes nowhere.
	EmbeddingBackward(s device.Stream, dweight, dy, ids Tensor, accumulate bool)

	// CrossEntropy computes, for each row of logits [rows, V] with its label [rows] Int32, loss [rows] = logsumexp(logits)
	// - logits[label], and dlogits [rows, V] = scale * (softmax(logits) - onehot(label)). A negative label has loss 0 and
	// gradient 0. dlogits may be logits, or none.
	CrossEntropy(s device.Stream, loss, dlogits, logits, labels Tensor, scale float64)
	// Sum computes out[1] Float64 = the sum of x, added in row-major order in float64.
	Sum(s device.Stream, out, x Tensor)

	// SquaredNorm computes the sums of squares of a dense x, in float64, one for each block of SquaredNormBlock elements
	// of its row-major order: sums [SquaredNormBlocks(x.Len())] Float64.
	SquaredNorm(s device.Stream, sums, x Tensor)
	// AddExact adds x [n] Float64, of which nothing is negative, to the exact sum [ExactSumLen] Float64, see ExactSumDigits.
	AddExact(s device.Stream, sum, x Tensor)
	// ClipFactor computes, from the exact sum of the block sums of all parameters, clip[3] Float64 = {norm, factor, finite}:
	// the global L2 norm, which is the root of the sum rounded once to float64, min(1, maxNorm/(norm+1e-6)) (1 where
	// maxNorm is 0) as torch.nn.utils.clip_grad_norm_ has it, and 1 if the norm is finite, else 0.
	ClipFactor(s device.Stream, clip, sum Tensor, maxNorm float64)
	// AdamW updates p, m and v with the gradient g times clip's factor, as torch.optim.AdamW does; all dense, of one
	// shape. It changes nothing where clip says that the norm is not finite.
	AdamW(s device.Stream, p, m, v, g, clip Tensor, o AdamWOptions)

	OptimizerOperators
	ExpertOperators
	VocabularyOperators
}
