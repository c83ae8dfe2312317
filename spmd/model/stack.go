package model

import (
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Model is a stack of layers. It holds no values until it is bound to memory.
type Model struct {
	Config    *Config
	Partition Partition
	// Layers are those of the whole model, whatever this rank holds.
	Layers []Layer
	// Parameters lists the trained parameters that this rank holds in a fixed order: embedding, blocks, final norm, head,
	// adapters. Without Tune and Hold they are all there are.
	Parameters []*Parameter
	// Frozen lists the others that it holds, in the same order.
	Frozen []*Parameter

	held      []bool       // by layer: whether this rank holds it
	elsewhere []*Parameter // experts of these and other layers that other ranks of its stage hold
	values    values       // of the whole model
	uses      []*Use       // of the layers that this rank holds, but for borrowed ones
	table     table
	layout    layout
}

// values are numbers of elements of all ranks together.
type values struct{ trained, frozen int }

// New builds the stack of a configuration, as one rank holds it. It allocates no memory for values.
func New(c *Config, part Partition) *Model {
	m := &Model{Config: c, Partition: part}
	b := &builder{config: c, Partition: part}
	first, end := part.cut(c.VocabSize)
	weights := b.weight("model.embed_tokens", c.VocabSize, c.HiddenSize).cut(0, first, end)
	input := newEmbedding(weights)
	m.Layers = append(m.Layers, input)
	for i := range c.NumHiddenLayers {
		m.Layers = append(m.Layers, newBlock(b, i))
	}
	output := newHead(b, weights)
	m.Layers = append(m.Layers, output)
	m.table.uses = []*Use{input.weight}
	for _, p := range output.predictors {
		m.table.uses = append(m.table.uses, p.table)
	}
	for _, p := range b.parameters {
		if p.elsewhere {
			m.elsewhere = append(m.elsewhere, p)
		} else {
			m.Parameters = append(m.Parameters, p)
		}
	}
	m.held = slices.Repeat([]bool{true}, len(m.Layers))
	m.values.trained = count(b.parameters)
	m.place()
	return m
}

// Hold makes this rank a stage of a pipeline: of the weights it holds those of the layers in runs alone. It comes after Tune and
// before Bind.
func (m *Model) Hold(runs ...Span) {
	m.placeRuns(runs)
	held := map[*Parameter]bool{}
	for _, u := range m.uses {
		for _, p := range u.Parameters {
			held[p] = true
		}
	}
	missing := func(p *Parameter) bool { return !held[p] }
	m.Parameters, m.Frozen = slices.DeleteFunc(m.Parameters, missing), slices.DeleteFunc(m.Frozen, missing)
}

// IsWhole reports whether this rank holds all layers, and all of each.
func (m *Model) IsWhole() bool {
	return m.Partition.Tensor <= 1 && m.Partition.Expert <= 1 && !slices.Contains(m.held, false)
}

// placeRuns gives the layers in runs their places.
func (m *Model) placeRuns(runs []Span) {
	for i := range m.held {
		m.held[i] = slices.ContainsFunc(runs, func(r Span) bool { return r.From <= i && i < r.To })
	}
	m.place()
}

// place gives the weights and gradients of the layers that this rank holds their places.
func (m *Model) place() {
	m.uses, m.layout = nil, layout{}
	last := len(m.Layers) - 1
	m.table.share(m.Config.TieWordEmbeddings, m.held[0], m.held[last])
	for i, l := range m.Layers {
		if m.held[i] {
			m.uses = append(m.uses, l.Uses()...)
		}
	}
	m.uses = slices.DeleteFunc(m.uses, func(u *Use) bool { return u.borrowed })
	m.layout.place(m.uses, &m.table)
}

// Recompute returns Placement.Layers: r for the transformer layers that are selected, KeepAll for all others.
func (m *Model) Recompute(r Recompute, selected []bool) []Recompute {
	layers := make([]Recompute, len(m.Layers))
	block := 0
	for i, l := range m.Layers {
		switch l.(type) {
		case *embedding, *head:
		default:
			if selected[block] {
				layers[i] = r
			}
			block++
		}
	}
	return layers
}

// NumParameters returns the number of values of the whole model, on all ranks together; a tied table counts once.
func (m *Model) NumParameters() int { return m.values.trained + m.values.frozen }

// NumTrained returns the number of trained ones.
func (m *Model) NumTrained() int { return m.values.trained }

func count(list []*Parameter) int {
	n := 0
	for _, p := range list {
		n += p.Slice.WholeLen()
	}
	return n
}

// IsHiddenMatrix reports whether p is a trained matrix that is neither the embedding's table nor the head's.
func (m *Model) IsHiddenMatrix(p *Parameter) bool {
	output := m.Layers[len(m.Layers)-1].(*head).output.weight
	return len(p.Shape) == 2 && !p.Untrained && p != m.table.parameter() && p != output.Parameters[0]
}

// Vocabulary returns how many rows of the embedding's table this rank has.
func (m *Model) Vocabulary() int { return m.table.uses[0].shape[0] }

// WeightElements returns the size of the flat buffer of trained weights, in elements; optimizer states have the same layout.
func (m *Model) WeightElements() int { return m.layout.weights }

// FrozenBytes returns the size of the buffer of frozen weights.
func (m *Model) FrozenBytes() int { return m.layout.frozen }

// GradientElements returns the size of a flat gradient buffer, in elements, with the given number of touched rows for each of
// this rank's uses of the embedding's table at its end, which has none where it is frozen. What comes before has the layout of
// the weights.
func (m *Model) GradientElements(rows int) int {
	if m.table.frozen() {
		rows = 0
	}
	return m.layout.dense + len(m.table.here)*rows*m.Config.HiddenSize
}

// Regions returns the parts of a gradient buffer that different ranks add up, in order. The last is that of Replicas, to which
// the touched rows at the buffer's end belong too.
func (m *Model) Regions() []Region { return m.layout.regions }

// Bind makes the parameters views of flat [WeightElements] Float32 and frozen [FrozenBytes] Uint8; the one or the other may
// be none where it would be empty.
func (m *Model) Bind(flat, frozen kernels.Tensor) error { return bind(flat, frozen, m.uses) }

// Slice returns the part of a flat buffer of the weights' layout, such as an optimizer's state, that belongs to p.
func (m *Model) Slice(flat kernels.Tensor, p *Parameter) kernels.Tensor {
	return kernels.NewTensor(flat.Storage, flat.Offset+p.offset*device.Float32.Size(), device.Float32, p.Shape...)
}
