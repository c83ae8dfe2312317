package kernels

import (
	"errors"
	"fmt"

	"lockstep/kernels/device"
)

// The checks in this file are shared by all devices: each returns an error that names the operand at fault, nil when the
// operands fit the operator. A device calls them before it enqueues anything. They allocate nothing unless they fail.

// CheckAddBias checks the operands of AddBias.
func CheckAddBias(y, bias Tensor) error {
	return firstError(
		activation("y", y),
		want("bias", bias, device.Float32, y.Last()),
		apart("y", y, "bias", bias, false),
	)
}

// CheckAddBiasBackward checks the operands of AddBiasBackward.
func CheckAddBiasBackward(dbias, dy Tensor) error {
	return firstError(
		activation("dy", dy),
		want("dbias", dbias, device.Float32, dy.Last()),
		apart("dbias", dbias, "dy", dy, false),
	)
}

// CheckAdd checks the operands of Add.
func CheckAdd(y, a, b Tensor) error {
	return firstError(
		activation("y", y),
		alike("a", a, y),
		alike("b", b, y),
		apart("y", y, "a", a, true),
		apart("y", y, "b", b, true),
	)
}

// CheckCopy checks the operands of Copy.
func CheckCopy(y, x Tensor) error {
	return firstError(
		like("y", y, y),
		like("x", x, y),
		apart("y", y, "x", x, true),
	)
}

// CheckZero checks the operand of Zero.
func CheckZero(x Tensor) error { return firstError(like("x", x, x), dense("x", x)) }

// CheckRMSNorm checks the operands of RMSNorm.
func CheckRMSNorm(y, rstd, x, gamma Tensor) error {
	return firstError(
		activation("x", x),
		alike("y", y, x),
		want("rstd", rstd, device.Float32, x.Rows()),
		want("gamma", gamma, device.Float32, x.Last()),
		apart("y", y, "x", x, false),
		apart("y", y, "gamma", gamma, false),
		apart("rstd", rstd, "x", x, false),
		apart("rstd", rstd, "y", y, false),
	)
}

// CheckAddRMSNorm checks the operands of AddRMSNorm.
func CheckAddRMSNorm(y, rstd, sum, a, b, gamma Tensor) error {
	return firstError(
		activation("sum", sum),
		alike("a", a, sum),
		alike("b", b, sum),
		alike("y", y, sum),
		want("rstd", rstd, device.Float32, sum.Rows()),
		want("gamma", gamma, device.Float32, sum.Last()),
		apart("sum", sum, "a", a, true),
		apart("sum", sum, "b", b, true),
		apart("sum", sum, "gamma", gamma, false),
		apart("y", y, "sum", sum, false), apart("y", y, "a", a, false), apart("y", y, "b", b, false),
		apart("y", y, "gamma", gamma, false),
		apart("rstd", rstd, "sum", sum, false), apart("rstd", rstd, "a", a, false), apart("rstd", rstd, "b", b, false),
		apart("rstd", rstd, "y", y, false), apart("rstd", rstd, "gamma", gamma, false),
	)
}

// CheckRMSNormBackwardInput checks the operands of RMSNormBackwardInput; residual may be none.
func CheckRMSNormBackwardInput(dx, dy, x, rstd, gamma, residual Tensor) error {
	err := firstError(
		activation("x", x),
		alike("dx", dx, x),
		alike("dy", dy, x),
		want("rstd", rstd, device.Float32, x.Rows()),
		want("gamma", gamma, device.Float32, x.Last()),
		apart("dx", dx, "dy", dy, true),
		apart("dx", dx, "x", x, false),
		apart("dx", dx, "rstd", rstd, false),
		apart("dx", dx, "gamma", gamma, false),
	)
	if err != nil || residual.IsZero() {
		return err
	}
	return firstError(alike("residual", residual, x), apart("dx", dx, "residual", residual, true))
}

// CheckRMSNormBackwardWeight checks the operands of RMSNormBackwardWeight.
func CheckRMSNormBackwardWeight(dgamma, dy, x, rstd Tensor) error {
	return firstError(
		activation("x", x),
		want("dgamma", dgamma, device.Float32, x.Last()),
		alike("dy", dy, x),
		want("rstd", rstd, device.Float32, x.Rows()),
		apart("dgamma", dgamma, "dy", dy, false),
		apart("dgamma", dgamma, "x", x, false),
		apart("dgamma", dgamma, "rstd", rstd, false),
	)
}

// CheckRoPE checks the operands of RoPE; positions may be none.
func CheckRoPE(y, x, cos, sin, positions Tensor) error {
	if x.Rank != 4 || x.Last()%2 != 0 {
		return fmt.Errorf("x is %v, not [B T N D] with an even D", x)
	}
	rows := x.Shape[1]
	if !positions.IsZero() {
		if err := want("positions", positions, device.Int32, x.Shape[0], x.Shape[1]); err != nil {
			return err
		}
		rows = cos.Shape[0]
	}
	return firstError(
		activation("x", x),
		like("y", y, x),
		want("cos", cos, device.Float32, rows, x.Shape[3]),
		want("sin", sin, device.Float32, rows, x.Shape[3]),
		apart("y", y, "x", x, true),
		apart("y", y, "cos", cos, false),
		apart("y", y, "sin", sin, false),
		apart("y", y, "positions", positions, false),
	)
}

// CheckSumHeads checks the operands of SumHeads.
func CheckSumHeads(y, x Tensor) error {
	if x.Rank != 4 || x.Shape[2] < 1 {
		return fmt.Errorf("x is %v, not [B T N D]", x)
	}
	return firstError(
		activation("x", x),
		want("y", y, x.DType, x.Shape[0], x.Shape[1], 1, x.Shape[3]),
		apart("y", y, "x", x, false),
	)
}

// CheckSwiGLU checks the operands of SwiGLU.
func CheckSwiGLU(y, x Tensor) error {
	return firstError(
		activation("y", y),
		halves("y", y, "x", x),
		apart("y", y, "x", x, false),
	)
}

// CheckSwiGLUBackward checks the operands of SwiGLUBackward.
func CheckSwiGLUBackward(dx, dy, x Tensor) error {
	return firstError(
		activation("dy", dy),
		halves("dy", dy, "x", x),
		like("dx", dx, x),
		apart("dx", dx, "dy", dy, false),
		apart("dx", dx, "x", x, true),
	)
}

// CheckEmbedding checks the operands of Embedding.
func CheckEmbedding(y, weight, ids Tensor) error {
	return firstError(
		activation("y", y), want("y", y, y.DType, ids.Len(), weight.Last()),
		want("weight", weight, weight.DType, weight.Shape[0], y.Last()), isFloat("weight", weight),
		want("ids", ids, device.Int32, y.Rows()),
		apart("y", y, "weight", weight, false),
		apart("y", y, "ids", ids, false),
	)
}

// CheckEmbeddingBackward checks the operands of EmbeddingBackward.
func CheckEmbeddingBackward(dweight, dy, ids Tensor) error {
	return firstError(
		activation("dy", dy), want("dy", dy, dy.DType, ids.Len(), dweight.Last()),
		want("dweight", dweight, device.Float32, dweight.Shape[0], dy.Last()),
		want("ids", ids, device.Int32, dy.Rows()),
		apart("dweight", dweight, "dy", dy, false),
		apart("dweight", dweight, "ids", ids, false),
	)
}

// CheckCrossEntropy checks the operands of CrossEntropy; dlogits may be none.
func CheckCrossEntropy(loss, dlogits, logits, labels Tensor) error {
	err := firstError(
		want("logits", logits, device.Float32, logits.Shape[0], logits.Shape[1]),
		want("loss", loss, device.Float32, logits.Shape[0]),
		want("labels", labels, device.Int32, logits.Shape[0]),
		apart("loss", loss, "logits", logits, false),
		apart("loss", loss, "labels", labels, false),
	)
	if err != nil || dlogits.IsZero() {
		return err
	}
	return firstError(
		like("dlogits", dlogits, logits),
		apart("dlogits", dlogits, "logits", logits, true),
		apart("dlogits", dlogits, "labels", labels, false),
		apart("dlogits", dlogits, "loss", loss, false),
	)
}

// CheckSum checks the operands of Sum.
func CheckSum(out, x Tensor) error {
	return firstError(
		rows("x", x),
		want("out", out, device.Float64, 1),
		apart("out", out, "x", x, false),
	)
}

// CheckSquaredNorm checks the operands of SquaredNorm.
func CheckSquaredNorm(sums, x Tensor) error {
	return firstError(
		like("x", x, x),
		isFloat32("x", x),
		dense("x", x),
		want("sums", sums, device.Float64, SquaredNormBlocks(x.Len())),
		apart("sums", sums, "x", x, false),
	)
}

// CheckClipFactor checks the operands of ClipFactor.
func CheckClipFactor(clip, sum Tensor) error {
	return firstError(
		want("clip", clip, device.Float64, 3),
		want("sum", sum, device.Float64, ExactSumLen),
		apart("clip", clip, "sum", sum, false),
	)
}

// CheckAdamW checks the operands of AdamW.
func CheckAdamW(p, m, v, g, clip Tensor, o AdamWOptions) error {
	if o.Step < 1 {
		return fmt.Errorf("step is %d; steps count from 1", o.Step)
	}
	return firstError(
		like("p", p, p), isFloat32("p", p), dense("p", p),
		like("m", m, p), dense("m", m),
		like("v", v, p), dense("v", v),
		like("g", g, p), dense("g", g),
		want("clip", clip, device.Float64, 3),
		apart("p", p, "m", m, false), apart("p", p, "v", v, false), apart("m", m, "v", v, false),
		apart("p", p, "g", g, false), apart("m", m, "g", g, false), apart("v", v, "g", g, false),
		apart("p", p, "clip", clip, false), apart("m", m, "clip", clip, false), apart("v", v, "clip", clip, false),
	)
}

// rows returns an error unless t is a Float32 tensor of at least one dimension.
func rows(name string, t Tensor) error {
	if t.Rank == 0 && !t.IsZero() {
		return fmt.Errorf("%s %v has no dimension", name, t)
	}
	return firstError(like(name, t, t), isFloat32(name, t))
}

// activation returns an error unless t is a Float32 or BFloat16 tensor of at least one dimension.
func activation(name string, t Tensor) error {
	if t.Rank == 0 && !t.IsZero() {
		return fmt.Errorf("%s %v has no dimension", name, t)
	}
	return firstError(like(name, t, t), isFloat(name, t))
}

// alike returns an error unless t has the shape of o and is a Float32 or BFloat16 tensor, whatever o is.
func alike(name string, t, o Tensor) error {
	return firstError(want(name, t, t.DType, o.Shape[:o.Rank]...), isFloat(name, t))
}

// halves returns an error unless x has the shape of y with a last dimension of twice the size.
func halves(yName string, y Tensor, xName string, x Tensor) error {
	if x.Rank == 0 || x.Last() != 2*y.Last() {
		return fmt.Errorf("%s is %v: its last dimension is not twice that of %s %v", xName, x, yName, y)
	}
	x2 := x
	x2.Shape[x.Rank-1] = y.Last()
	return firstError(like(xName, x, x), like(xName, x2, y))
}

func isFloat32(name string, t Tensor) error {
	if t.DType != device.Float32 {
		return fmt.Errorf("%s is %v, not %v", name, t, device.Float32)
	}
	return nil
}

// like returns an error unless t has the type and shape of o and passes sound.
func like(name string, t, o Tensor) error { return want(name, t, o.DType, o.Shape[:o.Rank]...) }

// want returns an error unless t is there, has the type and shape, and passes sound.
func want(name string, t Tensor, dtype device.DType, shape ...int) error {
	ok := !t.IsZero() && t.DType == dtype && t.Rank == len(shape)
	for i := 0; ok && i < t.Rank; i++ {
		ok = t.Shape[i] == shape[i]
	}
	if !ok {
		return wrongShape(name, t, dtype, append([]int(nil), shape...))
	}
	return sound(name, t)
}

func wrongShape(name string, t Tensor, dtype device.DType, shape []int) error {
	if t.IsZero() {
		return fmt.Errorf("%s is missing", name)
	}
	return fmt.Errorf("%s is %v, not %v%v", name, t, dtype, shape)
}

// sound returns an error unless t is a view inside its storage with a dense last dimension.
func sound(name string, t Tensor) error {
	if t.Storage == nil {
		return fmt.Errorf("%s %v has no memory", name, t)
	}
	if t.Rank > 0 && t.Stride[t.Rank-1] != 1 && t.Last() > 1 {
		return fmt.Errorf("the last dimension of %s %v has stride %d, not 1", name, t, t.Stride[t.Rank-1])
	}
	for i := range t.Rank {
		if t.Shape[i] < 0 || t.Stride[i] < 0 {
			return fmt.Errorf("%s %v has a negative size or stride: %v", name, t, strides(t))
		}
	}
	r := t.Region()
	if r.Offset < 0 || r.Offset+r.Bytes > t.Storage.Bytes() {
		return fmt.Errorf("%s %v takes the bytes [%d, %d) of a storage of %d", name, t, r.Offset, r.Offset+r.Bytes, t.Storage.Bytes())
	}
	if t.Offset%t.DType.Size() != 0 {
		return fmt.Errorf("%s %v starts at byte %d, which is no multiple of its elements' %d bytes", name, t, t.Offset, t.DType.Size())
	}
	return nil
}

func dense(name string, t Tensor) error {
	if !t.Dense() {
		return fmt.Errorf("%s %v is not dense: strides %v", name, t, strides(t))
	}
	return nil
}

// apart returns an error if the output and the input may share an element, unless they are the very same view and same
// allows that.
func apart(outName string, out Tensor, inName string, in Tensor, same bool) error {
	if same && out == in || !overlap(&out, &in) {
		return nil
	}
	if same {
		return errors.New(outName + " overlaps " + inName + " without being the same view")
	}
	return errors.New(outName + " overlaps " + inName)
}

// overlap reports whether a and b may share an element. It tells apart views of different columns of one row-major
// buffer, such as the heads of q, k and v in a fused projection, whose regions interleave.
func overlap(a, b *Tensor) bool {
	if a.Len() == 0 || b.Len() == 0 || !a.Region().Overlaps(b.Region()) {
		return false
	}
	for i := range MaxRank {
		if inOtherColumns(a, b, a.Stride[i]*a.DType.Size()) || inOtherColumns(a, b, b.Stride[i]*b.DType.Size()) {
			return false
		}
	}
	return true
}

// inOtherColumns reports whether, in a matrix of rows of pitch bytes that starts where the first of a and b does, the two
// lie in different columns.
func inOtherColumns(a, b *Tensor, pitch int) bool {
	if pitch == 0 {
		return false
	}
	if a.Offset > b.Offset {
		a, b = b, a
	}
	at := (b.Offset - a.Offset) % pitch
	return columnBytes(a, pitch) <= at && at+columnBytes(b, pitch) <= pitch
}

// columnBytes returns how many bytes of each row of pitch bytes t takes at most.
func columnBytes(t *Tensor, pitch int) int {
	n := t.DType.Size()
	for i := range t.Rank {
		if step := t.Stride[i] * t.DType.Size(); step%pitch != 0 {
			n += (t.Shape[i] - 1) * step
		}
	}
	return n
}

// strides returns a copy: a slice of the array itself would move every checked tensor to the heap.
func strides(t Tensor) []int { return append([]int(nil), t.Stride[:t.Rank]...) }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
