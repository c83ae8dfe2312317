// Package conformance is the test suite that every kernels.Device passes: each operator against a scalar twin, on shapes
// that are no multiple of any block, on strided views, with NaNs and infinities, accumulating and in place where the
// operator allows it; wrong operands and their errors; streams, events, reads and writes.
//
// The twins (AddBias, RMSNorm, ...) are exported: they are the readable definition of the operators.
package conformance

import (
	"math"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// An Open makes a device and a stream to test and closes them when the test ends.
type Open func(t *testing.T) (kernels.Device, device.Stream)

// Run tests the devices that open makes, one device for each test.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		run  func(s *suite)
	}{
		{"AddBias", testAddBias}, {"Add", testAdd}, {"Copy", testCopy}, {"Cast", testCast}, {"Dropout", testDropout}, {"Zero", testZero}, {"Sum", testSum},
		{"RMSNorm", testRMSNorm}, {"AddRMSNorm", testAddRMSNorm}, {"RMSNormBackwardInput", testRMSNormBackwardInput},
		{"RMSNormBackwardWeight", testRMSNormBackwardWeight},
		{"RoPE", testRoPE}, {"SumHeads", testSumHeads}, {"SwiGLU", testSwiGLU}, {"Embedding", testEmbedding}, {"CrossEntropy", testCrossEntropy},
		{"EmbeddingPart", testEmbeddingPart}, {"CrossEntropyParts", testCrossEntropyParts},
		{"SquaredNorm", testSquaredNorm}, {"AddExact", testAddExact}, {"ClipFactor", testClipFactor}, {"AdamW", testAdamW},
		{"Lerp", testLerp}, {"AddScaled", testAddScaled}, {"Normalize", testNormalize}, {"SumSquares", testSumSquares}, {"ApplyUpdate", testApplyUpdate},
		{"MuonMomentum", testMuonMomentum}, {"AdafactorMoments", testAdafactorMoments}, {"AdafactorScale", testAdafactorScale}, {"AdafactorSize", testAdafactorSize},
		{"Activations", testActivations}, {"NarrowSum", testNarrowSum},
		{"MatMul", testMatMul}, {"MatMulBFloat16", testMatMulBFloat16}, {"ProductsInBFloat16", testProductsInBFloat16}, {"Attention", testAttention}, {"AttentionBackward", testAttentionBackward},
		{"AttentionParts", testAttentionParts},
		{"Route", testRoute}, {"UpdateRouteBias", testUpdateRouteBias}, {"Permute", testPermute},
		{"KeepAssignments", testKeepAssignments}, {"SortRuns", testSortRuns}, {"ShiftPositions", testShiftPositions}, {"ExpertSwiGLU", testExpertSwiGLU},
		{"GroupedMatMul", testGroupedMatMul},
		{"OperandErrors", testOperandErrors}, {"IDsOutOfRange", testIDsOutOfRange}, {"Skipping", testSkipping},
		{"ReadWrite", testReadWrite}, {"Events", testEvents}, {"FailedEvents", testFailedEvents},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, stream := open(t)
			test.run(&suite{t: t, d: d, s: stream})
		})
	}
}

// A suite is a device under test.
type suite struct {
	t     *testing.T
	d     kernels.Device
	s     device.Stream
	state uint64 // of the generator of inputs
}

// random returns a number in [-2, 2) that float32 holds exactly (splitmix64: G. Steele et al., OOPSLA 2014).
func (s *suite) random() float64 {
	s.state += 0x9E3779B97F4A7C15
	z := s.state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	z ^= z >> 31
	return float64(int64(z)>>44) * 0x1p-18
}

// A layout says how an operand lies in memory.
type layout struct {
	// pad elements lie between one row and the next. A row holds the last inner dimensions; 0 means 1.
	pad, inner int
	// special puts NaN and infinities among an input's values.
	special bool
}

// layouts are the ones that operators on rows are tested with.
func layouts() []layout { return []layout{{}, {pad: 3}, {special: true}} }

// An operand is a tensor, and the whole memory that it lies in as it was before the operator ran.
type operand struct {
	kernels.Tensor
	memory device.Region
	before []float64
}

// operand makes a tensor in memory full of the given filling, so that a write beside the tensor shows.
func (s *suite) operand(dtype device.DType, l layout, values func(i int) float64, shape ...int) operand {
	s.t.Helper()
	inner := max(l.inner, 1)
	t := kernels.Tensor{DType: dtype, Rank: len(shape), Offset: l.pad / 2 * dtype.Size()}
	stride := 1
	for i := len(shape) - 1; i >= 0; i-- {
		t.Shape[i], t.Stride[i] = shape[i], stride
		stride *= shape[i]
		if i == len(shape)-inner {
			stride += l.pad
		}
	}
	memory := make([]float64, stride+l.pad)
	for i := range memory {
		memory[i] = 77
	}
	for i := range t.Len() {
		memory[t.Offset/dtype.Size()+position(t, i)] = values(i)
	}
	storage, err := s.d.Alloc(max(len(memory), 1) * dtype.Size())
	if err != nil {
		s.t.Fatal(err)
	}
	t.Storage = storage
	o := operand{Tensor: t, memory: device.Region{Storage: storage, Bytes: len(memory) * dtype.Size()}, before: memory}
	s.d.Write(s.s, o.memory, encode(dtype, memory))
	return o
}

// position returns where element i in row-major order lies, in elements from the first.
func position(t kernels.Tensor, i int) int {
	at := 0
	for k := t.Rank - 1; k >= 0; k-- {
		at += i % t.Shape[k] * t.Stride[k]
		i /= t.Shape[k]
	}
	return at
}

// input makes a float32 operand of random values.
func (s *suite) input(l layout, shape ...int) operand {
	s.t.Helper()
	special := []float64{math.NaN(), math.Inf(1), math.Inf(-1)}
	return s.operand(device.Float32, l, func(i int) float64 {
		if l.special && i%97 == 5 {
			return special[i/97%3]
		}
		return s.random()
	}, shape...)
}

// output makes an operand whose values must not matter.
func (s *suite) output(dtype device.DType, l layout, shape ...int) operand {
	s.t.Helper()
	return s.operand(dtype, l, func(int) float64 { return math.NaN() }, shape...)
}

// target makes an output that an operator overwrites, or one with values to accumulate to.
func (s *suite) target(accumulate bool, l layout, shape ...int) operand {
	s.t.Helper()
	if accumulate {
		l.special = false
		return s.input(l, shape...)
	}
	return s.output(device.Float32, l, shape...)
}

// ids makes an Int32 operand.
func (s *suite) ids(values ...int32) operand {
	s.t.Helper()
	return s.operand(device.Int32, layout{}, func(i int) float64 { return float64(values[i]) }, len(values))
}

// numbered makes an Int32 tensor of any shape.
func (s *suite) numbered(l layout, values []int32, shape ...int) kernels.Tensor {
	s.t.Helper()
	return s.operand(device.Int32, l, func(i int) float64 { return float64(values[i]) }, shape...).Tensor
}

// values returns the operand's elements as they were before the operator ran.
func (o operand) values() []float64 { return o.elements(o.before) }

func (o operand) elements(memory []float64) []float64 {
	v := make([]float64, o.Len())
	for i := range v {
		v[i] = memory[o.Offset/o.DType.Size()+position(o.Tensor, i)]
	}
	return v
}

// memoryNow reads the whole memory of o.
func (s *suite) memoryNow(o operand) []float64 {
	s.t.Helper()
	raw := make([]byte, o.memory.Bytes)
	if err := s.d.Read(s.s, raw, o.memory); err != nil {
		s.t.Fatal(err)
	}
	return decode(o.DType, raw)
}

// ulp is half the distance from 1 to the next float32: the largest relative error of one rounding.
const ulp = 0x1p-24

// A tolerance bounds the difference to a twin's value w by relative*|w| + absolute.
type tolerance struct{ relative, absolute float64 }

// check compares o with the twin's values, and the memory around it with what it was.
func (s *suite) check(name string, o operand, want []float64, tol tolerance) {
	s.t.Helper()
	now := s.memoryNow(o)
	for i, w := range want {
		got := now[o.Offset/o.DType.Size()+position(o.Tensor, i)]
		if !near(got, w, tol) {
			s.t.Fatalf("%s %v: element %d is %v, the twin has %v (difference %.3g)", name, o.Tensor, i, got, w, got-w)
		}
	}
	inside := map[int]bool{}
	for i := range o.Len() {
		inside[o.Offset/o.DType.Size()+position(o.Tensor, i)] = true
	}
	for i, v := range now {
		if !inside[i] && v != o.before[i] {
			s.t.Fatalf("%s %v: the operator wrote %v beside it, at element %d of its memory", name, o.Tensor, v, i)
		}
	}
}

func near(got, want float64, tol tolerance) bool {
	if math.IsNaN(want) || math.IsNaN(got) {
		return math.IsNaN(want) && math.IsNaN(got)
	}
	return got == want || math.Abs(got-want) <= tol.relative*math.Abs(want)+tol.absolute
}

func encode(dtype device.DType, values []float64) []byte {
	switch dtype {
	case device.Float64:
		return device.BytesOf(values)
	case device.Int32:
		return device.BytesOf(convert[int32](values))
	case device.BFloat16:
		return device.BytesOf(toBFloat16(values))
	default:
		return device.BytesOf(convert[float32](values))
	}
}

func decode(dtype device.DType, raw []byte) []float64 {
	switch dtype {
	case device.Float64:
		return numbers[float64](raw)
	case device.Int32:
		return numbers[int32](raw)
	case device.BFloat16:
		return fromBFloat16(raw)
	default:
		return numbers[float32](raw)
	}
}

func convert[T int32 | float32](values []float64) []T {
	r := make([]T, len(values))
	for i, v := range values {
		r[i] = T(v)
	}
	return r
}

func numbers[T int32 | float32 | float64](raw []byte) []float64 {
	var zero [1]T
	typed := make([]T, len(raw)/len(device.BytesOf(zero[:])))
	copy(device.BytesOf(typed), raw)
	r := make([]float64, len(typed))
	for i, v := range typed {
		r[i] = float64(v)
	}
	return r
}
