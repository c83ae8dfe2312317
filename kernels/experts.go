package kernels

import "lockstep/kernels/device"

// RouteOptions says how Route scores and chooses experts. The zero value with TopK set is Qwen3-MoE's router without
// norm_topk_prob.
type RouteOptions struct {
	// Sigmoid scores each expert by the sigmoid of its logit, instead of the softmax over all experts.
	Sigmoid bool
	// TopK is K, the number of experts of each token.
	TopK int
	// Groups divides the experts into groups of equal size, of which a token may use TopGroups; 0 or 1 is no division. A
	// group is worth its best expert, or the sum of its best two with GroupTopTwo.
	Groups, TopGroups int
	GroupTopTwo       bool
	// Normalize divides a token's weights by their sum plus Epsilon. Scale multiplies them at the end.
	Normalize      bool
	Epsilon, Scale float64
}

// PaddingLabel is the label of a position that holds no token. Other negative labels are of tokens without a loss.
const PaddingLabel = -2

// KeepOptions says which assignments KeepAssignments keeps.
type KeepOptions struct {
	// Capacity is the most assignments that an expert keeps, at least 1: those with the largest weights, or with ByPosition those of the
	// first tokens. Among equal weights the first tokens come first.
	Capacity   int
	ByPosition bool
}

// ExpertOperators are the operators of a mixture of experts. In comments E is the number of experts, K that of each
// token's, T the number of tokens and R = T*K that of assignments of a token to one of its experts.
//
// A token's way: Route chooses its experts, SortByExpert gives each assignment a row such that the rows of one expert
// follow each other, Permute copies the tokens to their rows, GroupedMatMul multiplies each expert's rows by its matrix,
// ExpertSwiGLU applies the activation and the router's weight, a second GroupedMatMul follows, and Unpermute adds up each
// token's rows. No row is padding. The host need not know how many rows an expert has.
type ExpertOperators interface {
	// Route computes scores [T,E] from logits [T,E], chooses the K experts [T,K] Int32 of each token with the largest
	// score + bias, best first, the lower number first among equals, and computes their weights [T,K] from the scores
	// without bias. bias [E] may be none.
	Route(s device.Stream, weights, experts, scores, logits, bias Tensor, o RouteOptions)
	// LeaveOutPadding takes the experts of tokens that are padding: experts [T,K] Int32 of those with PaddingLabel among labels [T]
	// Int32 become -1. What follows has nothing to do with such tokens, and they have no gradient.
	LeaveOutPadding(s device.Stream, experts, labels Tensor)
	// RouteBackward computes dlogits [T,E] from dweights [T,K]. balance [G,E] is the gradient of the scores, each token's
	// divided by their sum, that a BalanceLoss adds; the tokens fall into G runs of equal length. It may be none.
	RouteBackward(s device.Stream, dlogits, dweights, experts, scores, balance Tensor, o RouteOptions)

	// CountAssignments computes, or adds to, the assignments to each expert in each of G runs of tokens of equal length:
	// counts [G,E] Float64, experts [T,K] Int32, of which negative ones do not count.
	CountAssignments(s device.Stream, counts, experts Tensor, accumulate bool)
	// SumScores computes, or adds to, the sums over the tokens of each of G runs of equal length of the scores [T,E] divided
	// by their token's sum: mass [G,E] Float64, added in the order of tokens. experts [T,K] Int32.
	SumScores(s device.Stream, mass, scores, experts Tensor, accumulate bool)
	// BalanceLoss computes loss[1] Float64 = factor * the sum over runs and experts of f * mass / n, where f are an expert's
	// assignments among a run's load, and n the run's assignments, added up from counts; and gradient [G,E] = weight * factor *
	// f / n. counts, load and mass [G,E] Float64; counts and load, which may be the same, are taken as constants. A run
	// without assignments has no loss. (W. Fedus et al., "Switch Transformers", JMLR 23, 2022, equations 4 to 6.)
	BalanceLoss(s device.Stream, loss, gradient, counts, load, mass Tensor, factor, weight float64)
	// RouterZLoss computes loss[1] Float64 = the sum over tokens of the square of logsumexp(logits), and dlogits += weight *
	// its gradient; logits, dlogits [T,E], experts [T,K] Int32. (B. Zoph et al., "ST-MoE", 2022, equation 5.)
	RouterZLoss(s device.Stream, loss, dlogits, logits, experts Tensor, weight float64)
	// UpdateRouteBias moves bias [E] by rate towards the experts with fewer assignments than the mean of counts [E] Float64
	// and away from those with more. It changes nothing where clip, as ClipFactor computes it, says that the step is not
	// finite. (L. Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", 2024, algorithm 1.)
	UpdateRouteBias(s device.Stream, bias, counts, clip Tensor, rate float64)

	// KeepAssignments copies experts [T,K] Int32 to kept [T,K] Int32, and replaces those of assignments that are not kept by -1;
	// weights [T,K].
	KeepAssignments(s device.Stream, kept, experts, weights Tensor, o KeepOptions)
	// SortByExpert numbers the assignments in the order of their experts, those of one expert in the order of tokens:
	// position [T,K] Int32 is the number, which is the assignment's row; offsets [E+1] Int32 are the first rows of the
	// experts, and the number of rows at the end. experts [T,K] Int32. An assignment to a negative expert has no row: its
	// position is -1, and the operators that take positions leave it out.
	SortByExpert(s device.Stream, position, offsets, experts Tensor)
	// SortRuns numbers rows that have come in runs from elsewhere as SortByExpert does: counts [G,E] Int32 are the rows of each
	// expert in each of G runs, which follow one another, each sorted by expert. position [R,1] Int32, those of one expert
	// in the order of runs; offsets [E+1] Int32. The counts add up to R.
	SortRuns(s device.Stream, position, offsets, counts Tensor)
	// ShiftPositions moves stretches of rows: it adds to each of position [T,K] Int32 the shift of the stretch that it is in,
	// which is the last one with a first row that is no larger. first, shift [S] Int32, first ascending from 0. Positions of
	// -1 stay.
	ShiftPositions(s device.Stream, position, first, shift Tensor)
	// Permute copies each token to the rows of its assignments: y [R,C], x [T,C], position [T,K] Int32. R may be less or more
	// than T*K; rows without an assignment are left alone. It is Unpermute's backward pass.
	Permute(s device.Stream, y, x, position Tensor)
	// Unpermute adds the rows of each token's assignments, in the order of position: y [T,C], x [R,C], position [T,K] Int32.
	// A token without rows gets zeros. It is Permute's backward pass.
	Unpermute(s device.Stream, y, x, position Tensor)
	// GroupedMatMul multiplies by the matrix of each row's expert, offsets [E+1] Int32 being the experts' first rows. Rows at
	// and beyond the last offset are left alone. Without TransA: c [R,N] = (or +=) a [R,K] op(b[e]), b [E,K,N] or with TransB
	// [E,N,K]. With TransA, for the gradient of b: c [E,M,N] = (or +=), for each expert, the transpose of its rows of a [R,M]
	// times its rows of b [R,N]; TransB must not be set, and an expert without rows gets zeros.
	GroupedMatMul(s device.Stream, c, a, b, offsets Tensor, o MatMulOptions)
	// ExpertSwiGLU computes y [R,I] = SwiGLU of x [R,2I] times the weight of each row's assignment: weights [T,K], position
	// [T,K] Int32. Rows without an assignment are left alone.
	ExpertSwiGLU(s device.Stream, y, x, weights, position Tensor)
	// ExpertSwiGLUBackward computes dx [R,2I] and dweights [T,K] from dy [R,I], x, weights and position. dx may be x. The
	// gradient of the weight of an assignment without a row is 0.
	ExpertSwiGLUBackward(s device.Stream, dx, dweights, dy, x, weights, position Tensor)
}
