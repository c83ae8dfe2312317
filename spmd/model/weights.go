package model

import (
	"fmt"
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
	// ReadFloat32Rows reads the rows from first on, as many as fill dst. A row is what one index of the first dimension
	// selects.
	ReadFloat32Rows(name string, first int, dst []float32) error
}

// maxListed bounds how many tensors one message lists.
const maxListed = 12

// CheckWeights compares the source's names and shapes with the model's. It returns one error that lists every tensor that
// is missing, extra or of another shape, and a note on tensors that are skipped because the model does not need them.
func (m *Model) CheckWeights(src WeightSource) (note string, err error) {
	var wrong, skipped []string
	known := map[string]bool{}
	for _, p := range m.Parameters {
		known[p.Name] = true
		shape, ok := src.Shape(p.Name)
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s %v is missing", p.Name, p.Shape))
		case !slices.Equal(shape, p.Shape):
			wrong = append(wrong, fmt.Sprintf("%s is %v, config.json makes it %v", p.Name, shape, p.Shape))
		}
	}
	for _, name := range src.Names() {
		switch {
		case known[name]:
		case strings.HasSuffix(name, ".rotary_emb.inv_freq"), name == "lm_head.weight" && m.Config.TieWordEmbeddings:
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

func list(items []string) string {
	if len(items) > maxListed {
		return strings.Join(items[:maxListed], ", ") + fmt.Sprintf(", and %d more", len(items)-maxListed)
	}
	return strings.Join(items, ", ")
}

// writeElements bounds the host memory that a piece of a parameter takes on its way to the device, where a row is no longer:
// 1 MiB. A run's heap stays as large as it was at its start, because steps allocate nothing.
const writeElements = 256 << 10

// Initialize fills the bound weights on stream s: from src, or at random where src is nil. Random values depend on the seed,
// the parameter's name and the element's index alone. A failure of the device comes out of the stream.
func (m *Model) Initialize(d device.Device, s device.Stream, src WeightSource, seed uint64) error {
	var piece []float32
	for _, p := range m.Parameters {
		source, width := random.New(seed, "init", p.Name), p.Len()/p.Shape[0]
		rows := max(1, writeElements/width)
		for row := 0; row < p.Shape[0]; row += rows {
			from, to := row*width, min(row+rows, p.Shape[0])*width
			piece = slices.Grow(piece[:0], to-from)[:to-from]
			if src == nil {
				p.randomize(piece, from, source, m.Config.InitializerRange)
			} else if err := src.ReadFloat32Rows(p.Name, row, piece); err != nil {
				return err
			}
			d.Write(s, p.Weight.Region().Slice(from*device.Float32.Size(), to*device.Float32.Size()), device.BytesOf(piece))
		}
	}
	return nil
}

// randomize fills values with the parameter's initial values from element from on.
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
	}
}

// WriteTables fills tensors that PlaceTables placed.
func WriteTables(c *Config, d device.Device, s device.Stream, cos, sin kernels.Tensor) {
	cosines, sines := c.RoPE.Tables(cos.Shape[0], c.HeadDim)
	d.Write(s, cos.Region(), device.BytesOf(cosines))
	d.Write(s, sin.Region(), device.BytesOf(sines))
}

// PlaceTables places the rotary tables in a.
func PlaceTables(c *Config, a *kernels.Arena, positions int) (cos, sin kernels.Tensor) {
	return a.Tensor(device.Float32, positions, c.HeadDim), a.Tensor(device.Float32, positions, c.HeadDim)
}
