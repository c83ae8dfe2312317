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
	matched := make([]bool, len(o.Targets))
	var modules []string
	for _, b := range m.blocks() {
		for _, l := range b.linears() {
			if err := m.adaptLinear(l, o, matched, &modules); err != nil {
				return err
			}
		}
	}
	for i, ok := range matched {
		if !ok {
			return fmt.Errorf("%q matches no module; there are %s", o.Targets[i], strings.Join(modules, ", "))
		}
	}
	return nil
}

// adaptLinear adds adapters to the projections of a linear that match a target. It notes which targets have matched, and the
// last parts of the modules' names.
func (m *Model) adaptLinear(l *linear, o *LoRA, matched []bool, modules *[]string) error {
	var downs []*Parameter
	add := &lora{rank: o.Rank, scale: o.Scale(), rate: o.Dropout, seed: o.Seed}
	column := 0
	downReducers, upReducers := m.adapterReducers(l)
	for _, w := range l.weight.Parameters {
		module := strings.TrimSuffix(w.Name, weightSuffix)
		last := module[strings.LastIndex(module, ".")+1:]
		if !slices.Contains(*modules, last) {
			*modules = append(*modules, last)
		}
		target := false
		for i, pattern := range o.Targets {
			ok, err := path.Match(pattern, last)
			if err != nil {
				return fmt.Errorf("%q is no pattern: %w", pattern, err)
			}
			target, matched[i] = target || ok, matched[i] || ok
		}
		if target {
			down, up := m.newAdapter(module, o.Rank, l, w)
			m.Parameters = append(m.Parameters, down, up)
			downs = append(downs, down)
			add.up = append(add.up, loraUp{weight: newUse(upReducers, up), from: column, to: column + w.Shape[0]})
		}
		column += w.Shape[0]
	}
	if downs != nil {
		add.down = newUse(downReducers, downs...)
		add.random = random.New(o.Seed, "dropout", downs[0].Name)
		if l.before != nil && l.before.lora != nil {
			add.random = l.before.lora.random
		}
		l.lora = add
	}
	return nil
}

// newAdapter returns A and B for the projection w of a linear. Tensor ranks share what they share of w: the rows of B where those
// are outputs, the columns of A where they are inputs.
func (m *Model) newAdapter(module string, rank int, l *linear, w *Parameter) (down, up *Parameter) {
	down = m.Partition.parameter(module+loraA, Uniform, rank, w.Slice.Whole[1])
	up = m.Partition.parameter(module+loraB, Zeros, w.Slice.Whole[0], rank)
	switch l.split {
	case splitOutputs:
		up.cut(0, w.Slice.From[0], w.Slice.From[0]+w.Shape[0]).copy = w.copy
	case splitInputs:
		down.cut(1, w.Slice.From[1], w.Slice.From[1]+w.Shape[1])
	}
	down.adapter, up.adapter = true, true
	return down, up
}

// adapterReducers returns which ranks add up the gradients of A and of B of a linear. The matrix that all tensor ranks have whole
// meets a part of a sum on each: A the gradient of what B reads, B what A gives.
func (m *Model) adapterReducers(l *linear) (down, up Reducers) {
	switch l.split {
	case splitOutputs:
		return m.Partition.summed(), l.weight.reducers
	case splitInputs:
		return Replicas, m.Partition.summed()
	}
	return l.weight.reducers, l.weight.reducers
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
