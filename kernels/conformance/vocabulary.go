package conformance

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// partsOf cuts a vocabulary of v into unequal parts, the first of one id.
func partsOf(v int) []kernels.Vocabulary {
	parts := []kernels.Vocabulary{{First: 0, Whole: v}}
	for _, first := range []int{1, v / 2} {
		if last := parts[len(parts)-1].First; first > last && first < v {
			parts = append(parts, kernels.Vocabulary{First: first, Whole: v})
		}
	}
	return parts
}

// end returns the first id that part i no longer has.
func end(parts []kernels.Vocabulary, i int) int {
	if i+1 < len(parts) {
		return parts[i+1].First
	}
	return parts[i].Whole
}

// testEmbeddingPart gathers from each part of a table.
func testEmbeddingPart(s *suite) {
	const v = 11
	variants(func(n shape, l layout, _ bool) {
		list := someIDs(n.rows, v)
		ids, table := s.ids(list...), s.input(l, v, n.width)
		narrow := s.bfloat16Input(l, v, n.width)
		for i, p := range partsOf(v) {
			to := end(partsOf(v), i)
			for _, weight := range []operand{table, narrow} {
				values := weight.values()
				clear(values[:p.First*n.width])
				clear(values[to*n.width:])
				y := s.output(device.Float32, layout{pad: 3}, n.rows, n.width)
				want := make([]float64, y.Len())
				Embedding(want, values, list, n.width)
				s.d.EmbeddingPart(s.s, y.Tensor, weight.Narrow(0, p.First, to), ids.Tensor, p)
				s.check("EmbeddingPart y", y, want, tolerance{})
			}
		}
	})
}

// testCrossEntropyParts compares the loss and the gradient from parts of the logits with those of the whole.
func testCrossEntropyParts(s *suite) {
	const scale = 0.37
	for _, n := range append(shapes(), shape{2, 9001}) {
		for _, l := range layouts() {
			if n.rows == 0 {
				continue
			}
			list := someIDs(n.rows, n.width)
			list[n.rows-1] = -100
			labels, logits := s.ids(list...), s.input(l, n.rows, n.width)
			wantLoss, want := make([]float64, n.rows), make([]float64, logits.Len())
			CrossEntropy(wantLoss, want, logits.values(), list, n.width, scale)
			s.checkParts(logits, labels, wantLoss, want, n, scale)
		}
	}
}

func (s *suite) checkParts(logits, labels operand, wantLoss, want []float64, n shape, scale float64) {
	s.t.Helper()
	parts := partsOf(n.width)
	lossTol, tol := tolerance{relative: 6 * ulp, absolute: 12 * ulp}, tolerance{relative: 16 * ulp, absolute: 2 * ulp}
	stats := s.output(device.Float32, layout{}, len(parts), n.rows, kernels.CrossEntropyStats)
	columns := func(i int) kernels.Tensor { return logits.Narrow(1, parts[i].First, end(parts, i)) }
	for i, p := range parts {
		s.d.CrossEntropyPart(s.s, stats.Narrow(0, i, i+1).Reshape(n.rows, kernels.CrossEntropyStats), columns(i), labels.Tensor, p)
	}
	loss, dlogits := s.output(device.Float32, layout{}, n.rows), s.output(device.Float32, layout{pad: 3}, n.rows, n.width)
	for i, p := range parts {
		s.d.CrossEntropyMerge(s.s, loss.Tensor, kernels.Tensor{}, columns(i), labels.Tensor, stats.Tensor, p, scale)
		s.check("CrossEntropyMerge loss alone", loss, wantLoss, lossTol)
		s.d.CrossEntropyMerge(s.s, loss.Tensor, dlogits.Narrow(1, p.First, end(parts, i)), columns(i), labels.Tensor, stats.Tensor, p, scale)
		s.check("CrossEntropyMerge loss", loss, wantLoss, lossTol)
	}
	s.check("CrossEntropyMerge dlogits", dlogits, want, tol)
	for i, p := range parts {
		s.d.CrossEntropyMerge(s.s, loss.Tensor, columns(i), columns(i), labels.Tensor, stats.Tensor, p, scale)
	}
	s.check("CrossEntropyMerge dlogits in place of logits", logits, want, tol)
}
