package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
)

// An output is a directory for the trained model, or the adapters, with weights of one prefix.
type output struct{ dir, prefix string }

// export writes the trained model as a Hugging Face directory, or the adapters as a PEFT directory, and likewise the averaged weights
// if there is an average: on rank 0, from the checkpoint of the state, which has the slices of all ranks. What is there already is
// replaced only where the weights are new. All ranks return when the directories are there.
func (t *Trainer) export(ctx context.Context, trained bool) error {
	var outputs []output
	if t.Mesh.Rank == 0 {
		outputs = t.outputs(trained)
	}
	_, _, err := t.store.Restore(ctx, checkpoint.Want{
		Dir: t.saved.dir,
		Parts: func(l *checkpoint.Loaded) (parts []checkpoint.Part) {
			for _, o := range outputs {
				parts = append(parts, l.Parts(o.prefix)...)
			}
			return parts
		},
		Read: func(l *checkpoint.Loaded) error {
			for _, o := range outputs {
				if err := t.write(o.dir, l.Weights(o.prefix)); err != nil {
					return err
				}
				t.Log.Info("the trained model is written", "to", o.dir)
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("writing the trained model: %w", err)
	}
	return nil
}

// ModelDir is where the trained model is written, or its adapters.
func (l *Layout) ModelDir() string {
	if l.Config.LoRA.Rank > 0 {
		return filepath.Join(l.Config.Run.OutputDir, "adapter")
	}
	return filepath.Join(l.Config.Run.OutputDir, "model")
}

// HoldsModel reports whether this rank has all of the model in its memory.
func (l *Layout) HoldsModel() bool {
	return l.Model.IsWhole() && l.Config.Parallel.ZeROStage < 3
}

// outputs lists what is to be written.
func (t *Trainer) outputs(trained bool) (list []output) {
	known := "config.json"
	if t.Config.LoRA.Rank > 0 {
		known = "adapter_config.json"
	}
	all := []output{{t.ModelDir(), WeightPrefix}}
	if t.placed.average != nil {
		all = append(all, output{t.ModelDir() + "-ema", AveragePrefix})
	}
	for _, o := range all {
		if trained || !exists(filepath.Join(o.dir, known)) {
			list = append(list, o)
		}
	}
	return list
}

// write writes weights as a directory.
func (t *Trainer) write(dir string, weights *checkpoint.Weights) error {
	whole := model.New(t.Config.Architecture, model.Partition{})
	if err := whole.Tune(t.Config.Tuning()); err != nil {
		return err
	}
	var tensors []safetensors.Tensor
	for _, p := range whole.Parameters {
		tensor, err := weights.Tensor(p.Name, t.writtenAs(p))
		if err != nil {
			return err
		}
		tensors = append(tensors, tensor)
	}
	if t.Config.LoRA.Rank > 0 {
		return t.writeAdapter(dir, tensors)
	}
	frozen, closeSource, err := t.frozen(whole)
	if err != nil {
		return err
	}
	return errors.Join(t.writeModel(dir, append(tensors, frozen...)), closeSource())
}

// writtenAs returns the type that a parameter is written in. A model that was trained in bfloat16 is written so: that is what it is
// going to be used in, and what was trained, in float32, is in the checkpoints. But for two things: adapters, which PEFT keeps in
// float32 beside a model of any type, and what no gradient trains, the correction of a router's scores, for which
// Transformers does.
func (t *Trainer) writtenAs(p *model.Parameter) safetensors.DType {
	if t.Config.Train.Activations() == device.BFloat16 && t.Config.LoRA.Rank == 0 && !p.Untrained {
		return safetensors.BF16
	}
	return safetensors.F32
}

// frozen lists the parameters that are not trained, of the whole model. They are in no checkpoint: their values come from where they
// came from at first.
func (t *Trainer) frozen(whole *model.Model) (list []safetensors.Tensor, closeSource func() error, err error) {
	closeSource = func() error { return nil }
	if len(whole.Frozen) == 0 {
		return nil, closeSource, nil
	}
	pretrained, err := t.pretrained()
	if err != nil {
		return nil, nil, err
	}
	var src model.WeightSource
	if pretrained != nil {
		src, closeSource = pretrained, pretrained.Close
	}
	for _, p := range whole.Frozen {
		initial := whole.Initial(p, src, t.Config.Run.Seed)
		dtype := t.writtenAs(p)
		list = append(list, safetensors.Tensor{Name: p.Name, DType: dtype, Shape: p.Shape, Data: func(w io.Writer) error {
			values := make([]float32, min(p.Len(), pieceBytes/4))
			bytes := make([]byte, len(values)*dtype.Bits()/8)
			for first := 0; first < p.Len(); first += len(values) {
				values = values[:min(len(values), p.Len()-first)]
				if err := initial(first, values); err != nil {
					return err
				}
				bytes = bytes[:len(values)*dtype.Bits()/8]
				if err := safetensors.FromFloat32(bytes, values, dtype); err != nil {
					return err
				}
				if _, err := w.Write(bytes); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	return list, closeSource, nil
}

func (t *Trainer) writeModel(dir string, tensors []safetensors.Tensor) error {
	m := checkpoint.Model{Config: t.Config.Architecture.JSON(t.Config.Train.DType), Tensors: tensors, Files: map[string][]byte{}}
	if t.Config.Tokenizer != nil {
		var err error
		if m.Files, err = t.Config.Tokenizer.Files(); err != nil {
			return err
		}
	}
	if t.Config.Data.ChatTemplate != "" { // else it is one of the tokenizer's files
		m.Files[tokenizer.ChatTemplateName] = []byte(t.Config.Chat.Template())
	}
	if source := t.Config.Model.Path; source != "" {
		generation, err := checkpoint.ReadConfig(source, checkpoint.GenerationConfigName)
		if err != nil {
			return err
		}
		if generation != nil {
			m.Files[checkpoint.GenerationConfigName] = generation
		}
	}
	return checkpoint.WriteModel(dir, m)
}

func (t *Trainer) writeAdapter(dir string, tensors []safetensors.Tensor) error {
	l := t.Config.LoRA
	c := checkpoint.AdapterConfig{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, Dropout: l.Dropout, TargetModules: t.Model.Adapted(), BaseModel: t.Config.Model.Path}
	return checkpoint.WriteAdapter(dir, c, tensors)
}
