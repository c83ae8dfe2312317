package model

import (
	"fmt"

	"lockstep/kernels"
)

// expertLoRA holds the adapters of one matrix of each expert that this rank holds, which may be several projections as one, as lora
// does those of a linear. Each product is one operator for all experts. There is no dropout: rows that have come from other
// ranks have lost their places in their samples, and PEFT has none here either.
type expertLoRA struct {
	rank  int
	scale float64
	down  *Use     // [held*k*rank, in]: for each expert A of each of k projections
	up    []loraUp // [held*out, rank]: for each expert B of one projection
}

// expertLoRARecord is what the adapters of a matrix take of a micro batch.
type expertLoRARecord struct {
	low  kernels.Tensor // [R, k*rank]: scale * x A^T, within one call
	dLow kernels.Tensor // [R, k*rank]: scale * dy B, for the gradients of weights
}

// uses lists the adapters' uses; l may be nil, as in all methods.
func (l *expertLoRA) uses() []*Use {
	if l == nil {
		return nil
	}
	uses := []*Use{l.down}
	for _, u := range l.up {
		uses = append(uses, u.weight)
	}
	return uses
}

// place places a record for a number of rows; delayed holds what is for the gradients of weights.
func (l *expertLoRA) place(rows int, held int, mem *Memory, delayed *kernels.Arena) (r expertLoRARecord) {
	if l != nil {
		width := l.down.shape[0] / held
		r.low, r.dLow = mem.activation(mem.Scratch, rows, width), mem.activation(delayed, rows, width)
	}
	return r
}

// narrow returns the record of the first n rows.
func (r expertLoRARecord) narrow(n int) expertLoRARecord {
	if !r.low.IsZero() {
		r.low, r.dLow = r.low.Narrow(0, 0, n), r.dLow.Narrow(0, 0, n)
	}
	return r
}

// columns returns the columns of x [R, k*rank] that belong to the i-th projection.
func (l *expertLoRA) columns(x kernels.Tensor, i int) kernels.Tensor {
	return x.Narrow(1, i*l.rank, (i+1)*l.rank)
}

// lower computes r.low from x [R,in].
func (l *expertLoRA) lower(c *Context, m *mixture, r expertLoRARecord, x, offsets kernels.Tensor) {
	c.Kernels.GroupedMatMul(c.Stream, r.low, x, m.matrices(l.down.Weight()), offsets, inTypeOf(x, kernels.MatMulOptions{TransB: true}))
	c.Kernels.Dropout(c.Stream, r.low, r.low, kernels.DropoutOptions{Scale: l.scale})
}

// forward adds scale * x A^T B^T to y [R,out].
func (l *expertLoRA) forward(c *Context, m *mixture, r expertLoRARecord, y, x, offsets kernels.Tensor) {
	if l == nil {
		return
	}
	l.lower(c, m, r, x, offsets)
	for i, u := range l.up {
		c.Kernels.GroupedMatMul(c.Stream, y.Narrow(1, u.from, u.to), l.columns(r.low, i), m.matrices(u.weight.Weight()), offsets, inTypeOf(x, kernels.MatMulOptions{TransB: true, Accumulate: true}))
	}
}

// backwardInput adds the adapters' part of the gradient of x to dx.
func (l *expertLoRA) backwardInput(c *Context, m *mixture, r expertLoRARecord, dx, dy, offsets kernels.Tensor) {
	if l == nil {
		return
	}
	l.lowerGradient(c, m, r, dy, offsets)
	c.Kernels.GroupedMatMul(c.Stream, dx, r.dLow, m.matrices(l.down.Weight()), offsets, inTypeOf(dx, kernels.MatMulOptions{Accumulate: true}))
}

// lowerGradient computes r.dLow from dy.
func (l *expertLoRA) lowerGradient(c *Context, m *mixture, r expertLoRARecord, dy, offsets kernels.Tensor) {
	if l == nil {
		return
	}
	for i, u := range l.up {
		c.Kernels.GroupedMatMul(c.Stream, l.columns(r.dLow, i), dy.Narrow(1, u.from, u.to), m.matrices(u.weight.Weight()), offsets, inTypeOf(dy, kernels.MatMulOptions{}))
	}
	c.Kernels.Dropout(c.Stream, r.dLow, r.dLow, kernels.DropoutOptions{Scale: l.scale})
}

// backwardWeight computes dA and dB of each projection from dy and x, as the options o say.
func (l *expertLoRA) backwardWeight(c *Context, m *mixture, g kernels.Tensor, r expertLoRARecord, dy, x, offsets kernels.Tensor, o kernels.MatMulOptions) {
	if l == nil {
		return
	}
	c.Kernels.GroupedMatMul(c.Stream, m.matrices(l.down.Gradient(g)), r.dLow, x, offsets, o)
	l.lower(c, m, r, x, offsets)
	for i, u := range l.up {
		c.Kernels.GroupedMatMul(c.Stream, m.matrices(u.weight.Gradient(g)), dy.Narrow(1, u.from, u.to), l.columns(r.low, i), offsets, o)
	}
}

// adaptExperts adds adapters to the projections of a mixture's experts that match a target.
func (m *Model) adaptExperts(x *mixture, t *targets) (err error) {
	outputs, inputs := splitOutputs, splitInputs
	if x.ranks > 1 {
		outputs, inputs = splitNothing, splitNothing
	}
	if x.gateUpLoRA, err = m.adaptMatrix(x, t, x.gateUp, outputs, "gate_proj", "up_proj"); err != nil {
		return err
	}
	x.downLoRA, err = m.adaptMatrix(x, t, x.down, inputs, "down_proj")
	return err
}

// adaptMatrix adds adapters to the projections that are one matrix of each expert.
func (m *Model) adaptMatrix(x *mixture, t *targets, use *Use, s split, projections ...string) (*expertLoRA, error) {
	var adapted []int
	for i, projection := range projections {
		target, err := t.matchExperts(x, projection)
		if err != nil {
			return nil, err
		}
		if target {
			adapted = append(adapted, i)
		}
	}
	if adapted == nil {
		return nil, nil
	}
	var downs []*Parameter
	ups := make([][]*Parameter, len(projections))
	for e := range x.Count {
		for _, i := range adapted {
			like := use.Parameters[e%x.held*len(projections)+i]
			down, up := m.newAdapter(x.expert(e)+"."+projections[i], t.Rank, s, like)
			if e/x.held != x.rank {
				down.elsewhere, up.elsewhere = true, true
				m.elsewhere = append(m.elsewhere, down, up)
				continue
			}
			m.Parameters = append(m.Parameters, down, up)
			downs, ups[i] = append(downs, down), append(ups[i], up)
		}
	}
	downReducers, upReducers := m.adapterReducers(s, use.reducers)
	l := &expertLoRA{rank: t.Rank, scale: t.Scale(), down: newUse(downReducers, downs...)}
	for _, i := range adapted {
		width := ups[i][0].Shape[0]
		l.up = append(l.up, loraUp{weight: newUse(upReducers, ups[i]...), from: i * width, to: (i + 1) * width})
	}
	return l, nil
}

// matchExperts reports whether a projection of all experts is a target.
func (t *targets) matchExperts(x *mixture, projection string) (bool, error) {
	n := 0
	for e := range x.Count {
		target, err := t.match(x.expert(e) + "." + projection)
		if err != nil {
			return false, err
		}
		if target {
			n++
		}
	}
	switch {
	case n == 0:
		return false, nil
	case n < x.Count:
		return false, fmt.Errorf("%d of %d experts' %s match a target in %s; adapt all of them, or none", n, x.Count, projection, x.name)
	case t.Dropout > 0:
		return false, fmt.Errorf("%s of experts has no dropout, as in PEFT, and lora.dropout is %v; set that to 0, or name other modules, such as shared_experts.%s", projection, t.Dropout, projection)
	}
	return true, nil
}
