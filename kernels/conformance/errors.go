package conformance

import (
	"errors"
	"strings"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// testOperandErrors gives each operator an operand that does not fit. A stream keeps its first error, so each gets a
// stream of its own.
func testOperandErrors(s *suite) {
	f := func(shape ...int) kernels.Tensor { return s.output(device.Float32, layout{}, shape...).Tensor }
	wide := func(n int) kernels.Tensor { return s.output(device.Float64, layout{}, n).Tensor }
	ids, narrow := s.ids(0, 1, 2, 3).Tensor, s.output(device.BFloat16, layout{}, 4, 5).Tensor
	x, y, c := f(4, 6), f(4, 6), f(6)
	outside := x
	outside.Offset = x.Storage.Bytes()
	transposed := x
	transposed.Stride[0], transposed.Stride[1] = 1, 4
	noMemory := kernels.NewTensor(nil, 0, device.Float32, 4, 6)
	adamw := kernels.AdamWOptions{LR: 1, Step: 1}
	tests := []struct {
		operator, operand string
		call              func(o kernels.Operators, st device.Stream)
	}{
		{"MatMul", "b", func(o kernels.Operators, st device.Stream) { o.MatMul(st, f(4, 4), x, y, kernels.MatMulOptions{}) }},
		{"MatMul", "c", func(o kernels.Operators, st device.Stream) {
			o.MatMul(st, f(6, 4), x, y, kernels.MatMulOptions{TransB: true})
		}},
		{"Attention", "heads", func(o kernels.Operators, st device.Stream) {
			o.Attention(st, f(1, 2, 3, 8), f(1, 3, 2), f(1, 2, 3, 8), f(1, 2, 2, 8), f(1, 2, 2, 8), kernels.AttentionOptions{})
		}},
		{"AttentionBackward", "dk", func(o kernels.Operators, st device.Stream) {
			q := f(1, 2, 2, 8)
			shape, _ := o.AttentionSizes(q, q, q)
			o.AttentionBackward(st, f(1, 2, 2, 8), f(1, 2, 2, 9), f(1, 2, 2, 8), f(1, 2, 2, 8), q, q, q, f(1, 2, 2, 8), f(shape...),
				kernels.Tensor{}, kernels.AttentionOptions{})
		}},
		{"Attention", "documents", func(o kernels.Operators, st device.Stream) {
			q := f(1, 4, 2, 8)
			o.Attention(st, f(1, 4, 2, 8), f(1, 2, 4), q, q, q, kernels.AttentionOptions{Causal: true, Documents: ids})
		}},
		{"AddBias", "bias", func(o kernels.Operators, st device.Stream) { o.AddBias(st, x, f(5)) }},
		{"AddBiasBackward", "dbias", func(o kernels.Operators, st device.Stream) { o.AddBiasBackward(st, f(7), x, false) }},
		{"Add", "b", func(o kernels.Operators, st device.Stream) { o.Add(st, x, y, f(4, 7)) }},
		{"Add", "a", func(o kernels.Operators, st device.Stream) { o.Add(st, x, outside, y) }},
		{"Add", "a", func(o kernels.Operators, st device.Stream) { o.Add(st, x, transposed, y) }},
		{"Add", "a", func(o kernels.Operators, st device.Stream) { o.Add(st, x, noMemory, y) }},
		{"Add", "a", func(o kernels.Operators, st device.Stream) { o.Add(st, x, kernels.Tensor{}, y) }},
		{"Add", "a", func(o kernels.Operators, st device.Stream) {
			o.Add(st, x.Narrow(0, 0, 3), x.Narrow(0, 1, 4), y.Narrow(0, 0, 3))
		}},
		{"Copy", "x", func(o kernels.Operators, st device.Stream) { o.Copy(st, x, wide(4)) }},
		{"Route", "groups", func(o kernels.Operators, st device.Stream) {
			o.Route(st, f(4, 2), ids.Reshape(2, 2), f(4, 6), x, kernels.Tensor{}, kernels.RouteOptions{TopK: 2, Groups: 4, TopGroups: 1})
		}},
		{"Route", "experts", func(o kernels.Operators, st device.Stream) {
			o.Route(st, f(4, 2), ids.Reshape(2, 2), f(4, 6), x, kernels.Tensor{}, kernels.RouteOptions{TopK: 2})
		}},
		{"CountAssignments", "runs", func(o kernels.Operators, st device.Stream) {
			o.CountAssignments(st, f(3, 6), ids.Reshape(4, 1), false)
		}},
		{"SumScores", "mass", func(o kernels.Operators, st device.Stream) {
			o.SumScores(st, f(2, 6), x, ids.Reshape(4, 1), false)
		}},
		{"LeaveOutPadding", "labels", func(o kernels.Operators, st device.Stream) {
			o.LeaveOutPadding(st, s.numbered(layout{}, make([]int32, 3), 3, 1), ids)
		}},
		{"SortByExpert", "position", func(o kernels.Operators, st device.Stream) {
			o.SortByExpert(st, ids, ids, ids.Reshape(2, 2))
		}},
		{"KeepAssignments", "weights", func(o kernels.Operators, st device.Stream) {
			o.KeepAssignments(st, s.numbered(layout{}, make([]int32, 4), 4, 1), ids.Reshape(4, 1), f(4, 2), kernels.KeepOptions{Capacity: 1})
		}},
		{"SortRuns", "position", func(o kernels.Operators, st device.Stream) {
			o.SortRuns(st, ids, ids, ids.Reshape(1, 4))
		}},
		{"ShiftPositions", "shift", func(o kernels.Operators, st device.Stream) {
			o.ShiftPositions(st, ids.Reshape(4, 1), ids.Narrow(0, 0, 2), ids.Narrow(0, 0, 1))
		}},
		{"Permute", "x", func(o kernels.Operators, st device.Stream) {
			o.Permute(st, x, f(2, 6), ids.Reshape(2, 2).Narrow(0, 0, 1))
		}},
		{"GroupedMatMul", "rows as they are", func(o kernels.Operators, st device.Stream) {
			o.GroupedMatMul(st, f(3, 6, 6), x, y, ids, kernels.MatMulOptions{TransA: true, TransB: true})
		}},
		{"GroupedMatMul", "b", func(o kernels.Operators, st device.Stream) {
			o.GroupedMatMul(st, f(4, 5), x, f(2, 6, 5), ids, kernels.MatMulOptions{})
		}},
		{"ExpertSwiGLU", "weights", func(o kernels.Operators, st device.Stream) {
			o.ExpertSwiGLU(st, f(4, 3), x, f(4, 1), ids.Reshape(2, 2))
		}},
		{"Cast", "nothing to convert", func(o kernels.Operators, st device.Stream) { o.Cast(st, x, y) }},
		{"Cast", "x", func(o kernels.Operators, st device.Stream) { o.Cast(st, narrow, y) }},
		{"Dropout", "x", func(o kernels.Operators, st device.Stream) {
			o.Dropout(st, x, narrow, kernels.DropoutOptions{Scale: 1})
		}},
		{"Dropout", "number -1", func(o kernels.Operators, st device.Stream) { o.Dropout(st, x, x, kernels.DropoutOptions{First: -1}) }},
		{"Dropout", "rate 1", func(o kernels.Operators, st device.Stream) { o.Dropout(st, x, x, kernels.DropoutOptions{Rate: 1}) }},
		{"MatMul", "a", func(o kernels.Operators, st device.Stream) { o.MatMul(st, f(4, 4), ids, x, kernels.MatMulOptions{}) }},
		{"Zero", "x", func(o kernels.Operators, st device.Stream) { o.Zero(st, x.Narrow(1, 0, 3)) }},
		{"RMSNorm", "rstd", func(o kernels.Operators, st device.Stream) { o.RMSNorm(st, y, f(3), x, c, 1e-5) }},
		{"RMSNorm", "y", func(o kernels.Operators, st device.Stream) { o.RMSNorm(st, x, f(4), x, c, 1e-5) }},
		{"RMSNormBackwardInput", "dx", func(o kernels.Operators, st device.Stream) {
			o.RMSNormBackwardInput(st, x, y, x, f(4), c, kernels.Tensor{})
		}},
		{"RMSNormBackwardInput", "residual", func(o kernels.Operators, st device.Stream) {
			o.RMSNormBackwardInput(st, y, y, x, f(4), c, f(4, 5))
		}},
		{"AddRMSNorm", "b", func(o kernels.Operators, st device.Stream) { o.AddRMSNorm(st, y, f(4), x, x, f(3, 6), c, 1e-5) }},
		{"AddRMSNorm", "y", func(o kernels.Operators, st device.Stream) { o.AddRMSNorm(st, y, f(4), f(4, 6), x, y, c, 1e-5) }},
		{"RMSNormBackwardWeight", "dgamma", func(o kernels.Operators, st device.Stream) {
			o.RMSNormBackwardWeight(st, f(5), y, x, f(4), false)
		}},
		{"RoPE", "x", func(o kernels.Operators, st device.Stream) {
			o.RoPE(st, x, x, c, c, kernels.Tensor{}, kernels.RoPEOptions{})
		}},
		{"RoPE", "cos", func(o kernels.Operators, st device.Stream) {
			o.RoPE(st, f(1, 2, 3, 4), f(1, 2, 3, 4), f(2, 2), f(2, 4), kernels.Tensor{}, kernels.RoPEOptions{})
		}},
		{"RoPE", "positions", func(o kernels.Operators, st device.Stream) {
			o.RoPE(st, f(1, 4, 3, 6), f(1, 4, 3, 6), x, y, ids, kernels.RoPEOptions{})
		}},
		{"SwiGLU", "x", func(o kernels.Operators, st device.Stream) { o.SwiGLU(st, y, x) }},
		{"SwiGLUBackward", "dx", func(o kernels.Operators, st device.Stream) { o.SwiGLUBackward(st, x, x, f(4, 12)) }},
		{"Embedding", "y", func(o kernels.Operators, st device.Stream) { o.Embedding(st, f(3, 6), x, ids) }},
		{"EmbeddingBackward", "dy", func(o kernels.Operators, st device.Stream) {
			o.EmbeddingBackward(st, x, f(4, 5), ids, false)
		}},
		{"CrossEntropy", "labels", func(o kernels.Operators, st device.Stream) { o.CrossEntropy(st, f(4), y, x, c, 1) }},
		{"CrossEntropy", "dlogits", func(o kernels.Operators, st device.Stream) {
			o.CrossEntropy(st, f(4), f(4, 5), x, ids, 1)
		}},
		{"Sum", "out", func(o kernels.Operators, st device.Stream) { o.Sum(st, f(1), x) }},
		{"SquaredNorm", "sums", func(o kernels.Operators, st device.Stream) { o.SquaredNorm(st, wide(2), x) }},
		{"AddExact", "sum", func(o kernels.Operators, st device.Stream) { o.AddExact(st, wide(5), wide(2)) }},
		{"ClipFactor", "clip", func(o kernels.Operators, st device.Stream) { o.ClipFactor(st, wide(2), wide(kernels.ExactSumLen), 1) }},
		{"AdamW", "step", func(o kernels.Operators, st device.Stream) {
			o.AdamW(st, c, f(6), f(6), f(6), wide(3), kernels.AdamWOptions{})
		}},
		{"AdamW", "m", func(o kernels.Operators, st device.Stream) { o.AdamW(st, c, f(5), f(6), f(6), wide(3), adamw) }},
		{"AdamW", "v", func(o kernels.Operators, st device.Stream) { o.AdamW(st, c, f(6), c, f(6), wide(3), adamw) }},
		{"Lerp", "x", func(o kernels.Operators, st device.Stream) { o.Lerp(st, x, x, 1) }},
		{"AddScaled", "b", func(o kernels.Operators, st device.Stream) { o.AddScaled(st, x, y, f(4, 7), 1, 1) }},
		{"Normalize", "sums", func(o kernels.Operators, st device.Stream) { o.Normalize(st, x, y, wide(2), 1) }},
		{"SumSquares", "rows", func(o kernels.Operators, st device.Stream) { o.SumSquares(st, f(5), f(6), x, false) }},
		{"SumSquares", "columns", func(o kernels.Operators, st device.Stream) { o.SumSquares(st, f(4), f(4), x, false) }},
		{"ApplyUpdate", "size", func(o kernels.Operators, st device.Stream) { o.ApplyUpdate(st, x, y, wide(2), wide(3), 1, 1) }},
		{"MuonMomentum", "m", func(o kernels.Operators, st device.Stream) {
			o.MuonMomentum(st, x, f(4, 5), y, wide(3), kernels.MuonOptions{})
		}},
		{"AdafactorMoments", "both or none", func(o kernels.Operators, st device.Stream) {
			o.AdafactorMoments(st, c, f(4), wide(1), f(6), kernels.Tensor{}, wide(3), 1, 1)
		}},
		{"AdafactorMoments", "columns", func(o kernels.Operators, st device.Stream) {
			o.AdafactorMoments(st, c, f(4), wide(1), f(6), f(5), wide(3), 1, 1)
		}},
		{"AdafactorScale", "column", func(o kernels.Operators, st device.Stream) {
			o.AdafactorScale(st, x, y, f(4), f(4), wide(1), wide(3), 1)
		}},
		{"AdafactorSize", "step", func(o kernels.Operators, st device.Stream) {
			o.AdafactorSize(st, wide(1), wide(1), wide(1), 6, kernels.AdafactorOptions{})
		}},
		{"AdafactorSize", "updates", func(o kernels.Operators, st device.Stream) {
			o.AdafactorSize(st, wide(1), wide(1), wide(2), 6, kernels.AdafactorOptions{Step: 1})
		}},
	}
	for _, test := range tests {
		if err := s.s.Synchronize(); err != nil {
			s.t.Fatal(err)
		}
		stream := s.d.NewStream(test.operator)
		test.call(s.d, stream)
		s.wantError(stream.Synchronize(), test.operator+": ", test.operand)
	}
}

func (s *suite) wantError(err error, parts ...string) {
	s.t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			s.t.Fatalf("the stream's error is %v; expected it to say %q", err, parts)
		}
	}
}

// testIDsOutOfRange checks that ids are looked at when the operator runs, and never used as addresses.
func testIDsOutOfRange(s *suite) {
	f := func(shape ...int) kernels.Tensor { return s.input(layout{}, shape...).Tensor }
	weight, y, logits, loss := f(5, 3), f(2, 3), f(2, 5), f(2)
	high, low := s.ids(4, 5).Tensor, s.ids(-1, 0).Tensor
	q, o, stats, tables := f(1, 2, 1, 4), f(1, 2, 1, 4), f(1, 1, 2), f(5, 4)
	documents := func(first, second int32) kernels.AttentionOptions {
		return kernels.AttentionOptions{Causal: true, Documents: s.ids(first, second).Reshape(1, 2)}
	}
	position, firsts, far := s.ids(0, 0).Tensor.Reshape(1, 2), s.ids(0, 0, 0, 0, 0, 0).Tensor, s.ids(0, 5).Tensor
	token, two, matrix := f(1, 3), f(2, 3), f(1, 3, 3)
	beyond, falling, negative := documents(0, 3), documents(1, 0), documents(-1, 0)
	if err := s.s.Synchronize(); err != nil {
		s.t.Fatal(err)
	}
	for _, test := range []struct {
		want []string
		call func(o kernels.Operators, st device.Stream)
	}{
		{[]string{"Embedding: ", "ids[1] is 5"}, func(o kernels.Operators, st device.Stream) { o.Embedding(st, y, weight, high) }},
		{[]string{"Embedding: ", "ids[0] is -1"}, func(o kernels.Operators, st device.Stream) { o.Embedding(st, y, weight, low) }},
		{[]string{"EmbeddingBackward: ", "ids[1] is 5"}, func(o kernels.Operators, st device.Stream) {
			o.EmbeddingBackward(st, weight, y, high, true)
		}},
		{[]string{"EmbeddingPart: ", "ids[1] is 5"}, func(o kernels.Operators, st device.Stream) {
			o.EmbeddingPart(st, y, weight, high, kernels.Vocabulary{Whole: 5})
		}},
		{[]string{"EmbeddingPart: ", "outside a vocabulary of 3"}, func(o kernels.Operators, st device.Stream) {
			o.EmbeddingPart(st, y, weight, high, kernels.Vocabulary{First: 1, Whole: 3})
		}},
		{[]string{"SortByExpert: ", "experts[1] is 5"}, func(k kernels.Operators, st device.Stream) {
			k.SortByExpert(st, position, firsts, high.Reshape(1, 2))
		}},
		{[]string{"SortRuns: ", "counts[0,1] is 5"}, func(k kernels.Operators, st device.Stream) {
			k.SortRuns(st, position.Reshape(2, 1), firsts.Narrow(0, 0, 3), far.Reshape(1, 2))
		}},
		{[]string{"SortRuns: ", "0 rows together, not 2"}, func(k kernels.Operators, st device.Stream) {
			k.SortRuns(st, position.Reshape(2, 1), firsts.Narrow(0, 0, 3), firsts.Narrow(0, 3, 5).Reshape(1, 2))
		}},
		{[]string{"ShiftPositions: ", "first is [4 5]"}, func(k kernels.Operators, st device.Stream) {
			k.ShiftPositions(st, position.Reshape(2, 1), high, far)
		}},
		{[]string{"Permute: ", "position[0] is 4"}, func(k kernels.Operators, st device.Stream) {
			k.Permute(st, y, token, high.Reshape(1, 2))
		}},
		{[]string{"GroupedMatMul: ", "offsets[1] is 5"}, func(k kernels.Operators, st device.Stream) {
			k.GroupedMatMul(st, y, two, matrix, far, kernels.MatMulOptions{})
		}},
		{[]string{"RoPE: ", "positions[1] is 5"}, func(k kernels.Operators, st device.Stream) {
			k.RoPE(st, o, q, tables, tables, high.Reshape(1, 2), kernels.RoPEOptions{})
		}},
		{[]string{"Attention: ", "documents[0,1] is 3"}, func(k kernels.Operators, st device.Stream) { k.Attention(st, o, stats, q, q, q, beyond) }},
		{[]string{"Attention: ", "documents[0,1] is 0"}, func(k kernels.Operators, st device.Stream) { k.Attention(st, o, stats, q, q, q, falling) }},
		{[]string{"Attention: ", "documents[0,0] is -1"}, func(k kernels.Operators, st device.Stream) { k.Attention(st, o, stats, q, q, q, negative) }},
		{[]string{"CrossEntropy: ", "labels[1] is 5"}, func(o kernels.Operators, st device.Stream) {
			o.CrossEntropy(st, loss, kernels.Tensor{}, logits, high, 1)
		}},
	} {
		stream := s.d.NewStream("ids")
		test.call(s.d, stream)
		s.wantError(stream.Synchronize(), test.want...)
		if err := s.s.Synchronize(); err != nil {
			s.t.Fatalf("another stream failed with it: %v", err)
		}
	}
}

// testSkipping checks that work before a failure runs, work after it does not, and that the first error stays.
func testSkipping(s *suite) {
	x := s.operand(device.Float32, layout{}, func(int) float64 { return 1 }, 3)
	if err := s.s.Synchronize(); err != nil {
		s.t.Fatal(err)
	}
	failing := s.d.NewStream("failing")
	s.d.Add(failing, x.Tensor, x.Tensor, x.Tensor)
	failing.Fail(errors.New("the planted failure"))
	s.d.Add(failing, x.Tensor, x.Tensor, x.Tensor)
	s.d.Write(failing, x.memory, make([]byte, 12))
	failing.Fail(errors.New("a later failure"))
	for range 2 {
		s.wantError(failing.Synchronize(), "the planted failure")
	}
	s.wantError(s.d.Read(failing, make([]byte, 12), x.memory), "the planted failure")
	s.check("x", x, []float64{2, 2, 2}, tolerance{})
}
