package kernels

import (
	"fmt"

	"lockstep/kernels/device"
)

// CheckMatMul checks the operands of MatMul, each Float32 or BFloat16.
func CheckMatMul(c, a, b Tensor, o MatMulOptions) error {
	if a.Rank != 2 || b.Rank != 2 || c.Rank != 2 {
		return fmt.Errorf("a is %v, b is %v, c is %v; all three must have 2 dimensions", a, b, c)
	}
	m, k, n := a.Shape[0], a.Shape[1], b.Shape[1]
	if o.TransA {
		m, k = k, m
	}
	if o.TransB {
		n = b.Shape[0]
	}
	rowsB, colsB := k, n
	if o.TransB {
		rowsB, colsB = n, k
	}
	return firstError(
		like("a", a, a), isFloat("a", a),
		like("b", b, b), isFloat("b", b), want("b", b, b.DType, rowsB, colsB),
		want("c", c, c.DType, m, n), isFloat("c", c),
		apart("c", c, "a", a, false),
		apart("c", c, "b", b, false),
	)
}

// CheckCast checks the operands of Cast.
func CheckCast(y, x Tensor) error {
	if y.DType == x.DType && !y.IsZero() {
		return fmt.Errorf("y is %v and x is %v: there is nothing to convert", y, x)
	}
	return firstError(
		like("y", y, y), isFloat("y", y),
		like("x", x, x), isFloat("x", x), want("x", x, x.DType, y.Shape[:y.Rank]...),
		apart("y", y, "x", x, false),
	)
}

// CheckDropout checks the operands and the rate of Dropout.
func CheckDropout(y, x Tensor, o DropoutOptions) error {
	if !(o.Rate >= 0 && o.Rate < 1) {
		return fmt.Errorf("rate %g is not in [0, 1)", o.Rate)
	}
	if o.First < 0 {
		return fmt.Errorf("the first element has the number %d", o.First)
	}
	if o.Columns != 0 && o.Columns < y.Last() {
		return fmt.Errorf("%d columns are not a part of %d", y.Last(), o.Columns)
	}
	return firstError(activation("y", y), like("x", x, y), apart("y", y, "x", x, true))
}

// isFloat returns an error unless t is Float32 or BFloat16.
func isFloat(name string, t Tensor) error {
	if t.DType != device.Float32 && t.DType != device.BFloat16 {
		return fmt.Errorf("%s is %v, neither %v nor %v", name, t, device.Float32, device.BFloat16)
	}
	return nil
}

// CheckAttention checks the operands of Attention, documents being its options' and perhaps none. statsShape is what the
// device's AttentionSizes gives.
func CheckAttention(o, statistics, q, k, v Tensor, opt AttentionOptions, statsShape ...int) error {
	if err := firstError(checkHeads(q, k, v), checkDocuments(q, opt)); err != nil {
		return err
	}
	return firstError(
		want("o", o, q.DType, q.Shape[0], q.Shape[1], q.Shape[2], v.Shape[3]),
		want("statistics", statistics, device.Float32, statsShape...),
		outside("o", o, q, k, v, opt.Documents),
		outside("statistics", statistics, o, q, k, v, opt.Documents),
	)
}

// CheckAttentionBackward checks the operands of AttentionBackward. work is the bytes of workspace, statsShape the shape
// of the statistics that the device's AttentionSizes gives.
func CheckAttentionBackward(dq, dk, dv, do, q, k, v, o, statistics, workspace Tensor, opt AttentionOptions, work int, statsShape ...int) error {
	if err := CheckAttention(o, statistics, q, k, v, opt, statsShape...); err != nil {
		return err
	}
	return firstError(
		like("do", do, o),
		like("dq", dq, q),
		like("dk", dk, k),
		like("dv", dv, v),
		outside("dq", dq, dk, dv, do, q, k, v, o, statistics, workspace, opt.Documents),
		outside("dk", dk, dv, do, q, k, v, o, statistics, workspace, opt.Documents),
		outside("dv", dv, do, q, k, v, o, statistics, workspace, opt.Documents),
		outside("workspace", workspace, do, q, k, v, o, statistics, opt.Documents),
		checkWorkspace(workspace, work),
	)
}

// checkWorkspace checks that a workspace has the bytes that an operator needs, placed so that any type fits.
func checkWorkspace(workspace Tensor, bytes int) error {
	if bytes == 0 {
		return nil
	}
	if workspace.DType != device.Uint8 || workspace.Rank != 1 || workspace.Shape[0] < bytes {
		return fmt.Errorf("workspace is %v, not %v[%d] or more", workspace, device.Uint8, bytes)
	}
	if workspace.Offset%8 != 0 {
		return fmt.Errorf("workspace %v starts at byte %d, which is no multiple of 8", workspace, workspace.Offset)
	}
	return like("workspace", workspace, workspace)
}

// outside returns an error if the output may share an element with one of the others.
func outside(name string, out Tensor, others ...Tensor) error {
	for _, o := range others {
		if !o.IsZero() && !out.IsZero() && overlap(&out, &o) {
			return fmt.Errorf("%s %v overlaps the operand %v", name, out, o)
		}
	}
	return nil
}

// checkDocuments checks the documents of Attention's options. Their values are looked at when the operator runs.
func checkDocuments(q Tensor, opt AttentionOptions) error {
	if opt.Documents.IsZero() {
		return nil
	}
	return want("documents", opt.Documents, device.Int32, q.Shape[0], q.Shape[1])
}

// checkHeads checks q [B,Tq,N,D], k [B,Tk,Nkv,D] and v [B,Tk,Nkv,Dv] against each other.
func checkHeads(q, k, v Tensor) error {
	if q.Rank != 4 || k.Rank != 4 || v.Rank != 4 {
		return fmt.Errorf("q is %v, k is %v, v is %v; all three must have 4 dimensions", q, k, v)
	}
	if k.Shape[2] == 0 || q.Shape[2]%k.Shape[2] != 0 {
		return fmt.Errorf("the %d heads of q cannot share the %d heads of k evenly", q.Shape[2], k.Shape[2])
	}
	return firstError(
		activation("q", q),
		want("k", k, q.DType, q.Shape[0], k.Shape[1], k.Shape[2], q.Shape[3]),
		want("v", v, q.DType, q.Shape[0], k.Shape[1], k.Shape[2], v.Shape[3]),
	)
}
