package model

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"lockstep/kernels/device"
	"lockstep/spmd/random"
)

// A Tuning says what of a model is trained, where that is not all of it.
type Tuning struct {
	// Freeze are patterns of the names of parameters that stay as they are; * stands for any text.
	Freeze []string
	// LoRA adapters are trained, and everything else is frozen. nil: there are none.
	LoRA *LoRA
	// FrozenDType is the type in which the frozen matrices of embeddings, linear layers and experts are kept, Float32 or
	// BFloat16; 0 means Float32. Routers stay in Float32.
	FrozenDType device.DType
}

// Module names and the parts that PEFT adds to them for its two matrices.
const (
	weightSuffix = ".weight"
	loraA        = ".lora_A.weight"
	loraB        = ".lora_B.weight"
)

// Tune freezes parameters and adds adapters. It comes before Bind. Its error names a pattern that matches nothing, or says that
// nothing is left to train.
func (m *Model) Tune(t Tuning) error {
	all := slices.Concat(m.Parameters, m.Frozen, m.elsewhere)
	if err := freeze(all, t); err != nil {
		return err
	}
	m.Parameters, m.Frozen = nil, nil
	for _, p := range all {
		switch {
		case p.elsewhere:
		case p.frozen:
			m.Frozen = append(m.Frozen, p)
		default:
			m.Parameters = append(m.Parameters, p)
		}
	}
	if t.LoRA != nil {
		if err := m.adapt(t.LoRA); err != nil {
			return err
		}
	}
	m.values = values{count(m.Parameters), count(m.Frozen)}
	for _, p := range m.elsewhere {
		if p.frozen {
			m.values.frozen += p.Slice.WholeLen()
		} else {
			m.values.trained += p.Slice.WholeLen()
		}
	}
	if m.values.trained == 0 {
		return fmt.Errorf("all parameters are frozen")
	}
	if t.FrozenDType == device.BFloat16 {
		for _, u := range m.matrices() {
			if u.frozen() {
				u.dtype = t.FrozenDType
			}
		}
	}
	m.place()
	return nil
}

// matrices returns the uses of the embedding's table, of linear layers and of experts.
func (m *Model) matrices() []*Use {
	uses := slices.Clone(m.table.uses)
	for _, b := range m.blocks() {
		for _, x := range b.linears() {
			uses = append(uses, x.weight)
		}
		if x, ok := b.feedForward.(*mixture); ok {
			uses = append(uses, x.gateUp, x.down)
		}
	}
	output := m.Layers[len(m.Layers)-1].(*head)
	uses = append(uses, output.output.weight)
	for _, p := range output.predictors {
		uses = append(uses, p.project.weight)
	}
	return uses
}

// freeze marks what is not trained.
func freeze(parameters []*Parameter, t Tuning) error {
	for _, pattern := range t.Freeze {
		matched := false
		for _, p := range parameters {
			ok, err := path.Match(pattern, p.Name)
			if err != nil {
				return fmt.Errorf("%q is no pattern: %w", pattern, err)
			}
			p.frozen, matched = p.frozen || ok, matched || ok
		}
		if !matched {
			return fmt.Errorf("%q matches no parameter; the names are like %s", pattern, parameters[min(1, len(parameters)-1)].Name)
		}
	}
	if t.LoRA != nil {
		for _, p := range parameters {
			p.frozen = true
		}
	}
	return nil
}

// adapt adds adapters to the linears whose projections match the targets.
func (m *Model) adapt(o *LoRA) error {
	t := &targets{LoRA: o, matched: make([]bool, len(o.Targets))}
	for _, b := range m.blocks() {
		for _, l := range b.linears() {
			if err := m.adaptLinear(l, t); err != nil {
				return err
			}
		}
		if x, ok := b.feedForward.(*mixture); ok {
			if err := m.adaptExperts(x, t); err != nil {
				return err
			}
		}
	}
	for i, ok := range t.matched {
		if !ok {
			return fmt.Errorf("%q matches no module; there are %s", o.Targets[i], strings.Join(t.modules, ", "))
		}
	}
	return nil
}

// targets are the patterns of the modules that are adapted.
type targets struct {
	*LoRA
	matched []bool   // by pattern: whether there is such a module
	modules []string // the last parts of the names of all modules
}

// match reports whether a module is a target. A pattern is compared with as many of the last parts of the module's name as it
// has itself.
func (t *targets) match(module string) (target bool, err error) {
	parts := strings.Split(module, ".")
	if last := parts[len(parts)-1]; !slices.Contains(t.modules, last) {
		t.modules = append(t.modules, last)
	}
	for i, pattern := range t.Targets {
		n := min(len(parts), strings.Count(pattern, ".")+1)
		ok, err := path.Match(pattern, strings.Join(parts[len(parts)-n:], "."))
		if err != nil {
			return false, fmt.Errorf("%q is no pattern: %w", pattern, err)
		}
		target, t.matched[i] = target || ok, t.matched[i] || ok
	}
	return target, nil
}

// adaptLinear adds adapters to the projections of a linear that match a target.
func (m *Model) adaptLinear(l *linear, t *targets) error {
	var downs []*Parameter
	add := &lora{rank: t.Rank, scale: t.Scale(), rate: t.Dropout, seed: t.Seed}
	column := 0
	downReducers, upReducers := m.adapterReducers(l.split, l.weight.reducers)
	for _, w := range l.weight.Parameters {
		module := strings.TrimSuffix(w.Name, weightSuffix)
		target, err := t.match(module)
		if err != nil {
			return err
		}
		if target {
			down, up := m.newAdapter(module, t.Rank, l.split, w)
			m.Parameters = append(m.Parameters, down, up)
			downs = append(downs, down)
			add.up = append(add.up, loraUp{weight: newUse(upReducers, up), from: column, to: column + w.Shape[0]})
		}
		column += w.Shape[0]
	}
	if downs != nil {
		add.down = newUse(downReducers, downs...)
		add.random = random.New(t.Seed, "dropout", downs[0].Name)
		if l.before != nil && l.before.lora != nil {
			add.random = l.before.lora.random
		}
		l.lora = add
	}
	return nil
}

// newAdapter returns A and B for a projection w, or another one like it. Tensor ranks share what they share of w: the rows of B where those
// are outputs, the columns of A where they are inputs.
func (m *Model) newAdapter(module string, rank int, s split, w *Parameter) (down, up *Parameter) {
	down = m.Partition.parameter(module+loraA, Uniform, rank, w.Slice.Whole[1])
	up = m.Partition.parameter(module+loraB, Zeros, w.Slice.Whole[0], rank)
	switch s {
	case splitOutputs:
		up.cut(0, w.Slice.From[0], w.Slice.From[0]+w.Shape[0]).copy = w.copy
	case splitInputs:
		down.cut(1, w.Slice.From[1], w.Slice.From[1]+w.Shape[1])
	}
	down.adapter, up.adapter = true, true
	return down, up
}

// adapterReducers returns which ranks add up the gradients of A and of B of a weight that has the given ones. The matrix that
// all tensor ranks have whole
// meets a part of a sum on each: A the gradient of what B reads, B what A gives.
func (m *Model) adapterReducers(s split, weight Reducers) (down, up Reducers) {
	switch s {
	case splitOutputs:
		return m.Partition.summed(), weight
	case splitInputs:
		return Replicas, m.Partition.summed()
	}
	return weight, weight
}

// Adapted returns the last parts of the names of the adapted modules, sorted.
func (m *Model) Adapted() []string {
	var names []string
	for _, p := range m.Parameters {
		if module, ok := strings.CutSuffix(p.Name, loraA); ok && p.adapter {
			names = append(names, module[strings.LastIndex(module, ".")+1:])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
