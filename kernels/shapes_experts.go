package kernels

import (
	"errors"
	"fmt"

	"lockstep/kernels/device"
)

// CheckRouteOptions returns an error unless a router can choose its experts among e as o says.
func CheckRouteOptions(e int, o RouteOptions) error {
	groups := max(o.Groups, 1)
	switch {
	case o.TopK < 1 || o.TopK > e:
		return fmt.Errorf("each token is to have %d of %d experts", o.TopK, e)
	case e%groups != 0:
		return fmt.Errorf("%d experts do not make %d equal groups", e, groups)
	case groups > 1 && (o.TopGroups < 1 || o.TopGroups > groups):
		return fmt.Errorf("each token is to use %d of %d groups of experts", o.TopGroups, groups)
	case groups > 1 && o.TopGroups*(e/groups) < o.TopK:
		return fmt.Errorf("%d groups of %d experts do not hold the %d of a token", o.TopGroups, e/groups, o.TopK)
	case groups > 1 && o.GroupTopTwo && e/groups < 2:
		return fmt.Errorf("a group of %d expert has no best two", e/groups)
	}
	return nil
}

// assignments returns an error unless t is a [T,K] tensor of the type.
func assignments(name string, t Tensor, dtype device.DType) error {
	if t.Rank != 2 || t.Shape[1] < 1 {
		return fmt.Errorf("%s is %v, not [T K]", name, t)
	}
	return firstError(want(name, t, dtype, t.Shape[0], t.Shape[1]), dense(name, t))
}

// CheckRoute checks the operands of Route; bias may be none.
func CheckRoute(weights, experts, scores, logits, bias Tensor, o RouteOptions) error {
	if logits.Rank != 2 {
		return fmt.Errorf("logits is %v, not [T E]", logits)
	}
	t, e := logits.Shape[0], logits.Shape[1]
	err := firstError(
		CheckRouteOptions(e, o),
		rows("logits", logits),
		like("scores", scores, logits),
		want("weights", weights, device.Float32, t, o.TopK), dense("weights", weights),
		want("experts", experts, device.Int32, t, o.TopK), dense("experts", experts),
		apart("scores", scores, "logits", logits, true),
		outside("weights", weights, experts, scores, logits, bias),
		outside("experts", experts, scores, logits, bias),
	)
	if err != nil || bias.IsZero() {
		return err
	}
	return firstError(want("bias", bias, device.Float32, e), apart("scores", scores, "bias", bias, false))
}

// CheckLeaveOutPadding checks the operands of LeaveOutPadding.
func CheckLeaveOutPadding(experts, labels Tensor) error {
	return firstError(
		assignments("experts", experts, device.Int32),
		want("labels", labels, device.Int32, experts.Shape[0]),
		outside("experts", experts, labels),
	)
}

// CheckRouteBackward checks the operands of RouteBackward; balance may be none.
func CheckRouteBackward(dlogits, dweights, experts, scores, balance Tensor, o RouteOptions) error {
	if scores.Rank != 2 {
		return fmt.Errorf("scores is %v, not [T E]", scores)
	}
	t, e := scores.Shape[0], scores.Shape[1]
	err := firstError(
		CheckRouteOptions(e, o),
		rows("scores", scores),
		like("dlogits", dlogits, scores),
		want("dweights", dweights, device.Float32, t, o.TopK), dense("dweights", dweights),
		want("experts", experts, device.Int32, t, o.TopK), dense("experts", experts),
		apart("dlogits", dlogits, "scores", scores, true),
		outside("dlogits", dlogits, dweights, experts, balance),
	)
	if err != nil || balance.IsZero() {
		return err
	}
	return firstError(want("balance", balance, device.Float32, balance.Shape[0], e), checkRuns("balance", balance, t))
}

// checkRuns returns an error unless t tokens make as many runs of equal length as x has rows.
func checkRuns(name string, x Tensor, t int) error {
	if x.Rank != 2 || x.Shape[0] < 1 || t%x.Shape[0] != 0 {
		return fmt.Errorf("%s is %v: %d tokens do not make that many equal runs", name, x, t)
	}
	return nil
}

// CheckCountAssignments checks the operands of CountAssignments.
func CheckCountAssignments(counts, experts Tensor) error {
	return firstError(
		assignments("experts", experts, device.Int32),
		checkRuns("counts", counts, experts.Shape[0]),
		want("counts", counts, device.Float64, counts.Shape[0], counts.Shape[1]), dense("counts", counts),
		outside("counts", counts, experts),
	)
}

// CheckSumScores checks the operands of SumScores.
func CheckSumScores(mass, scores, experts Tensor) error {
	if scores.Rank != 2 {
		return fmt.Errorf("scores is %v, not [T E]", scores)
	}
	return firstError(
		rows("scores", scores),
		checkRuns("mass", mass, scores.Shape[0]),
		want("mass", mass, device.Float64, mass.Shape[0], scores.Shape[1]), dense("mass", mass),
		tokensOf("experts", experts, scores.Shape[0]),
		outside("mass", mass, scores, experts),
	)
}

// tokensOf returns an error unless experts is [t,K].
func tokensOf(name string, experts Tensor, t int) error {
	return firstError(assignments(name, experts, device.Int32), want(name, experts, device.Int32, t, experts.Shape[1]))
}

// CheckBalanceLoss checks the operands of BalanceLoss.
func CheckBalanceLoss(loss, gradient, counts, load, mass Tensor) error {
	if counts.Rank != 2 {
		return fmt.Errorf("counts is %v, not [G E]", counts)
	}
	return firstError(
		want("loss", loss, device.Float64, 1),
		want("counts", counts, device.Float64, counts.Shape[0], counts.Shape[1]), dense("counts", counts),
		like("mass", mass, counts), dense("mass", mass),
		like("load", load, counts), dense("load", load),
		want("gradient", gradient, device.Float32, counts.Shape[0], counts.Shape[1]), dense("gradient", gradient),
		outside("loss", loss, gradient, counts, load, mass),
		outside("gradient", gradient, counts, load, mass),
	)
}

// CheckRouterZLoss checks the operands of RouterZLoss.
func CheckRouterZLoss(loss, dlogits, logits, experts Tensor) error {
	return firstError(
		rows("logits", logits),
		like("dlogits", dlogits, logits),
		want("loss", loss, device.Float64, 1),
		apart("dlogits", dlogits, "logits", logits, false),
		tokensOf("experts", experts, logits.Rows()),
		outside("loss", loss, dlogits, logits, experts),
	)
}

// CheckUpdateRouteBias checks the operands of UpdateRouteBias.
func CheckUpdateRouteBias(bias, counts, clip Tensor) error {
	return firstError(
		want("bias", bias, device.Float32, counts.Len()),
		want("counts", counts, device.Float64, bias.Len()),
		want("clip", clip, device.Float64, 3),
		outside("bias", bias, counts, clip),
	)
}

// CheckKeepAssignments checks the operands of KeepAssignments.
func CheckKeepAssignments(kept, experts, weights Tensor, o KeepOptions) error {
	if o.Capacity < 1 {
		return fmt.Errorf("a capacity of %d", o.Capacity)
	}
	return firstError(
		assignments("experts", experts, device.Int32),
		like("kept", kept, experts), dense("kept", kept),
		want("weights", weights, device.Float32, experts.Shape[0], experts.Shape[1]), dense("weights", weights),
		outside("kept", kept, experts, weights),
	)
}

// CheckSortByExpert checks the operands of SortByExpert.
func CheckSortByExpert(position, offsets, experts Tensor) error {
	if offsets.Rank != 1 || offsets.Shape[0] < 2 {
		return fmt.Errorf("offsets is %v, not [E+1]", offsets)
	}
	return firstError(
		assignments("experts", experts, device.Int32),
		like("position", position, experts), dense("position", position),
		want("offsets", offsets, device.Int32, offsets.Shape[0]),
		outside("position", position, offsets, experts),
		outside("offsets", offsets, experts),
	)
}

// CheckSortRuns checks the operands of SortRuns.
func CheckSortRuns(position, offsets, counts Tensor) error {
	if counts.Rank != 2 || counts.Shape[1] < 1 {
		return fmt.Errorf("counts is %v, not [G E]", counts)
	}
	return firstError(
		want("counts", counts, device.Int32, counts.Shape[0], counts.Shape[1]), dense("counts", counts),
		want("position", position, device.Int32, position.Shape[0], 1), dense("position", position),
		want("offsets", offsets, device.Int32, counts.Shape[1]+1),
		outside("position", position, offsets, counts),
		outside("offsets", offsets, counts),
	)
}

// CheckShiftPositions checks the operands of ShiftPositions.
func CheckShiftPositions(position, first, shift Tensor) error {
	if first.Rank != 1 || first.Shape[0] < 1 {
		return fmt.Errorf("first is %v, not [S]", first)
	}
	return firstError(
		assignments("position", position, device.Int32),
		want("first", first, device.Int32, first.Shape[0]),
		want("shift", shift, device.Int32, first.Shape[0]),
		outside("position", position, first, shift),
	)
}

// CheckPermute checks the operands of Permute.
func CheckPermute(y, x, position Tensor) error {
	return firstError(checkPermutation("x", x, "y", y, position), outside("y", y, x, position))
}

// CheckUnpermute checks the operands of Unpermute.
func CheckUnpermute(y, x, position Tensor) error {
	return firstError(checkPermutation("y", y, "x", x, position), outside("y", y, x, position))
}

// checkPermutation checks tokens [T,C], and rows [R,C] for position's assignments of T tokens.
func checkPermutation(tokensName string, tokens Tensor, rowsName string, assigned, position Tensor) error {
	return firstError(
		assignments("position", position, device.Int32),
		activation(tokensName, tokens),
		want(tokensName, tokens, tokens.DType, position.Shape[0], tokens.Last()),
		want(rowsName, assigned, tokens.DType, assigned.Shape[0], tokens.Last()),
	)
}

// CheckGroupedMatMul checks the operands of GroupedMatMul, a, b and c each Float32 or BFloat16.
func CheckGroupedMatMul(c, a, b, offsets Tensor, o MatMulOptions) error {
	if offsets.Rank != 1 || offsets.Shape[0] < 2 {
		return fmt.Errorf("offsets is %v, not [E+1]", offsets)
	}
	if o.TransA && o.TransB {
		return errors.New("the gradient of b takes b's rows as they are")
	}
	bRank, cRank := 3, 2
	if o.TransA {
		bRank, cRank = 2, 3
	}
	if a.Rank != 2 || b.Rank != bRank || c.Rank != cRank {
		return fmt.Errorf("a is %v, b is %v, c is %v; they must have 2, %d and %d dimensions", a, b, c, bRank, cRank)
	}
	experts := offsets.Shape[0] - 1
	shapes := func() error {
		r, k := a.Shape[0], a.Shape[1]
		if o.TransA {
			return firstError(want("b", b, b.DType, r, b.Shape[1]), want("c", c, c.DType, experts, k, b.Shape[1]))
		}
		n, rowsB, colsB := b.Shape[2], k, b.Shape[2]
		if o.TransB {
			n, rowsB, colsB = b.Shape[1], b.Shape[1], k
		}
		return firstError(want("b", b, b.DType, experts, rowsB, colsB), want("c", c, c.DType, r, n))
	}
	return firstError(
		like("a", a, a), isFloat("a", a),
		like("b", b, b), isFloat("b", b),
		like("c", c, c), isFloat("c", c),
		shapes(),
		want("offsets", offsets, device.Int32, experts+1),
		outside("c", c, a, b, offsets),
	)
}

// CheckExpertSwiGLU checks the operands of ExpertSwiGLU.
func CheckExpertSwiGLU(y, x, weights, position Tensor) error {
	return firstError(
		CheckSwiGLU(y, x),
		assignments("position", position, device.Int32),
		want("y", y, y.DType, y.Shape[0], y.Last()),
		want("weights", weights, device.Float32, position.Shape[0], position.Shape[1]), dense("weights", weights),
		outside("y", y, weights, position),
	)
}

// CheckExpertSwiGLUBackward checks the operands of ExpertSwiGLUBackward.
func CheckExpertSwiGLUBackward(dx, dweights, dy, x, weights, position Tensor) error {
	return firstError(
		CheckSwiGLUBackward(dx, dy, x),
		assignments("position", position, device.Int32),
		want("dy", dy, dy.DType, dy.Shape[0], dy.Last()),
		want("weights", weights, device.Float32, position.Shape[0], position.Shape[1]), dense("weights", weights),
		like("dweights", dweights, weights), dense("dweights", dweights),
		outside("dx", dx, dweights, weights, position),
		outside("dweights", dweights, dy, x, weights, position),
	)
}
