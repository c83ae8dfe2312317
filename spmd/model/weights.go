package model

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/random"
)

// A WeightSource gives tensors by their Hugging Face names, converted to float32.
type WeightSource interface {
	Names() []string
	Shape(name string) ([]int, bool)
	// ReadFloat32 reads as many elements as fill dst, from element first of the tensor's row-major order on.
	ReadFloat32(name string, first int, dst []float32) error
}

// maxListed bounds how many tensors one message lists.
const maxListed = 12

// CheckWeights compares the source's names and shapes with the model's. It returns one error that lists every tensor that
// is missing, extra or of another shape, and a note on tensors that are skipped because the model does not need them.
func (m *Model) CheckWeights(src WeightSource) (note string, err error) {
	var wrong, skipped []string
	known := map[string]bool{}
	for _, p := range m.own() {
		known[p.Name] = true
		shape, ok := src.Shape(p.Name)
		switch {
		case !ok && m.predicts(p.Name):
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s %v is missing", p.Name, p.Slice.Whole))
		case !slices.Equal(shape, p.Slice.Whole):
			wrong = append(wrong, fmt.Sprintf("%s is %v, config.json makes it %v", p.Name, shape, p.Slice.Whole))
		}
	}
	for _, name := range src.Names() {
		switch {
		case known[name]:
		case strings.HasSuffix(name, ".rotary_emb.inv_freq"), name == "lm_head.weight" && m.Config.TieWordEmbeddings, m.predicts(name):
			skipped = append(skipped, name)
		default:
			shape, _ := src.Shape(name)
			wrong = append(wrong, fmt.Sprintf("%s %v is not part of this model", name, shape))
		}
	}
	if len(skipped) > 0 {
		note = "tensors that config.json makes unnecessary are skipped: " + list(skipped)
	}
	if len(wrong) > 0 {
		return note, fmt.Errorf("the weights do not fit config.json (%s): %s",
			m.Config.Family, list(wrong))
	}
	return note, nil
}

// predicts reports whether a tensor belongs to a module of multi-token prediction: one that is not built, a copy of the table or
// the projection that it shares, or one that begins at random because the weights do not have it.
func (m *Model) predicts(name string) bool {
	for i := range m.Config.Predictors {
		if strings.HasPrefix(name, fmt.Sprintf("model.layers.%d.", m.Config.NumHiddenLayers+i)) {
			return true
		}
	}
	return false
}

// own returns the model's own parameters: all but those of adapters.
func (m *Model) own() []*Parameter {
	return slices.DeleteFunc(slices.Concat(m.Parameters, m.Frozen), func(p *Parameter) bool { return p.adapter })
}

// adapters returns the parameters of adapters.
func (m *Model) adapters() []*Parameter {
	return slices.DeleteFunc(slices.Clone(m.Parameters), func(p *Parameter) bool { return !p.adapter })
}

// CheckAdapter compares the source's names and shapes with those of the model's adapters. It returns one error that lists every
// tensor that is missing, extra or of another shape.
func (m *Model) CheckAdapter(src WeightSource) error {
	var wrong []string
	known := map[string]bool{}
	for _, p := range m.adapters() {
		known[p.Name] = true
		shape, ok := src.Shape(p.Name)
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s %v is missing", p.Name, p.Slice.Whole))
		case !slices.Equal(shape, p.Slice.Whole):
			wrong = append(wrong, fmt.Sprintf("%s is %v, the model makes it %v", p.Name, shape, p.Slice.Whole))
		}
	}
	for _, name := range src.Names() {
		if !known[name] {
			wrong = append(wrong, fmt.Sprintf("%s is not part of this model's adapters", name))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the adapter does not fit the model: %s", list(wrong))
	}
	return nil
}

func list(items []string) string {
	if len(items) > maxListed {
		return strings.Join(items[:maxListed], ", ") + fmt.Sprintf(", and %d more", len(items)-maxListed)
	}
	return strings.Join(items, ", ")
}

// writeElements bounds the host memory that a piece of a parameter takes on its way to the device: 1 MiB. A run's heap stays as large as it was at its start, because steps allocate nothing.
const writeElements = 256 << 10

// Initialize fills the bound weights on stream s: from src, or at random where src is nil. Random values depend on the seed,
// the parameter's name and the element's index in the whole tensor alone; adapters begin with them always. A failure of the device comes out of the
// stream.
func (m *Model) Initialize(d device.Device, s device.Stream, src WeightSource, seed uint64) error {
	for _, p := range m.own() {
		if err := m.fill(d, s, p, m.Initial(p, src, seed)); err != nil {
			return err
		}
	}
	for _, p := range m.adapters() {
		if err := m.fill(d, s, p, m.Initial(p, nil, seed)); err != nil {
			return err
		}
	}
	return nil
}

// InitializeAdapter fills the adapters from src.
func (m *Model) InitializeAdapter(d device.Device, s device.Stream, src WeightSource) error {
	for _, p := range m.adapters() {
		if err := m.fill(d, s, p, m.Initial(p, src, 0)); err != nil {
			return err
		}
	}
	return nil
}

// Initial returns what gives a parameter's elements their first values, from element first of the whole tensor on: those of src or,
// where src is nil or is allowed to lack the parameter, random ones.
func (m *Model) Initial(p *Parameter, src WeightSource, seed uint64) func(first int, values []float32) error {
	if src != nil && m.predicts(p.Name) {
		if _, ok := src.Shape(p.Name); !ok {
			src = nil
		}
	}
	if src != nil {
		return func(first int, values []float32) error { return src.ReadFloat32(p.Name, first, values) }
	}
	source := random.New(seed, "init", p.Name)
	return func(first int, values []float32) error {
		p.randomize(values, first, source, m.Config.InitializerRange)
		return nil
	}
}

// fill writes what this rank holds of one parameter, piece by piece.
func (m *Model) fill(d device.Device, s device.Stream, p *Parameter, initial func(first int, values []float32) error) error {
	buffer := make([]float32, min(writeElements, p.Slice.Len()))
	for from := 0; from < p.Slice.Len(); from += len(buffer) {
		piece := buffer[:min(len(buffer), p.Slice.Len()-from)]
		for r := range p.Slice.Range(from, from+len(piece)).Runs() {
			if err := initial(r.Whole, piece[r.Slice:r.Slice+r.Len]); err != nil {
				return err
			}
		}
		size := p.Weight.DType.Size()
		region := p.Weight.Region().Slice(from*size, (from+len(piece))*size)
		if p.Weight.DType == device.BFloat16 {
			d.Write(s, region, device.BytesOf(device.RoundBFloat16s(piece)))
		} else {
			d.Write(s, region, device.BytesOf(piece))
		}
	}
	return nil
}

// randomize fills values with the parameter's initial values from element from of the whole tensor on.
func (p *Parameter) randomize(values []float32, from int, source random.Source, std float64) {
	switch p.Init {
	case Normal:
		source.Normal(values, uint64(from))
		for i, v := range values {
			values[i] = float32(std) * v
		}
	case Ones:
		for i := range values {
			values[i] = 1
		}
	case Zeros:
		clear(values)
	case Uniform:
		bound := 1 / math.Sqrt(float64(p.Slice.Whole[len(p.Slice.Whole)-1]))
		for i := range values {
			values[i] = float32(bound * (2*source.Float64(uint64(from+i)) - 1))
		}
	}
}

// WriteTables fills tensors that PlaceTables placed with the rows of the given positions.
func WriteTables(c *Config, d device.Device, s device.Stream, cos, sin kernels.Tensor, positions []int) {
	all := slices.Max(positions) + 1
	cosines, sines := c.RoPE.Tables(all, c.HeadDim)
	for _, table := range []struct {
		to   kernels.Tensor
		from []float32
	}{{cos, cosines}, {sin, sines}} {
		rows := make([]float32, 0, table.to.Len())
		for _, p := range positions {
			rows = append(rows, table.from[p*c.HeadDim:(p+1)*c.HeadDim]...)
		}
		d.Write(s, table.to.Region(), device.BytesOf(rows))
	}
}

// PlaceTables places the rotary tables in a.
func PlaceTables(c *Config, a *kernels.Arena, positions int) (cos, sin kernels.Tensor) {
	return a.Tensor(device.Float32, positions, c.HeadDim), a.Tensor(device.Float32, positions, c.HeadDim)
}
