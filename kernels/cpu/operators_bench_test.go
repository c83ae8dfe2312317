package cpu

import (
	"fmt"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// The shapes of a Llama of 15 M parameters: a micro batch of 4 x 256 tokens, hidden size, feed-forward width, vocabulary,
// heads and their dimension, and the tokens whose logits the head has at a time.
const (
	benchBatch, benchSequence = 4, 256
	benchTokens               = benchBatch * benchSequence
	benchHidden               = 288
	benchWidth                = 768
	benchVocabulary           = 32000
	benchHeads, benchDim      = 6, 48
	benchChunk                = 131
)

// A memoryBench is one operator with the elements of float32 that it must read and write at least. 1 GB/s is 10^9 bytes.
type memoryBench struct {
	name     string
	elements int
	launch   func()
}

// BenchmarkMemory runs the operators that memory bounds on the shapes above. The copies are what memory gives, from the
// fastest cache to what no cache holds: an operator is at the speed of memory where it comes near the copy of its size.
func BenchmarkMemory(b *testing.B) {
	for _, threads := range []int{1, 2} {
		d, s := open(b, "", threads)
		cases := copyBenches(operands{b, d}, d, s)
		cases = append(cases, activationBenches(operands{b, d}, d, s)...)
		cases = append(cases, parameterBenches(operands{b, d}, d, s)...)
		for _, c := range cases {
			b.Run(fmt.Sprintf("%s/threads=%d", c.name, threads), func(b *testing.B) {
				b.SetBytes(int64(4 * c.elements))
				for b.Loop() {
					c.launch()
				}
			})
		}
		if err := s.Synchronize(); err != nil {
			b.Fatal(err)
		}
	}
}

func copyBenches(o operands, d *Device, s device.Stream) []memoryBench {
	var cases []memoryBench
	for _, rows := range []int{16, benchTokens, benchVocabulary} {
		x, y := o.f(rows, benchHidden), o.f(rows, benchHidden)
		cases = append(cases, memoryBench{fmt.Sprintf("Copy-%dx%d", rows, benchHidden), 2 * x.Len(), func() { d.Copy(s, y, x) }})
	}
	return cases
}

// activationBenches are the operators on a micro batch's activations.
func activationBenches(o operands, d *Device, s device.Stream) []memoryBench {
	const n, wide = benchTokens * benchHidden, benchTokens * benchWidth
	x, y, z, r := o.f(benchTokens, benchHidden), o.f(benchTokens, benchHidden), o.f(benchTokens, benchHidden), o.f(benchTokens, benchHidden)
	gamma, dgamma, rstd := o.f(benchHidden), o.f(benchHidden), o.f(benchTokens)
	gateUp, activated := o.f(benchTokens, 2*benchWidth), o.f(benchTokens, benchWidth)
	dGateUp := o.f(benchTokens, 2*benchWidth)
	qkv := o.f(benchTokens, 3*benchHidden)
	q := qkv.Narrow(1, 0, benchHidden).Split(1, benchHeads, benchDim).Split(0, benchBatch, benchSequence)
	cos, sin := o.f(benchSequence, benchDim), o.f(benchSequence, benchDim)
	logits, losses, labels := o.f(benchChunk, benchVocabulary), o.f(benchChunk), o.tensor(device.Int32, benchChunk)
	sum := o.tensor(device.Float64, 1)
	return []memoryBench{
		{"Add", 3 * n, func() { d.Add(s, y, x, z) }},
		{"Zero", n, func() { d.Zero(s, x) }},
		{"Sum", benchTokens, func() { d.Sum(s, sum, rstd) }},
		{"AddBias", 2 * n, func() { d.AddBias(s, y, gamma) }},
		{"AddBiasBackward", n, func() { d.AddBiasBackward(s, dgamma, y, false) }},
		{"RMSNorm", 2 * n, func() { d.RMSNorm(s, y, rstd, x, gamma, 1e-5) }},
		{"AddRMSNorm", 4 * n, func() { d.AddRMSNorm(s, r, rstd, y, x, z, gamma, 1e-5) }},
		{"RMSNormBackwardInput", 4 * n, func() { d.RMSNormBackwardInput(s, r, y, x, rstd, gamma, z) }},
		{"RMSNormBackwardWeight", 2 * n, func() { d.RMSNormBackwardWeight(s, dgamma, y, x, rstd, false) }},
		{"RoPE", 2 * n, func() { d.RoPE(s, q, q, cos, sin, kernels.Tensor{}, kernels.RoPEOptions{}) }},
		{"SwiGLU", 3 * wide, func() { d.SwiGLU(s, activated, gateUp) }},
		{"SwiGLUBackward", 5 * wide, func() { d.SwiGLUBackward(s, dGateUp, activated, gateUp) }},
		{"CrossEntropy", 2 * logits.Len(), func() { d.CrossEntropy(s, losses, logits, logits, labels, 1e-3) }},
	}
}

// parameterBenches are the operators on the table of embeddings, the largest parameter.
func parameterBenches(o operands, d *Device, s device.Stream) []memoryBench {
	const n = benchVocabulary * benchHidden
	p, m, v, g := o.f(benchVocabulary, benchHidden), o.f(benchVocabulary, benchHidden), o.f(benchVocabulary, benchHidden), o.f(benchVocabulary, benchHidden)
	square := f32(v)
	for i := range square {
		square[i] *= square[i]
	}
	sums, clip := o.tensor(device.Float64, kernels.SquaredNormBlocks(n)), o.tensor(device.Float64, 3)
	copy(f64(clip), []float64{1, 0.5, 1})
	x, ids := o.f(benchTokens, benchHidden), o.tensor(device.Int32, benchTokens)
	for i, list := 0, i32(ids); i < len(list); i++ {
		list[i] = int32(i * 7919 % benchVocabulary)
	}
	step := kernels.AdamWOptions{LR: 1e-6, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Step: 9}
	return []memoryBench{
		{"ZeroTable", n, func() { d.Zero(s, g) }},
		{"AddTable", 3 * n, func() { d.Add(s, g, g, p) }},
		{"SquaredNorm", n, func() { d.SquaredNorm(s, sums, g) }},
		{"AdamW", 7 * n, func() { d.AdamW(s, p, m, v, g, clip, step) }},
		{"Embedding", 2 * benchTokens * benchHidden, func() { d.Embedding(s, x, p, ids) }},
		{"EmbeddingBackward", n + 2*benchTokens*benchHidden, func() { d.EmbeddingBackward(s, g, x, ids, false) }},
		{"EmbeddingBackwardAccumulate", 3 * benchTokens * benchHidden, func() { d.EmbeddingBackward(s, g, x, ids, true) }},
	}
}
